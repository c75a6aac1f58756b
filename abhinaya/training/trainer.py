"""The transformers Trainer with our order of batches and our rule for what a checkpoint holds."""

from __future__ import annotations

import atexit
import functools
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from transformers import (
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import rotate_checkpoints

from abhinaya.errors import CheckpointError, list_some
from abhinaya.loading.balance import EpochRows
from abhinaya.loading.sampling import LengthGroupedSampler
from abhinaya.progress import progress
from abhinaya.stopping.interruptions import outlast_signals
from abhinaya.training.interruptions import Watch, whole_checkpoint
from abhinaya.training.sharded import ShardedTrainer
from abhinaya.training.staged import StagedTrainer
from abhinaya.training.zero import ZeroTrainer

__all__ = ["EmotionTrainer"]

_logger = logging.getLogger(__name__)

# Of an `EmotionClassifier`, also where a launch or the compiler has wrapped it.
_HEAD = re.compile(r"(?:module\.|_orig_mod\.)*(?:pooling|head|attribute_heads)\.")


class _SetEpoch(TrainerCallback):
    """Tells the sampler its epoch, also when a run resumes in the middle of one.

    accelerate does so itself, but not through the wrapper that skips the batches already seen.
    """

    def __init__(self, sampler: LengthGroupedSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        self.sampler.set_epoch(math.floor((state.epoch or 0) + 1e-6))


class _EpochLog(TrainerCallback):
    """A bar on a terminal, and lines: each new best, and else about twenty in the whole run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stack = ExitStack()
        self.advance: Callable[[int], None] = lambda amount: None
        self.loss = float("nan")
        self.best = float("-inf")
        self.shown_at = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        shown = state.is_world_process_zero
        bar = progress(f"training {self.name}", state.max_steps, shown=shown, lines=False)
        self.advance = self.stack.enter_context(bar)
        self.advance(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.advance(1)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = logs or {}
        self.loss = logs.get("loss", self.loss)
        if not state.is_world_process_zero or "eval_macro_f1" not in logs:
            return
        is_best = logs["eval_macro_f1"] > self.best
        self.best = max(self.best, logs["eval_macro_f1"])
        if is_best or state.global_step - self.shown_at >= state.max_steps / 20:
            self.shown_at = state.global_step
            _logger.info(
                "%s: epoch %.3g of %.3g, %svalidation macro-F1 %.4f",
                self.name,
                state.epoch,
                args.num_train_epochs,
                "" if math.isnan(self.loss) else f"loss {self.loss:.3f}, ",  # not logged yet
                logs["eval_macro_f1"],
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.stack.close()


class EmotionTrainer(StagedTrainer, ZeroTrainer, ShardedTrainer):
    """Trainer of an `EmotionClassifier`.

    Args:
        name: of the run, for its log lines.
        lengths: length of each training row, to group similar ones.
        global_batch_size: rows per optimizer step over all processes.
        rows: draws the rows of an epoch; None takes each once.
        head_rate: learning rate of pooling and heads; None takes that of the rest.
        kwargs: as for the Trainer.
    """

    def __init__(
        self,
        *,
        name: str,
        lengths: Sequence[float],
        global_batch_size: int,
        rows: EpochRows | None = None,
        head_rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        seed = kwargs["args"].seed
        sampler = LengthGroupedSampler(lengths, global_batch_size, seed, rows=rows)
        super().__init__(sampler=sampler, **kwargs)
        self.add_callback(_SetEpoch(self._sampler))
        self.remove_callback(PrinterCallback)
        self.add_callback(_EpochLog(name))
        self._watch = Watch(self, self._sampler)
        self.add_callback(self._watch)
        self._head_rate = head_rate

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any]:
        return self._sampler

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return the optimizer, in which pooling and heads may have a rate of their own."""
        is_new = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if is_new and self._head_rate is not None:
            names = (self.model if model is None else model).named_parameters()
            heads = {id(p) for name, p in names if _HEAD.match(name)}
            for group in list(optimizer.param_groups):
                apart = [p for p in group["params"] if id(p) in heads]
                group["params"] = [p for p in group["params"] if id(p) not in heads]
                if apart:
                    optimizer.add_param_group({**group, "params": apart, "lr": self._head_rate})
        return optimizer

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader[Any]:
        """Return what reads clips, also while a signal lets the last step be finished.

        Readers live on from epoch to epoch, so the loader draws a seed for them once, and where a
        run is resumed once more: not out of the numbers that dropout uses.
        """
        loader: Any = super()._get_dataloader(*args, **kwargs)
        own = loader.base_dataloader
        is_left: Any = torch.zeros(1, dtype=torch.bool)
        is_left.share_memory_()
        atexit.register(is_left.fill_, True)
        own.worker_init_fn = functools.partial(_start_reader, own.worker_init_fn, is_left)
        own.generator = torch.Generator()
        return cast("DataLoader[Any]", loader)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Return what reads the clips of one validation.

        It draws the number that the sampler of training draws for an epoch.
        """
        torch.empty((), dtype=torch.int64).random_()
        loader: DataLoader[Any] = super().get_eval_dataloader(eval_dataset)
        return loader

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss of one micro-batch, which is watched."""
        loss: Tensor = super().training_step(*args, **kwargs)
        self._watch.add_loss(loss)
        return loss

    def prediction_step(self, *args: Any, **kwargs: Any) -> tuple[Tensor | None, Any, Any]:
        """Return no loss: the Trainer would average those of batches, not of rows.

        `compute_metrics` has the one of all rows, whatever the batches and processes were.
        """
        _, logits, labels = super().prediction_step(*args, **kwargs)
        return None, logits, labels

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Write a checkpoint whole or not at all."""
        name = f"checkpoint-{self.state.global_step}"
        with whole_checkpoint(Path(str(self.args.output_dir)) / name):
            super()._save_checkpoint(*args, **kwargs)

    def drop_old_checkpoints(self) -> None:
        """Delete those over `save_total_limit` that a kill has left while they were deleted."""
        rotate_checkpoints(
            str(self.args.output_dir),
            self.args.save_total_limit,
            self.state.best_model_checkpoint,
        )

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        """Write the trained tensors under the name that the Trainer looks for when it loads."""
        state = self.gather_state() if state_dict is None else state_dict
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        names = self.saved_names()
        state = {k: v.detach().cpu().contiguous() for k, v in state.items() if k in names}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _resuming(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with _resuming(checkpoint):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _resuming(checkpoint):
            super()._load_rng_state(checkpoint)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Refuse a checkpoint that does not hold exactly the trained tensors.

        The Trainer itself only warns, and goes on with random weights.
        """
        missing = sorted(set(load_result.missing_keys) & self.saved_names())
        if missing or load_result.unexpected_keys:
            raise CheckpointError(
                f"A checkpoint below {str(self.args.output_dir)!r} does not fit the model: "
                f"missing {list_some(missing) or 'nothing'}, "
                f"unexpected {list_some(load_result.unexpected_keys) or 'nothing'}. "
                "Delete the checkpoint to go on from an earlier one."
            )


def _start_reader(seed: Callable[[int], None] | None, is_left: Tensor, number: int) -> None:
    outlast_signals(lambda: bool(is_left))
    if seed is not None:
        seed(number)


@contextmanager
def _resuming(checkpoint: str | None) -> Iterator[None]:
    """Refuse files that can be read, but hold the state of something else."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as err:
        raise CheckpointError(
            f"{checkpoint!r} cannot be resumed: one of its files holds the state of something "
            "else. Delete it to go on from an earlier one."
        ) from err
