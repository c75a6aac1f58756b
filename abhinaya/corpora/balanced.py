"""The balanced subset: as many clips of every class, drawn from one split."""

from __future__ import annotations

import hashlib

import pandas as pd

from abhinaya.data.labels import EmotionSet
from abhinaya.data.problems import Problem

__all__ = ["BALANCED", "draw_balanced"]

BALANCED = "balanced"
"""Name of the subset."""


def draw_balanced(
    rows: pd.DataFrame, emotions: EmotionSet, *, split: str, n_per_class: int, seed: int
) -> tuple[list[str], list[Problem]]:
    """Draw utterances of a split, equally many per class, and a problem if they are too few.

    Every class gives min(`n_per_class`, size of the smallest class) clips: those with the smallest
    hash of seed and name. So the choice depends neither on the order of rows nor on other classes,
    and a smaller subset is part of a larger one.

    Args:
        rows: with `utterance`, `split` and `label`.
        emotions: the classes; labels outside are never drawn.
        split: where the clips come from.
        n_per_class: clips per class, at least 1.
        seed: chooses the clips.

    Returns:
        utterances: sorted by name; none if a class is empty.
        problems: one if the subset is smaller than asked for.
    """
    members = {
        code: rows.loc[(rows["split"] == split) & (rows["label"] == code), "utterance"].tolist()
        for code in emotions.codes
    }
    smallest = min(members, key=lambda code: len(members[code]))
    n_drawn = min(n_per_class, len(members[smallest]))
    drawn = [
        utterance
        for utterances in members.values()
        for utterance in sorted(utterances, key=lambda name: _hash(name, seed))[:n_drawn]
    ]
    if n_drawn == n_per_class:
        return sorted(drawn), []
    reason = (
        f"{n_drawn} instead of {n_per_class} clips per class, because class {smallest} has no more "
        f"in {split}"
    )
    if n_drawn == 0:
        reason = f"no subset, because class {smallest} has no clips in {split}"
    return sorted(drawn), [Problem(BALANCED, reason)]


def _hash(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()
