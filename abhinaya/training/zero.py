"""Training under DeepSpeed: ZeRO-2 shares out gradients and optimizer, ZeRO-3 the weights too.

The launch decides about it, not the config, so a run's digest does not depend on it. The Trainer
hands DeepSpeed the config's batch, accumulation, clipping and optimizer. What else would go wrong:

- DeepSpeed's own bf16 casts every weight, frozen encoders as well. Members run under autocast, as
  in any other launch: trained weights stay float32, frozen ones keep their type.
- Parts of the members are read by hand, not by `from_pretrained`. So every process reads all
  weights into the memory of its machine, and they are shared out afterwards.
- Checkpoints and `best/` hold whole tensors, and those that are trained only. The state of the
  optimizer is DeepSpeed's own, in files that only as many processes can go on with.
"""

from __future__ import annotations

import copy
import importlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.operations import convert_outputs_to_fp32
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from abhinaya.errors import BadValueError, CheckpointError, require_package
from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.processes import asks_for
from abhinaya.training.sharded import first_quantised

__all__ = ["ZeroTrainer", "check_deepspeed", "settle_deepspeed"]

# Under DeepSpeed each of them would do something else than the config says.
_REFUSED = ("fp16", "fp16_full_eval", "bf16_full_eval", "save_only_model", "torch_compile")


def settle_deepspeed(given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that a launch with DeepSpeed needs otherwise; none without it.

    Args:
        given: the config's own arguments.

    Raises:
        MissingPackageError: if DeepSpeed is not installed.
        BadValueError: if the config asks for what it cannot do.
    """
    if not asks_for("ACCELERATE_USE_DEEPSPEED"):
        return {}
    require_package("deepspeed", "A launch with DeepSpeed", "deepspeed")
    for key in _REFUSED:
        if given.get(key):
            raise BadValueError(
                f"training.{key} is set, which members are not trained with under DeepSpeed. "
                "Remove it (training.bf16 works), or launch without DeepSpeed: accelerate launch "
                "--config_file configs/accelerate/one-machine.yaml."
            )
    _quiet()
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
    on_cpu = given.get("use_cpu") or not torch.accelerator.is_available()
    # With use_cpu, accelerate would leave DeepSpeed out without a word.
    return {"bf16": False, **({"use_cpu": False, "ddp_backend": "gloo"} if on_cpu else {})}


def check_deepspeed(arguments: TrainingArguments) -> None:
    """Refuse a launch file whose values contradict the config; let weights be read as always.

    Raises:
        BadValueError: if one does.
    """
    own = _fill(arguments)
    if own.mismatches:
        listed = "; ".join(text.removeprefix("- ds ") for text in own.mismatches)
        raise BadValueError(
            f"The launch file's DeepSpeed section contradicts the config of the member: {listed}. "
            "Remove these keys from the launch file, or set them to auto."
        )
    # Else from_pretrained would share out the weights at once, and leave none for what follows.
    _integration().unset_hf_deepspeed_config()


def _integration() -> Any:
    from transformers.integrations import deepspeed

    return deepspeed  # it has no types


def _fill(arguments: TrainingArguments) -> Any:
    """Return DeepSpeed's config of the launch with the arguments' values in place of `auto`."""
    plugin: Any = arguments.deepspeed_plugin
    own = _integration().HfTrainerDeepSpeedConfig(copy.deepcopy(plugin.deepspeed_config))
    own.trainer_config_process(arguments)
    return own


def _quiet() -> None:
    """Put what DeepSpeed says on stderr: stdout is for the command's own result."""
    logger = logging.getLogger("DeepSpeed")
    logger.setLevel(logging.WARNING)
    importlib.import_module("deepspeed")  # it sets its logger up

    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            handler.setStream(sys.stderr)
    logger.setLevel(logging.WARNING)


class ZeroTrainer(Trainer):
    """Trainer whose checkpoints look the same under DeepSpeed as without it.

    Args:
        bf16: what the config says of it; the Trainer's own arguments do not, under DeepSpeed.
        kwargs: as for the Trainer.
    """

    model: EmotionClassifier

    def __init__(
        self, *, model: EmotionClassifier, args: TrainingArguments, bf16: bool, **kwargs: Any
    ) -> None:
        plugin = args.deepspeed_plugin
        if plugin is not None:
            if plugin.zero_stage == 3:
                _share_out(model, args)
            if bf16:
                # Another `forward` of this one object, as accelerate gives it without DeepSpeed. A
                # cast copy of a weight that was gathered for its layer must not be kept.
                context = torch.autocast(args.device.type, torch.bfloat16, cache_enabled=False)
                run = convert_outputs_to_fp32(context(model.forward))
                model.forward = run  # type: ignore[method-assign]
        super().__init__(model=model, args=args, **kwargs)

    @contextmanager
    def whole_weights(self, *, write: bool = False) -> Iterator[None]:
        """Keep whole trained weights in the model meanwhile; all processes must call this.

        Args:
            write: keep what the first process changes, in all processes.
        """
        if not self.is_deepspeed_enabled:
            yield
            return
        import deepspeed

        trained = [p for p in self.model.parameters() if p.requires_grad]
        with deepspeed.zero.GatheredParameters(trained, modifier_rank=0 if write else None):
            yield

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what is trained, in the one layout of all launches."""
        if not self.is_deepspeed_enabled:
            super().save_model(output_dir, _internal_call)
            return
        with self.whole_weights():
            self._save(output_dir)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_deepspeed_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # The Trainer leaves frozen weights out for PEFT's own models alone.
        engine: Any = self.model_wrapped
        engine.save_checkpoint(output_dir, exclude_frozen_parameters=True)
        schedule: Any = self.lr_scheduler
        if self.args.should_save:
            torch.save(schedule.state_dict(), Path(output_dir, "scheduler.pt"))

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None
    ) -> Any:
        if resume_from_checkpoint is not None:
            self._check_kind(Path(resume_from_checkpoint))
        prepare: Any = super()._prepare_for_training  # it has no types
        if not self.is_deepspeed_enabled or resume_from_checkpoint is None:
            return prepare(max_steps, train_dataloader, resume_from_checkpoint)
        prepared = prepare(max_steps, train_dataloader, None)
        engine: Any = self.model_wrapped
        try:
            # Not strict: the frozen weights are not in it.
            engine.load_checkpoint(resume_from_checkpoint, load_module_strict=False)
        except torch.OutOfMemoryError:
            raise
        except Exception as err:
            reason = str(err).strip().split("\n")[0]
            raise CheckpointError(
                f"{resume_from_checkpoint!r} cannot be resumed: {reason} Go on with as many "
                "processes and the same ZeRO stage as before, or delete it."
            ) from err
        self._load_optimizer_and_scheduler(resume_from_checkpoint)
        self._load_scaler(resume_from_checkpoint)
        return prepared

    def _check_kind(self, checkpoint: Path) -> None:
        """Refuse the optimizer of another kind of launch: the Trainer would begin a new one."""
        is_zero = any(checkpoint.glob("global_step*"))
        if is_zero != self.is_deepspeed_enabled:
            written, wanted = ("with", "with it") if is_zero else ("without", "without it")
            raise CheckpointError(
                f"{str(checkpoint)!r} was written {written} DeepSpeed, whose optimizer has files "
                f"of its own. Launch {wanted} again, or delete the checkpoints to begin anew."
            )

    def _load_best_model(self) -> None:
        if not self.is_deepspeed_enabled:
            super()._load_best_model()
            return
        state = load_file(Path(str(self.state.best_model_checkpoint), "model.safetensors"))
        with self.whole_weights(write=True):
            self._issue_warnings_after_load(self.model.load_state_dict(state, strict=False))


def _share_out(model: EmotionClassifier, args: TrainingArguments) -> None:
    """Split the weights over the processes as ZeRO-3 does, but one after the other.

    DeepSpeed alone would first move all of them to the device, where they may not fit.

    Raises:
        BadValueError: if the model cannot be run with weights that are shared out.
    """
    quantised = first_quantised(model)
    if quantised is not None:
        raise BadValueError(
            f"The weights of {quantised!r} are quantised, and ZeRO-3 cannot share out such "
            "weights. Set weights (or llm_weights) to bf16, or launch with zero2.yaml."
        )
    if not model.backbone.repeated_layers:
        raise BadValueError(
            "This model runs clips in groups of equal length, more of them in one process than in "
            "another, and so cannot gather weights layer by layer. Launch it with zero2.yaml."
        )
    import deepspeed

    deepspeed.zero.Init(module=model, config_dict_or_path=_fill(args).config)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(args.device))
