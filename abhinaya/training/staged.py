"""Training in two stages: later epochs have fewer rows, another rate, and no class weights.

The Trainer takes all epochs for equally long. Here it learns the number of steps of each, in all
and where a run resumes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import Trainer, get_scheduler

from abhinaya.loading.sampling import LengthGroupedSampler
from abhinaya.nn.recipe.balance import SecondStageConfig

__all__ = ["StagedTrainer"]


class StagedTrainer(Trainer):
    """Trainer of epochs that a `LengthGroupedSampler` draws.

    Args:
        sampler: gives the rows of each epoch.
        kwargs: as for the Trainer.
    """

    def __init__(self, *, sampler: LengthGroupedSampler, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._sampler = sampler

    @property
    def _second(self) -> SecondStageConfig | None:
        rows = self._sampler.rows
        return None if rows is None else rows.balance.second_stage

    def prior_exponent(self, step: int) -> float:
        """Return e, where up to a step classes were drawn in proportion to n ** e of n rows."""
        rows = self._sampler.rows
        if rows is None:
            return 1.0
        return rows.balance.prior_exponent(self._sampler.find_epoch(max(step - 1, 0)))

    def set_initial_training_values(self, args: Any, dataloader: Any) -> Any:
        """Return numbers of epochs, of steps and of rows, as the Trainer does."""
        values = list(super().set_initial_training_values(args, dataloader))
        if self._second is None:
            return tuple(values)
        n_steps = args.max_steps
        if n_steps < 0:
            whole = math.floor(args.num_train_epochs)
            rest = (args.num_train_epochs - whole) * self._sampler.n_steps(whole)
            n_steps = self._sampler.steps_before(whole) + math.ceil(rest)
        values[0] = self._sampler.find_epoch(n_steps - 1) + 1
        values[3], values[-1] = n_steps * self._sampler.batch_size, n_steps
        return tuple(values)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        epoch, n_seen = super()._init_training_state(*args, **kwargs)
        if self._second is not None:
            epoch = self._sampler.find_epoch(self.state.global_step)
            if not self.args.ignore_data_skip:
                n_seen = self.state.global_step - self._sampler.steps_before(epoch)
                n_seen *= self.args.gradient_accumulation_steps
        return epoch, n_seen

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        epoch, rows = kwargs["epoch"], self._sampler.rows
        if rows is not None:
            model = cast("Any", self.model)
            if model.loss is not None:
                model.loss.weighs_classes = rows.balance.weighs_classes(epoch)
            n_steps = self._sampler.n_steps(epoch)
            kwargs["num_update_steps_per_epoch"] = n_steps
            kwargs["steps_in_epoch"] = n_steps * self.args.gradient_accumulation_steps
        run: Any = super()._run_epoch  # it has no types
        run(*args, **kwargs)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> LRScheduler:
        """Return the schedule of the rate: in the second stage, one of its own."""
        if self._second is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        n_first = self._sampler.steps_before(self._second.from_epoch)
        rate = self.args.learning_rate
        first = self._shape(rate, max(n_first, 1), self.args.get_warmup_steps(n_first))
        second = self._shape(self._second.learning_rate, num_training_steps - n_first, 0)
        share = self._second.learning_rate / rate

        def factor(step: int) -> float:
            return first(step) if step < n_first else share * second(step - n_first)

        self.lr_scheduler = LambdaLR(cast("Any", optimizer or self.optimizer), factor)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _shape(self, rate: float, n_steps: int, n_warmup: int) -> Callable[[int], float]:
        """Return the factor of a rate at each step of a schedule of `lr_scheduler_type`."""
        unused = torch.optim.SGD([torch.zeros(1)], lr=rate)
        built: Any = get_scheduler(
            self.args.lr_scheduler_type,
            optimizer=unused,
            num_warmup_steps=n_warmup,
            num_training_steps=n_steps,
            scheduler_specific_kwargs=cast("Any", self.args.lr_scheduler_kwargs),
        )
        return cast("Callable[[int], float]", built.lr_lambdas[0])
