"""What a member brings: an encoder that may be frozen, and what is learned on top of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from abhinaya.errors import BadValueError
from abhinaya.processes import gather

__all__ = ["Backbone", "LayerMix", "freeze"]


class Backbone(nn.Module, ABC):
    """Turns a batch of model inputs into frames of features, in two steps.

    `forward_pretrained` is the published encoder; when all of it is frozen its output can be kept
    on disk. `forward_trained` is what is trained in any case: layer weights, projections, adapters
    of a language model.

    Attributes:
        encoder: the pre-trained encoder.
        n_features: D', the width of what `forward_trained` returns.
        context: names of the inputs that `forward_trained` takes and `forward_pretrained` does not,
            such as the tokens of a prompt. They are computed anew in every epoch, also where hidden
            states are stored.
        pretrained: names of the submodules whose weights were published. Of these a checkpoint
            holds trained parameters only, no buffers.
    """

    encoder: nn.Module
    n_features: int
    context: tuple[str, ...] = ()
    pretrained: tuple[str, ...] = ("encoder",)

    @abstractmethod
    # Each backbone names its own inputs; these two `Any` let it.
    def forward_pretrained(self, *args: Any, **inputs: Any) -> tuple[Tensor, Tensor]:
        """Return hidden states and where they are real.

        The rows of the result do not depend on what else is in the batch.

        Args:
            args: not used; a backbone takes its inputs by name.
            inputs: what the member's `InputBuilder.collate` made, without `context`.

        Returns:
            states: shape (B, N, T, D) with N hidden layers.
            mask: True where a frame holds signal, shape (B, T).
        """

    @abstractmethod
    # As above: each backbone names its own context.
    def forward_trained(
        self, states: Tensor, mask: Tensor, *args: Any, **context: Any
    ) -> tuple[Tensor, Tensor]:
        """Return features (B, T', D') and their mask (B, T') from hidden states.

        Args:
            states: shape (B, N, T, D).
            mask: shape (B, T).
            args: not used; a backbone takes its context by name.
            context: the inputs that the attribute `context` names.
        """

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return features (B, T', D') and mask (B, T') from inputs or stored hidden states.

        Args:
            inputs: what `find_states` takes, and what `context` names.
        """
        context = {name: inputs[name] for name in self.context}
        return self.forward_trained(*self.find_states(inputs), **context)

    def find_states(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return hidden states (B, N, T, D) and mask (B, T): stored ones, else computed ones.

        Args:
            inputs: what `forward_pretrained` takes, or `states` and `mask` that it returned before;
                what `context` names is passed over.
        """
        if "states" in inputs:
            return inputs["states"], inputs["mask"]
        own = {name: value for name, value in inputs.items() if name not in self.context}
        return self.forward_pretrained(**own)

    @property
    def encode_settings(self) -> dict[str, Any]:
        """What beside weights and audio decides the pre-trained output; part of a stored key."""
        return {}

    @property
    def parts(self) -> Mapping[str, Backbone]:
        """Backbones that it is made of, each with inputs of its own; by name, empty for most.

        The hidden states of each are stored for themselves.
        """
        return {}

    @property
    def is_frozen(self) -> bool:
        """True if no parameter of the encoder is trained."""
        return not _is_trained(self.encoder)

    @property
    def repeated_layers(self) -> list[str]:
        """Names of the classes of layers that every process runs equally often, as FSDP needs it.

        It then gathers the weights of one such layer at a time, and the others all at once.
        """
        lists = [module for module in self.modules() if type(module) is nn.ModuleList]
        return sorted({type(layer).__name__ for layers in lists for layer in layers})

    def train(self, mode: bool = True) -> Backbone:
        """Switch to training; frozen networks stay in evaluation mode, without dropout."""
        super().train(mode)
        for name in self.pretrained:
            network = self.get_submodule(name)
            if not _is_trained(network):
                network.eval()
        return self

    def enable_gradient_checkpointing(self) -> None:
        """Trade time for memory in the encoder's layers.

        Raises:
            BadValueError: if the encoder cannot do it.
        """
        # The first name replaces the second one in the course of transformers 5.
        names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
        enable: Any = next(
            (getattr(self.encoder, n) for n in names if hasattr(self.encoder, n)), None
        )
        if enable is None:
            raise BadValueError(
                f"{type(self.encoder).__name__} cannot checkpoint gradients. "
                "Set training.activation_checkpointing to false."
            )
        # Reentrant checkpointing loses the gradient when a layer's input needs none.
        enable({"use_reentrant": False})

    def prepare_export(self) -> None:
        """Replace, for good, what ONNX cannot hold by modules that compute the same; or nothing."""

    def save_adapter(self, folder: Path) -> bool:
        """Write low-rank adapters in PEFT's layout; False if there are none."""
        del folder
        return False


class LayerMix(nn.Module):
    """A learned, softmax-weighted sum of hidden layers, optionally standardised first.

    With w the weights, the result is sum_n softmax(w)[n] * states[n], as in SUPERB (Yang et al.
    2021, arXiv:2105.01051, section 3). One layer is passed through.

    Args:
        n_layers: N.
        n_features: D.
        standardize: subtract the mean and divide by the standard deviation of the training frames,
            per layer and feature; call `fit` before training.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, n_layers: int, n_features: int, *, standardize: bool = False) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(n_layers)) if n_layers > 1 else None
        self.standardize = standardize
        if standardize:
            self.register_buffer("mean", torch.zeros(n_layers, 1, n_features))
            self.register_buffer("std", torch.ones(n_layers, 1, n_features))

    def forward(self, states: Tensor) -> Tensor:
        """Return the mixed layers, shape (B, T, D), of `states`, shape (B, N, T, D)."""
        states = self.scale(states)
        if self.weights is None:
            return states.squeeze(1)
        weights = self.weights.softmax(dim=0).to(states.dtype)
        return torch.einsum("n,bntd->btd", weights, states)

    def scale(self, states: Tensor) -> Tensor:
        """Scale states (B, N, T, D) by what `fit` found, where that is asked for."""
        return (states - self.mean) / self.std if self.standardize else states

    @torch.no_grad()
    def fit(self, batches: Any) -> None:
        """Take mean and standard deviation from training data, in float64.

        Args:
            batches: iterable of (states (B, N, T, D), mask (B, T)); in a launch each process has
                its share of them, and all get the same numbers.
        """
        count = 0
        total = torch.zeros_like(self.mean, dtype=torch.float64).squeeze(1)  # (N, D)
        squares = total.clone()
        for states, mask in batches:
            frames = states.double() * mask[:, None, :, None]
            total += frames.sum((0, 2))
            squares += frames.square().sum((0, 2))
            count += int(mask.sum())
        shares = gather((count, total.cpu(), squares.cpu()))
        count, total, squares = (sum(parts[1:], parts[0]) for parts in zip(*shares, strict=True))
        if count < 2:
            raise BadValueError(f"Standardising needs at least two frames, got {count}.")
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        # A feature that never moves is left unscaled rather than divided by nothing.
        std = variance.sqrt()
        std = torch.where(std > 1e-8 * (1 + mean.abs()), std, torch.ones_like(std))
        self.mean.copy_(mean.unsqueeze(1))
        self.std.copy_(std.unsqueeze(1))


def freeze(module: nn.Module) -> None:
    """Stop training of every parameter of `module`."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
