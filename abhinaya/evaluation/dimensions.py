"""Confusions seen from arousal and valence: does a member mistake what is said, or how loudly?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.labels import EmotionSet

__all__ = ["DIMENSIONS", "GroupedConfusion", "group_confusion"]

DIMENSIONS: dict[Literal["arousal", "valence"], dict[str, str]] = {
    "arousal": {
        "high": "anger angry disgust disgusted excitement excited fear fearful frustration "
        "frustrated happiness happy joy surprise surprised",
        "low": "boredom bored calm contempt neutral sadness sad",
    },
    "valence": {
        "positive": "calm excitement excited happiness happy joy surprise surprised",
        "neutral": "neutral",
        "negative": "anger angry boredom bored contempt disgust disgusted fear fearful frustration "
        "frustrated sadness sad",
    },
}
"""Groups of the names of classes.

The signs of pleasure and arousal that people gave these words, or for contempt the word disdainful:
Russell and Mehrabian, "Evidence for a three-factor theory of emotions", Journal of Research in
Personality 11, 1977. Neutral, the origin there, counts as low arousal and is a valence of its own.
"""


@dataclass(frozen=True, eq=False)
class GroupedConfusion:
    """Counts of utterances by the group of their true and of their predicted class.

    Args:
        dimension: arousal or valence.
        groups: names of the G groups that have a class.
        counts: shape (G, G): row = true group, column = predicted group.
        errors: wrong classes by true and predicted group, shape (G, G); on the diagonal are those
            that leave the group right.
        left_out: codes of classes that belong to no group; their utterances are not counted.
    """

    dimension: str
    groups: tuple[str, ...]
    counts: NDArray[np.int64]
    errors: NDArray[np.int64]
    left_out: tuple[str, ...]

    @property
    def share_within(self) -> float | None:
        """Share of the errors that stay within their group; None where there are no errors."""
        total = int(self.errors.sum())
        return int(self.errors.trace()) / total if total else None


def group_confusion(
    confusion: NDArray[np.integer[Any]],
    emotions: EmotionSet,
    dimension: Literal["arousal", "valence"],
) -> GroupedConfusion:
    """Sum up a confusion matrix over the groups of its classes.

    Args:
        confusion: counts, shape (K, K): row = true class, column = predicted class.
        emotions: the K classes; they are known by their names.
        dimension: which groups.
    """
    groups = DIMENSIONS[dimension]
    of_class: Sequence[str | None] = [
        next((group for group, words in groups.items() if name.lower() in words.split()), None)
        for name in emotions.names
    ]
    present = tuple(group for group in groups if group in of_class)
    # (G, K): which class belongs to which group.
    belongs = np.array([[group == own for own in of_class] for group in present], dtype=np.int64)
    belongs = belongs.reshape(len(present), len(emotions))
    wrong = confusion - np.diag(confusion.diagonal())
    return GroupedConfusion(
        dimension,
        present,
        belongs @ confusion @ belongs.T,
        belongs @ wrong @ belongs.T,
        tuple(code for code, group in zip(emotions.codes, of_class, strict=True) if group is None),
    )
