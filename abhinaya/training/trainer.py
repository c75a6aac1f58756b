"""The transformers Trainer with our order of batches and our rule for what a checkpoint holds."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Sampler
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from abhinaya.errors import CheckpointError, list_some
from abhinaya.loading.sampling import LengthGroupedSampler
from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.progress import progress

__all__ = ["EmotionTrainer"]

_logger = logging.getLogger(__name__)


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


class EmotionTrainer(Trainer):
    """Trainer of an `EmotionClassifier`.

    Args:
        name: of the run, for its log lines.
        lengths: length of each training row, to group similar ones.
        global_batch_size: rows per optimizer step over all processes.
        kwargs: as for the Trainer.
    """

    model: EmotionClassifier

    def __init__(
        self, *, name: str, lengths: Sequence[float], global_batch_size: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._sampler = LengthGroupedSampler(lengths, global_batch_size, self.args.seed)
        self.add_callback(_SetEpoch(self._sampler))
        self.remove_callback(PrinterCallback)
        self.add_callback(_EpochLog(name))

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any]:
        return self._sampler

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """Give a loader random numbers of its own, so that it takes none that dropout uses.

        Otherwise a run with workers that live on, or a resumed one, would draw others.
        """
        loader: Any = super()._get_dataloader(*args, **kwargs)
        loader.base_dataloader.generator = torch.Generator()
        return loader

    def prediction_step(self, *args: Any, **kwargs: Any) -> tuple[Tensor | None, Any, Any]:
        """Return no loss: the Trainer would average those of batches, not of rows.

        `compute_metrics` has the one of all rows, whatever the batches and processes were.
        """
        _, logits, labels = super().prediction_step(*args, **kwargs)
        return None, logits, labels

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        """Write the trained tensors under the name that the Trainer looks for when it loads."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        names = self._saved_names()
        whole = self.model.state_dict() if state_dict is None else state_dict
        state = {k: v.detach().cpu().contiguous() for k, v in whole.items() if k in names}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    def _saved_names(self) -> set[str]:
        """Return names of the trained tensors, and of what the loss has learned, if it does."""
        in_loss = {name for name in self.model.state_dict() if name.startswith("loss.")}
        return in_loss.union(self.model.trained_names())

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
        missing = sorted(set(load_result.missing_keys) & self._saved_names())
        if missing or load_result.unexpected_keys:
            raise CheckpointError(
                f"A checkpoint below {str(self.args.output_dir)!r} does not fit the model: "
                f"missing {list_some(missing) or 'nothing'}, "
                f"unexpected {list_some(load_result.unexpected_keys) or 'nothing'}. "
                "Delete the checkpoint to go on from an earlier one."
            )


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
