"""What a loss on distributions compares with in training, as a config reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from abhinaya.config import Config

__all__ = ["AnnotationDropout", "TargetsConfig"]


class AnnotationDropout(Config):
    """Votes that are left out by chance, anew in each epoch by (seed, epoch, utterance)."""

    share: float = Field(default=0.2, ge=0, lt=1)
    """Probability with which each single vote is dropped."""
    classes: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Classes whose votes are dropped. None: the majority classes, which are those with more
    labelled rows in `data.train` than the median class."""


class TargetsConfig(Config):
    """How votes, labels and a table of predictions become the targets of training rows.

    Votes are dropped, their shares taken and smoothed, and mixed with the table's probabilities.
    Validation is on votes and labels as they are.
    """

    outside: Literal["votes", "leave-out"] = "votes"
    """What is done with rows labelled outside the emotion set, or not at all: train on their votes
    for its classes, or not on these."""
    annotation_dropout: AnnotationDropout | None = None
    """Drop a share of the votes; a row that would lose all of them keeps them."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target that is spread evenly over all classes; of votes and labels, not of the
    table."""
    table: Path | None = None
    """Prediction table to learn from, of a trained run, a vote or a recipe: Parquet or CSV. A row
    without a prediction in it is learnt from its votes or label, or left out."""
    weight: float = Field(default=1.0, gt=0, le=1)
    """Share of the table in the target of a row that has votes or a label too."""
    temperature: PositiveFloat = 1.0
    """The table's probabilities p become p ** (1 / temperature), scaled to sum to one: above 1
    softer, below 1 sharper."""

    @model_validator(mode="after")
    def _check_table(self) -> Self:
        unused = [key for key in ("weight", "temperature") if getattr(self, key) != 1]
        if unused and self.table is None:
            raise ValueError(f"{unused[0]} is about the table, but none is named; set table")
        return self
