"""What ends a training before its time: a signal, and a loss that is no number."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from abhinaya.errors import BadValueError, list_some
from abhinaya.files import telling_full_disks
from abhinaya.loading.dataset import ClipDataset
from abhinaya.loading.sampling import LengthGroupedSampler
from abhinaya.processes import meet
from abhinaya.stopping.interruptions import Interruption, is_asked_to_stop
from abhinaya.training.run_directory import is_complete

__all__ = ["Watch", "whole_checkpoint"]


class Watch(TrainerCallback):
    """Ends a training in all processes at once, behind the optimizer step in which a reason came.

    After a signal a checkpoint is written first. A step's validation belongs to it: a checkpoint
    without it would go on as another training. A loss that is not finite leaves the checkpoints as
    they are.

    Args:
        trainer: whose callback this is.
        sampler: gives the order of rows.
    """

    def __init__(self, trainer: Trainer, sampler: LengthGroupedSampler) -> None:
        self._trainer = trainer
        self._sampler = sampler
        self._losses: list[Tensor] = []
        self._is_stopping = False

    def add_loss(self, loss: Tensor) -> None:
        """Keep the loss of the next micro-batch; nothing waits for the device."""
        self._losses.append(loss.detach())

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop the Trainer from looking at every micro-batch, to hide what is wrong."""
        args.logging_nan_inf_filter = False
        self._losses.clear()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask all processes for a reason to stop."""
        is_bad = [not good for good in torch.stack(self._losses).isfinite().tolist()]
        self._losses.clear()
        accelerator = self._trainer.accelerator
        if any(is_bad) or is_asked_to_stop():
            accelerator.set_trigger()
        if not accelerator.check_trigger():
            return
        rows = [row for number, bad in enumerate(is_bad) if bad for row in self._rows_of(number)]
        every = gather_object(rows) if accelerator.num_processes > 1 else rows
        if every:
            raise BadValueError(self._describe(every, state.global_step))
        self._is_stopping = True
        # Behind an epoch the Trainer validates and saves itself; `on_save` follows then.
        ends_epoch = float(state.epoch or 0).is_integer() or state.global_step >= state.max_steps
        if not (ends_epoch and args.save_strategy == SaveStrategy.EPOCH):
            control.should_save = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop, once the checkpoint of the last step is written."""
        accelerator = self._trainer.accelerator
        if is_asked_to_stop():
            accelerator.set_trigger()
        if self._is_stopping | bool(accelerator.check_trigger()):
            meet()  # a launcher ends all when the first one leaves
            raise Interruption

    def _rows_of(self, number: int) -> list[str]:
        """Return the utterances of this process' n-th micro-batch of the step that has just ended.

        Each process takes every n-th micro-batch of the sampler's order.
        """
        args, dataset = self._trainer.args, cast("ClipDataset", self._trainer.train_dataset)
        sampler, size = self._sampler, args.per_device_train_batch_size
        step = self._trainer.state.global_step - 1 - sampler.steps_before(sampler.epoch)
        micro = number * args.world_size + args.process_index
        start = step * sampler.batch_size + micro * size
        order = [idx for idx, _ in self._sampler]
        return [dataset.clips[idx].utterance for idx in order[start : start + size]]

    def _describe(self, utterances: list[str], step: int) -> str:
        args, optimizer = self._trainer.args, cast("Any", self._trainer.optimizer)
        precision = " Choose training.bf16 rather than fp16." if args.fp16 else ""
        return (
            f"The loss of optimizer step {step} is not a finite number, at the learning rate "
            f"{optimizer.param_groups[0]['lr']:.3g}, in the micro-batch of "
            f"{list_some(utterances, 16)}. The checkpoints before it are as they were. Listen to "
            f"these clips, and lower training.learning_rate in a new run_dir.{precision}"
        )


@contextmanager
def whole_checkpoint(folder: Path) -> Iterator[None]:
    """Delete a checkpoint that a block cannot write whole, such as on a full disk."""
    try:
        with telling_full_disks(folder):
            yield
    except BaseException:
        if not is_complete(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise
