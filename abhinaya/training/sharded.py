"""Training with weights split over the processes of a launch (FSDP2), with the checkpoints of one.

accelerate and torch's `fully_shard` split weights, gradients and optimizer. What is written is
gathered first, and holds trained tensors only: a checkpoint looks like that of one process, and
each kind of launch resumes what another one began.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import AutocastKwargs
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only
from transformers import Trainer

from abhinaya.errors import BadValueError, list_some
from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.processes import asks_for, is_main_process

__all__ = [
    "ShardedTrainer",
    "check_model",
    "check_sharding",
    "first_quantised",
    "gather",
    "make_whole",
    "scatter",
]

_logger = logging.getLogger(__name__)

_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd")

_NO = ("", "false", "no", "none", "0")

# What the launch file may ask for, which values work, and why others do not.
_NOT_POSSIBLE = (
    (
        "FSDP_ACTIVATION_CHECKPOINTING",
        _NO,
        "Set training.activation_checkpointing in the member's config",
    ),
    ("FSDP_IGNORED_MODULES", _NO, "What FSDP ignores would be trained apart in every process"),
    (
        "FSDP_AUTO_WRAP_POLICY",
        ("", "transformer_based_wrap", "no_wrap"),
        "Set TRANSFORMER_BASED_WRAP; members name their layers themselves",
    ),
    ("ACCELERATE_DYNAMO_BACKEND", _NO, "Compiled members have not been tried with FSDP"),
    ("ACCELERATE_USE_PARALLELISM_CONFIG", _NO, "Batches are split over all processes"),
)


def check_sharding(given: dict[str, Any]) -> None:
    """Refuse what a launch with FSDP may ask for and members cannot do; nothing without FSDP.

    Args:
        given: the member's own keys of TrainingArguments.

    Raises:
        BadValueError: if it asks for FSDP 1, or for something that would change what is trained.
    """
    if not asks_for("ACCELERATE_USE_FSDP"):
        return
    advice = "Launch with --config_file configs/accelerate/fsdp2.yaml, or correct your own file."
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise BadValueError(
            "ACCELERATE_USE_FSDP asks for FSDP, with which members are not trained in version "
            f"{version}, only in version 2 (fsdp_version). {advice}"
        )
    for key, allowed, reason in _NOT_POSSIBLE:
        if os.environ.get(key, "").lower() not in allowed:
            raise BadValueError(
                f"{key} is {os.environ[key]!r}, which members cannot be trained with. {reason}. "
                f"{advice}"
            )
    if given.get("save_only_model") or given.get("torch_compile"):
        key = "save_only_model" if given.get("save_only_model") else "torch_compile"
        raise BadValueError(f"training.{key} is true, but FSDP trains without it. Remove it.")
    optimizer = given.get("optim", "adamw_torch")
    if optimizer not in _OPTIMIZERS:
        raise BadValueError(
            f"training.optim is {str(optimizer)!r}, but with FSDP the optimizer is one of "
            f"{', '.join(_OPTIMIZERS)}. Choose one of them, or launch without FSDP."
        )
    # accelerate's own default. Only the first process would have weights until they are split, but
    # each of them computes features with the encoder, and statistics of them, before.
    if os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "false").lower() == "true":
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
        if is_main_process():
            _logger.warning(
                "fsdp_cpu_ram_efficient_loading is not done: every process reads the weights"
            )


def first_quantised(model: nn.Module) -> str | None:
    """Return the name of a parameter whose numbers are packed, so that it cannot be split."""
    return next((n for n, p in model.named_parameters() if not p.is_floating_point()), None)


def check_model(model: EmotionClassifier) -> None:
    """Refuse weights that FSDP cannot split, and say what it leaves out.

    Raises:
        BadValueError: if weights are quantised, or the launch file names other layers.
    """
    quantised = first_quantised(model)
    if quantised is not None:
        raise BadValueError(
            f"The weights of {quantised!r} are quantised, and FSDP cannot split such weights. Set "
            "weights (or llm_weights) to bf16, or launch without FSDP."
        )
    asked = os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "")
    layers = model.backbone.repeated_layers
    others = sorted({name for name in asked.split(",") if name}.difference(layers))
    if others:
        raise BadValueError(
            f"fsdp_transformer_layer_cls_to_wrap names {list_some(others)}, but the layers that "
            f"can be split one by one are {list_some(layers) or 'none'}. Leave the key out."
        )
    configs: list[Any] = [
        getattr(module, "config", None)
        for module in model.backbone.modules()
        if any(parameter.requires_grad for parameter in module.parameters())
    ]
    dropped = max(getattr(config, "layerdrop", 0.0) for config in [None, *configs])
    if dropped and is_main_process():
        _logger.warning(
            "layerdrop is %g in the base's config.json, but with FSDP transformers runs every "
            "layer, so none is dropped in training",
            dropped,
        )


def gather(tree: Any, *, keep: bool = True) -> Any:
    """Return the same with whole tensors on the CPU in place of parts; all processes must call it.

    Args:
        tree: dictionaries and lists of anything; tensors that are not split stay as they are.
        keep: False where the result is not needed; parts become None, to spare memory.
    """

    def whole(part: DTensor) -> Tensor | None:
        # Offloaded parts lie on the CPU, where their process group may not reach.
        there: Any = part.detach().to(part.device_mesh.device_type)
        full: Tensor = there.full_tensor()
        return full.cpu() if keep else None

    return tree_map_only(DTensor, whole, tree)


def scatter(whole: Tensor, like: Tensor | None) -> Tensor:
    """Return this process' part of a tensor that every process has, split and placed as `like`."""
    if not isinstance(like, DTensor) or whole.shape != like.shape:
        return whole
    part = distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
    return part.to(like.device)


