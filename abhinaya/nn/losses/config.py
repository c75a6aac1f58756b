"""Which loss a member trains with, as a config reads it.

Needs no torch, so that a config is checked at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from abhinaya.config import is_unset
from abhinaya.errors import BadValueError, list_some

__all__ = [
    "SOFT_LOSSES",
    "LossConfig",
    "LossName",
    "Reduction",
    "absorbed_prior",
    "require_counts",
]

LossName = Literal[
    "adaptive-focal",
    "class-balanced",
    "cross-entropy",
    "focal",
    "kl-divergence",
    "ldam",
    "logit-adjustment",
    "soft-cross-entropy",
    "vector-scaling",
]
"""Names of the losses."""

SOFT_LOSSES = ("kl-divergence", "soft-cross-entropy")
"""Those that compare with a distribution over the classes, such as votes."""

Reduction = Literal["mean", "weight-normalised"]
"""How the losses of a batch become one number: `mean` divides their sum by the number of rows,
`weight-normalised` by the sum of the rows' weights, as torch's weighted cross-entropy does."""

# What each loss can be told beside its class weights, with the values of its paper. The reduction
# is the one of the code behind published results; "class-balanced" scales its weights for a mean.
_OPTIONS: dict[str, dict[str, Any]] = {
    "adaptive-focal": {"reduction": "mean", "gamma": 1.0, "rate": 1.0, "bins": 15},
    "class-balanced": {"reduction": "mean"},
    "cross-entropy": {"reduction": "weight-normalised"},
    "focal": {"reduction": "mean", "gamma": 2.0, "broadcast_compat": False},
    "kl-divergence": {"reduction": "mean", "reweight_targets": False},
    "ldam": {"reduction": "weight-normalised", "max_margin": 0.5, "scale": 30.0},
    "logit-adjustment": {"reduction": "weight-normalised", "tau": 1.0},
    "soft-cross-entropy": {"reduction": "mean", "reweight_targets": False},
    "vector-scaling": {"reduction": "weight-normalised", "gamma": 0.3, "tau": 1.0},
}


class LossConfig(BaseModel):
    """A loss and its options; an option left out takes the default of the chosen loss.

    An option that the chosen loss does not have is an error, so none is ignored unnoticed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: LossName = "cross-entropy"
    """The loss; `class-balanced` is cross-entropy with class-balanced weights."""
    class_weights: (
        Literal["none", "inverse", "class-balanced"] | tuple[PositiveFloat, ...] | None
    ) = None
    """Weight of a row by its class: none, inverse frequency N / (K n), class-balanced, or K numbers
    in class order. Default: none; for the loss `class-balanced` always class-balanced."""
    class_counts: tuple[PositiveInt, ...] | None = None
    """Rows per class in class order, for example published ones. Default: those of the training
    rows."""
    reduction: Reduction | None = None
    """Default `mean` for class-balanced, both focal and the soft losses, else
    `weight-normalised`."""
    gamma: float | None = Field(default=None, ge=0)
    """`focal`: how fast easy rows fade out, default 2. `adaptive-focal`: the same at the beginning,
    default 1. `vector-scaling`: how strongly the logits of rare classes shrink, default 0.3."""
    rate: float | None = Field(default=None, ge=0, exclude_if=is_unset)
    """`adaptive-focal`: how fast gamma follows the calibration on validation rows, default 1."""
    bins: int | None = Field(default=None, ge=1, exclude_if=is_unset)
    """`adaptive-focal`: bins of confidence, each with a gamma of its own, default 15."""
    tau: float | None = Field(default=None, ge=0)
    """`vector-scaling`, `logit-adjustment`: strength of the prior's log, default 1."""
    beta: float | None = Field(default=None, ge=0, lt=1)
    """Class-balanced weights: 0 weighs all classes alike, towards 1 by inverse count. Default
    0.999."""
    max_margin: float | None = Field(default=None, ge=0)
    """`ldam`: margin of the rarest class, default 0.5."""
    scale: float | None = Field(default=None, gt=0)
    """`ldam`: factor of the logits, default 30."""
    reweight_targets: bool | None = None
    """Soft losses: divide the vote distribution by the class prior first, default false."""
    broadcast_compat: bool | None = None
    """`focal`: the published loss, whose class weights only scale the step, default false."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = {key: value for key, value in data.items() if value is not None}
        name = given.get("name", "cross-entropy")
        if not isinstance(name, str) or name not in _OPTIONS:
            return data  # the type of `name` says what is wrong
        given.setdefault("class_weights", "class-balanced" if name == "class-balanced" else "none")
        options = dict(_OPTIONS[name])
        if given["class_weights"] == "class-balanced":
            options["beta"] = 0.999
        optional = {key for per_loss in _OPTIONS.values() for key in per_loss} | {"beta"}
        foreign = sorted(key for key in given if key in optional and key not in options)
        if foreign:
            needs = " (beta goes with class_weights: class-balanced)" if "beta" in foreign else ""
            raise BadValueError(
                f"The loss {name!r} has no option {list_some(foreign)}{needs}; "
                f"its options are {', '.join(sorted(options))}. Remove it or choose another loss."
            )
        return {**options, **given}

    @model_validator(mode="after")
    def _agree(self) -> LossConfig:
        if self.name == "class-balanced" and self.class_weights != "class-balanced":
            raise BadValueError(
                f"class_weights is {self.class_weights!r}, but the loss 'class-balanced' brings "
                "its own. Remove class_weights, or set name: cross-entropy."
            )
        if self.name == "adaptive-focal" and not self.gamma:
            raise BadValueError(
                "gamma of the loss 'adaptive-focal' is 0, from where it can never grow. Begin "
                "above 0, such as at 1."
            )
        if self.broadcast_compat and self.reduction != "mean":
            raise BadValueError(
                "broadcast_compat reproduces a published loss that takes the plain mean; "
                f"reduction is {self.reduction!r}. Set reduction: mean."
            )
        return self

    @property
    def options(self) -> dict[str, Any]:
        """What the chosen loss is called with beside class weights and counts."""
        return {key: getattr(self, key) for key in _OPTIONS[self.name]}

    @property
    def counts_rows(self) -> bool:
        """Whether weights, margins or priors come from the training rows of each class."""
        return self.class_counts is None and (
            self.class_weights in ("inverse", "class-balanced")
            or self.name in ("ldam", "logit-adjustment", "vector-scaling")
            or bool(self.reweight_targets)
        )

    @property
    def uses_soft_targets(self) -> bool:
        """Whether the loss wants vote distributions (B, K) instead of class indices (B,)."""
        return self.name in SOFT_LOSSES


def require_counts(class_counts: Sequence[int]) -> list[int]:
    """Return the counts as a list, if every class has at least one row.

    Args:
        class_counts: rows per class, length K.

    Raises:
        BadValueError: if there are no classes, or a count is below 1.
    """
    counts = [int(count) for count in class_counts]
    empty = [class_idx for class_idx, count in enumerate(counts) if count < 1]
    if empty or not counts:
        which = f"class index {list_some(empty)}" if empty else "any class"
        raise BadValueError(
            f"class_counts is {counts}, without a row of {which}. "
            "Weights and priors of a class need at least one row of it. Set class_counts in the "
            "loss (for example to published counts), add rows, or take a loss without counts."
        )
    return counts


def absorbed_prior(
    config: LossConfig, class_counts: Sequence[int], exponent: float = 1.0
) -> list[float] | None:
    """Return the class prior that a trained model's raw logits have already been freed from.

    With pi the share of a class in the counts, logit adjustment and vector scaling train z +
    tau log pi to fit the data, so the raw z that predicts is the posterior divided by
    pi ** tau. Whoever corrects the prior afterwards must not do so twice. Class weights,
    re-weighted targets and the shrunk logits of vector scaling favour rare classes too, but as
    costs rather than as a prior; they are not counted. Where classes are drawn in proportion to
    n ** e out of their n training rows, the raw z has been freed from (n / N) ** (1 - e) as well.

    Args:
        config: the loss trained with; its own `class_counts` come first.
        class_counts: rows per class among the training rows, length K.
        exponent: e; 1 where every row is drawn as often as any other.

    Returns:
        pi ** tau, scaled to sum to one (pi itself at the default tau of 1), length K; None where
        neither the loss nor the drawing of rows absorbs any.

    Raises:
        BadValueError: if a class has no row.

    Example:
        >>> absorbed_prior(LossConfig(name="logit-adjustment"), [30, 10])
        [0.75, 0.25]
    """
    powers = [1.0] * len(class_counts)
    given = [(config.class_counts or class_counts, config.tau or 0), (class_counts, 1 - exponent)]
    for numbers, power in given:
        if power:
            counts = require_counts(numbers)
            shares = [count / sum(counts) for count in counts]
            powers = [old * share**power for old, share in zip(powers, shares, strict=True)]
    if not config.tau and exponent == 1:
        return None
    return [power / sum(powers) for power in powers]
