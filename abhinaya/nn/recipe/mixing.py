"""Config of mixing: two training clips joined to one, and vectors of two rows averaged."""

from __future__ import annotations

from typing import Self

from pydantic import Field, PositiveFloat, model_validator

from abhinaya.config import Config

__all__ = ["ClipMixing", "ManifoldMixing", "MixingConfig"]


class ClipMixing(Config):
    """Clips of majority classes are joined with clips of the other classes, as in SAILER.

    A majority class has more training rows than the mean class. The partner is drawn with a weight
    of one over the rows of its class: every minority class is equally likely. Which of the two
    comes first is even chance. Targets are averaged, transcripts joined in the order of the sound.
    """

    probability: float = Field(default=0.5, ge=0, le=1)
    """Share of the clips of majority classes that get a partner, in each epoch."""
    max_silence_s: float = Field(default=1.0, ge=0)
    """Longest silence between the two; its length is drawn evenly from 0 on."""
    overlap_probability: float = Field(default=0.5, ge=0, le=1)
    """Share of the pairs that overlap instead of being apart."""
    overlap: tuple[float, float] = (0.1, 0.5)
    """How much of the shorter clip lies under the other, drawn evenly from this range."""
    classes: tuple[str, ...] | None = None
    """The majority classes by their codes; None counts the rows."""

    @model_validator(mode="after")
    def _check_overlap(self) -> Self:
        low, high = self.overlap
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"overlap is [{low:g}, {high:g}], expected two rising numbers between 0 and 1: "
                "shares of the shorter clip"
            )
        return self


class ManifoldMixing(Config):
    """Pooled vectors of two rows of a batch are averaged, and so are their losses (MEDUSA).

    With b a random order of the batch: vector = s v[a] + (1 - s) v[b], loss = s L(a) + (1 - s)
    L(b). Verma et al., "Manifold Mixup", ICML 2019, arXiv:1806.05236, on the last vector alone.
    """

    probability: float = Field(default=0.3, ge=0, le=1)
    """Share of the batches that are mixed."""
    alpha: PositiveFloat = 0.2
    """The share s is drawn from Beta(alpha, alpha): below 1 mostly near 0 or 1."""


class MixingConfig(Config):
    """What is mixed in training; nothing is in validation and prediction."""

    clips: ClipMixing | None = None
    """Join clips; `{}` takes the defaults."""
    manifold: ManifoldMixing | None = None
    """Average pooled vectors; `{}` takes the defaults."""

    @model_validator(mode="after")
    def _check_something(self) -> Self:
        if self.clips is None and self.manifold is None:
            raise ValueError("mixing has neither clips nor manifold; set one of them, or remove it")
        return self
