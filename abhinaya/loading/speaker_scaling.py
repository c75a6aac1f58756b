"""Features seen from the mean and spread of their speaker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from abhinaya.errors import BadValueError
from abhinaya.loading.clips import Clip
from abhinaya.loading.dataset import SegmentLoader
from abhinaya.nn.recipe.speakers import SpeakerScaling

__all__ = ["scale_speakers"]


def scale_speakers(
    load: SegmentLoader, clips: Sequence[Clip], scaling: SpeakerScaling
) -> SegmentLoader:
    """Make a loader of states that are scaled per speaker, layer and feature.

    With m and v the mean and variance of a speaker's n clips, M and V those of all, and w = n /
    (n + shrinkage), a state x becomes (x - (w m + (1 - w) M)) / sqrt(w v + (1 - w) V). The clip
    counts through the mean over its frames. A feature that never moves only has its mean taken.

    Args:
        load: gives stored states, (T, N, D) for each segment.
        clips: all clips that will be loaded; they are read once.
        scaling: how much a speaker's few clips are trusted.

    Raises:
        BadValueError: if there are fewer than two clips.
    """
    if len(clips) < 2:
        raise BadValueError(
            f"speaker_scaling needs the other clips of a speaker, but there are {len(clips)}. "
            "Select more clips, or remove speaker_scaling and train again."
        )
    sums: dict[str | None, list[Any]] = {}  # number, sum and sum of squares
    for clip in clips:
        segments = [np.asarray(entry["states"], dtype=np.float64) for entry in load(clip, None)]
        mean = np.concatenate(segments).mean(axis=0)  # (N, D)
        own = sums.setdefault(clip.speaker, [0, np.zeros_like(mean), np.zeros_like(mean)])
        own[0] += 1
        own[1] += mean
        own[2] += mean**2
    total = [sum(parts) for parts in zip(*sums.values(), strict=True)]
    mean_of_all, var_of_all = _moments(total)
    scales = {}
    for speaker, own in sums.items():
        weight = own[0] / (own[0] + scaling.shrinkage)
        own_mean, own_var = _moments(own)
        mean = weight * own_mean + (1 - weight) * mean_of_all
        std = np.sqrt(weight * own_var + (1 - weight) * var_of_all)
        # Rounding leaves a constant feature some 1e-8 of spread.
        moves = std > 1e-6 * (np.abs(mean) + 1)
        scales[speaker] = (mean.astype(np.float32), np.where(moves, std, 1).astype(np.float32))

    def scaled(clip: Clip, epoch: int | None) -> list[dict[str, Any]]:
        mean, std = scales[clip.speaker]
        return [{**entry, "states": (entry["states"] - mean) / std} for entry in load(clip, epoch)]

    return scaled


def _moments(sums: Sequence[Any]) -> tuple[Any, Any]:
    number, total, squares = sums
    mean = total / number
    return mean, (squares / number - mean**2).clip(min=0)
