"""How often classes are drawn in training, and when their weights apply."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from abhinaya.config import Config
from abhinaya.nn.losses.config import LossConfig

__all__ = ["BalanceConfig", "SecondStageConfig", "check_balance"]


class SecondStageConfig(Config):
    """From some epoch on, sets in which all classes are equally common, without class weights.

    Each epoch draws anew as many rows of every class as the rarest has. The schedule of the rate
    begins again, without a warm-up.

    Source: the training of MEDUSA, winner of the Interspeech 2025 challenge.
    """

    from_epoch: int = Field(ge=0)
    """First epoch of this stage; the first one of all is 0."""
    learning_rate: PositiveFloat
    """Highest rate of this stage, lower as a rule than training.learning_rate."""
    outside_share: float = Field(default=0.0, ge=0)
    """Rows without a class (O, X) to add, which train by their votes: 1 adds as many as of each
    class, or all that there are. Needs a soft loss."""


class BalanceConfig(Config):
    """What is done about classes of unequal size, beside the loss."""

    sampler: Literal["natural", "square-root", "class-balanced"] = "natural"
    """How often a class is drawn in an epoch: as often as it has rows, in proportion to the root of
    their number, or as often as any other. Rows are repeated or left out; how many make an epoch
    stays, and so do rows without a class."""
    second_stage: SecondStageConfig | None = None
    reweight_from_epoch: int | None = Field(default=None, ge=1)
    """Class weights of the loss apply from this epoch on, the first one being 0 (deferred
    re-weighting); None means always. Source: Cao et al. 2019, arXiv:1906.07413."""

    @model_validator(mode="after")
    def _leave_epochs_for_weights(self) -> Self:
        first, second = self.reweight_from_epoch, self.second_stage
        if first is not None and second is not None and first >= second.from_epoch:
            raise ValueError(
                f"reweight_from_epoch is {first}, but second_stage has no class weights and begins "
                f"with epoch {second.from_epoch}; let it begin later, or remove one of the two"
            )
        return self

    @property
    def counts_rows(self) -> bool:
        """Whether the number of rows of each class matters, so that each needs one."""
        return self.sampler != "natural" or self.second_stage is not None

    @property
    def changes(self) -> dict[str, int]:
        """The epochs with which something changes, by the key that says so."""
        second = self.second_stage
        found = {
            "reweight_from_epoch": self.reweight_from_epoch,
            "second_stage.from_epoch": None if second is None else second.from_epoch,
        }
        return {key: epoch for key, epoch in found.items() if epoch is not None}

    @property
    def sampler_exponent(self) -> float:
        """The exponent of `prior_exponent` outside the second stage."""
        return {"natural": 1.0, "square-root": 0.5, "class-balanced": 0.0}[self.sampler]

    def is_second(self, epoch: int) -> bool:
        """Tell if an epoch belongs to the second stage."""
        return self.second_stage is not None and epoch >= self.second_stage.from_epoch

    def weighs_classes(self, epoch: int) -> bool:
        """Tell if the class weights of the loss apply in an epoch."""
        return not self.is_second(epoch) and epoch >= (self.reweight_from_epoch or 0)

    def prior_exponent(self, epoch: int) -> float:
        """Return e, where classes are drawn in proportion to n ** e out of their n rows."""
        return 0.0 if self.is_second(epoch) else self.sampler_exponent


def check_balance(balance: BalanceConfig, loss: LossConfig, arguments: Mapping[str, Any]) -> None:
    """Check that a training has what its balance speaks of.

    Args:
        balance: how classes are drawn, and when weighed.
        loss: of the training.
        arguments: of the training, by their names in TrainingArguments.

    Raises:
        ValueError: if it has not.
    """
    second, deferred = balance.second_stage, balance.reweight_from_epoch
    if deferred is not None and loss.class_weights in (None, "none"):
        raise ValueError(
            f"balance.reweight_from_epoch is {deferred}, but the loss has no class weights; set "
            "loss.class_weights, or remove it"
        )
    n_epochs = arguments.get("num_train_epochs", 3.0)  # as TrainingArguments has it
    for key, epoch in balance.changes.items():
        if epoch >= n_epochs and arguments.get("max_steps", -1) < 0:
            raise ValueError(
                f"balance.{key} is {epoch}, but the last of {n_epochs:g} epochs is number "
                f"{math.ceil(n_epochs) - 1}, as they count from 0; lower it, or raise "
                "training.num_train_epochs"
            )
    if second is None:
        return
    if second.outside_share and not loss.uses_soft_targets:
        raise ValueError(
            f"balance.second_stage.outside_share is {second.outside_share:g}, but the loss "
            f"{loss.name!r} needs a class for each row; set it to 0, or take kl-divergence or "
            "soft-cross-entropy"
        )
    if arguments.get("learning_rate") == 0:
        raise ValueError(
            "training.learning_rate is 0, so there is no rate to go on from in "
            "balance.second_stage; set one above 0"
        )
    scheduler = arguments.get("lr_scheduler_type")
    scheduler = getattr(scheduler, "value", scheduler)  # a member of an enumeration, or its text
    if scheduler in ("greedy", "reduce_lr_on_plateau"):
        raise ValueError(
            f"training.lr_scheduler_type is {scheduler}, which follows the validation and knows no "
            "balance.second_stage; take one that counts steps, such as linear"
        )
