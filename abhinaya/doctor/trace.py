"""What a step holds in memory: the model's own code is run without any memory for its tensors.

PyTorch's fake tensors have shapes, types and lives, and no content. Weights are fake, and all that
is computed from them; what is computed from the batch alone, such as masks and lengths, is real,
because models decide by it.
"""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["activation_bytes"]


def activation_bytes(
    model: nn.Module, batch: Mapping[str, Any], n_rows: int, *, trains: bool, autocast: bool
) -> int:
    """Return the most bytes that tensors of a step take at one time, weights and gradients aside.

    Args:
        model: an `EmotionClassifier`, on the meta device or not; its parameters become fake.
        batch: its inputs, real.
        n_rows: rows of the batch.
        trains: whether to go back too, with the settings of training.
        autocast: whether it computes in bfloat16 where PyTorch thinks fit.
    """
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    if getattr(model, "loss", None) is not None:
        model.loss = nn.CrossEntropyLoss()  # ours look at numbers, and all take next to nothing
    known = _fill(model.train(trains), fakes)
    labels = torch.zeros(n_rows, dtype=torch.long) if trains else None
    freezes = gc.get_freeze_count() == 0
    if freezes:
        gc.freeze()  # what is there already need not be looked through again and again
    with (
        _Peak(fakes, known) as peak,
        torch.set_grad_enabled(trains),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        output = model(batch, labels)
        if trains:
            output.loss.backward()
    if freezes:
        gc.unfreeze()
    inputs = [value for value in batch.values() if isinstance(value, Tensor)]
    most: int = peak.most
    return most + sum(value.nbytes for value in inputs)


def _fill(model: nn.Module, fakes: FakeTensorMode) -> list[Tensor]:
    """Make parameters and buffers fake tensors, with gradients, and return all of them."""
    made: dict[Tensor, Tensor] = {}

    def fake(value: Tensor) -> Tensor:
        if value not in made:
            with fakes:
                made[value] = torch.empty(value.shape, dtype=value.dtype, device="cpu")
            if isinstance(value, nn.Parameter):
                made[value] = nn.Parameter(made[value], requires_grad=value.requires_grad)
        return made[value]

    for module in model.modules():
        for values in (module._parameters, module._buffers):
            for name, value in list(values.items()):
                # Models may decide by small buffers that are real.
                if isinstance(value, nn.Parameter) or (value is not None and value.is_meta):
                    setattr(module, name, fake(value))
    for value in model.parameters():
        if value.requires_grad:
            with fakes:
                value.grad = torch.empty_like(value, requires_grad=False)
    grads = [value.grad for value in model.parameters() if value.grad is not None]
    return [*model.parameters(), *model.buffers(), *grads]


_LEEWAY = 1.05
"""By how much live tensors may grow before those in circles are looked for."""

_INDEXING = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
}


def _as_numbers(indices: list[Tensor | None]) -> list[Tensor | None]:
    """Return masks as the numbers of what they choose, whose shape a fake mask would not tell."""
    numbers: list[Tensor | None] = []
    for index in indices:
        is_mask = index is not None and index.dtype == torch.bool
        numbers += index.nonzero(as_tuple=True) if is_mask and index is not None else [index]
    return numbers


class _Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs operators, and counts the bytes of what they make as long as each tensor lives.

    Args:
        fakes: makes tensors fake.
        known: tensors that are not counted.

    Attributes:
        most: the most bytes at one time.
    """

    def __init__(self, fakes: FakeTensorMode, known: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.fakes = fakes
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}
        self.live = 0
        self.looked_at = 0
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        if any(isinstance(leaf, FakeTensor) for leaf in leaves):
            if func in _INDEXING:
                args = (args[0], _as_numbers(args[1]), *args[2:])
            args, kwargs = tree_map(self._fake, (args, kwargs))
        result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return result

    def _fake(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, FakeTensor):
            return value
        with self.fakes:
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.live += storage.nbytes()
            if self.live > _LEEWAY * max(self.looked_at, self.most / 2):
                # Tensors in a circle live until they are looked for, which may be now or never.
                gc.collect()
                self.looked_at = self.live
            self.most = max(self.most, self.live)
            weakref.finalize(storage, functools.partial(self._forget, key))

    def _forget(self, key: int) -> None:
        self.live -= self.sizes.pop(key)
