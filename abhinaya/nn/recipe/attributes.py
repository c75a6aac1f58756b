"""What a classifier learns beside the class: attributes, gender, secondary emotions."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import NonNegativeFloat, model_validator

from abhinaya.config import Config
from abhinaya.data.attributes import ATTRIBUTES, SECONDARY

__all__ = ["AttributesConfig"]


class AttributesConfig(Config):
    """Weights of further losses, added to the one of the classes; a task of weight 0 is not there.

    Each task has one linear layer on the embedding. Rows where its truth is unknown do not count.
    """

    arousal: NonNegativeFloat = 0.0
    """Weight of its loss beside that of the classes; 0: no head."""
    valence: NonNegativeFloat = 0.0
    """Weight of its loss, as of arousal."""
    dominance: NonNegativeFloat = 0.0
    """Weight of its loss, as of arousal."""
    loss: Literal["ccc", "mse"] = "ccc"
    """Of arousal, valence and dominance: 1 minus the concordance correlation of the rows of a
    batch, or the mean squared error."""
    gender: NonNegativeFloat = 0.0
    """Female or male; only to learn from, no table holds it."""
    secondary: NonNegativeFloat = 0.0
    """The share of raters who chose each secondary emotion; only to learn from."""

    @property
    def widths(self) -> dict[str, int]:
        """How many numbers each task predicts, in the order of their outputs."""
        every = {**dict.fromkeys(ATTRIBUTES, 1), "gender": 1, "secondary": len(SECONDARY)}
        return {task: width for task, width in every.items() if getattr(self, task)}

    @property
    def regressed(self) -> tuple[str, ...]:
        """The attributes among the tasks; their outputs come first, one each."""
        return tuple(task for task in self.widths if task in ATTRIBUTES)

    @model_validator(mode="after")
    def _check_tasks(self) -> Self:
        if not self.widths:
            raise ValueError(
                "no task has a weight above 0; give one to arousal, valence, dominance, gender or "
                "secondary, such as 0.3, or remove attributes"
            )
        return self