def make_whole(model: EmotionClassifier, names: Iterable[str]) -> None:
    """Put whole tensors, on the CPU, in place of the parts: the model can be saved, not run.

    Every process must call this.
    """
    state = model.state_dict()  # it also ends what a forward pass has left gathered
    for name in names:
        if isinstance(state[name], DTensor):
            place, _, own = name.rpartition(".")
            owner = model.get_submodule(place)
            is_trained = getattr(owner, own).requires_grad
            setattr(owner, own, nn.Parameter(gather(state[name]), requires_grad=is_trained))


class ShardedTrainer(Trainer):
    """Trainer that writes and reads the files of one process, whatever the launch splits."""

    model: EmotionClassifier

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.is_fsdp_enabled:
            check_model(self.model)
            # accelerate would compute with all weights and inputs in bf16. The config means
            # autocast, as without FSDP: frozen weights keep their type, trained ones are float32.
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()
            # Of a wrapped layer's output; nobody changes it in place.
            warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        elif asks_for("ACCELERATE_USE_FSDP") and self.args.world_size > 1:
            _logger.warning(
                "The launch asks for FSDP, which accelerate does on accelerators only: here every "
                "process holds all weights"
            )

    def autocast_smart_context_manager(
        self, cache_enabled: bool | None = True
    ) -> AbstractContextManager[Any]:
        """Return the mixed precision of the config; without FSDP, accelerate sees to it."""
        if not self.is_fsdp_enabled:
            return super().autocast_smart_context_manager(cache_enabled)
        # What is gathered for one layer must not be kept, cast, until the end of the pass.
        context: AbstractContextManager[Any] = self.accelerator.autocast(
            AutocastKwargs(cache_enabled=False)
        )
        return context

    def saved_names(self) -> set[str]:
        """Return names of the trained tensors, and of what the loss has learned, if it does."""
        in_loss = {name for name in self.model.state_dict() if name.startswith("loss.")}
        return in_loss.union(self.model.trained_names())

    def gather_state(self) -> dict[str, Tensor]:
        """Return what a checkpoint holds; all processes must call it, the main one gets tensors."""
        names = self.saved_names()
        parts = {name: part for name, part in self.model.state_dict().items() if name in names}
        state: dict[str, Tensor] = gather(parts, keep=self.args.should_save)
        return state

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what is trained, in the one layout of all launches."""
        if self.is_fsdp_enabled:
            self._save(output_dir)
        else:
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        state = gather(self.optimizer.state_dict(), keep=self.args.should_save)
        if self.args.should_save:
            torch.save(state, Path(output_dir, "optimizer.pt"))
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir, "scheduler.pt"))

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        if not self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        own = self.model.state_dict()
        whole = load_file(Path(resume_from_checkpoint, "model.safetensors"))
        parts = {name: scatter(value, own.get(name)) for name, value in whole.items()}
        self._issue_warnings_after_load(self.model.load_state_dict(parts, strict=False))

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled:
            self._load_from_checkpoint(str(self.state.best_model_checkpoint))
        else:
            super()._load_best_model()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        # As the Trainer does, nothing is loaded where there is nothing.
        if not (self.is_fsdp_enabled and checkpoint and Path(checkpoint, "optimizer.pt").exists()):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        saved = torch.load(Path(checkpoint, "optimizer.pt"), map_location="cpu", weights_only=True)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        indices = [index for group in saved["param_groups"] for index in group["params"]]
        for index, parameter in zip(indices, parameters, strict=True):
            values = saved["state"].get(index, {})
            for key, value in values.items():
                if isinstance(value, Tensor):
                    values[key] = scatter(value, parameter)
        self.optimizer.load_state_dict(saved)
        schedule = torch.load(Path(checkpoint, "scheduler.pt"), weights_only=True)
        self.lr_scheduler.load_state_dict(schedule)
