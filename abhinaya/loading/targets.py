"""What a loss compares with: class indices, or the votes of the annotators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from abhinaya.data.labels import ABSTAIN, EmotionSet

__all__ = ["hard_targets", "soft_targets"]


def hard_targets(rows: pd.DataFrame, emotions: EmotionSet) -> NDArray[np.int64]:
    """Return class indices, shape (U,); `ABSTAIN` where a label is missing or outside the set."""
    return emotions.encode(rows["label"])


def soft_targets(rows: pd.DataFrame, emotions: EmotionSet) -> NDArray[np.float32]:
    """Return the share of the votes of each class, shape (U, K), rows sum to one.

    Votes for O are left out. A row without votes for any class is one-hot if it has a label of the
    set, else NaN.
    """
    n_classes = len(emotions)
    targets = np.full((len(rows), n_classes), np.nan, dtype=np.float32)
    votes: list[Any] = rows["votes"].tolist()
    for idx, (counts, label) in enumerate(zip(votes, hard_targets(rows, emotions), strict=True)):
        inside = None if counts is None else np.asarray(counts[:n_classes], dtype=np.float32)
        if inside is not None and inside.sum() > 0:
            targets[idx] = inside / inside.sum()
        elif label != ABSTAIN:
            targets[idx] = np.eye(n_classes, dtype=np.float32)[label]
    return targets
