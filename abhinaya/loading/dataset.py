"""Clips as the Trainer and the predictor load them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from abhinaya.loading.clips import Clip, Cropping, load_segments
from abhinaya.member import InputBuilder

__all__ = ["ClipDataset", "Collator", "TargetLoader", "fresh_loader", "usable_workers"]

SegmentLoader = Callable[[Clip, int | None], list[dict[str, Any]]]
"""Encoded segments of a clip in an epoch of training; None outside training."""

TargetLoader = Callable[[int, int | None], Any]
"""Target of the row at an index in an epoch of training; None outside training."""


def usable_workers(wanted: int) -> int:
    """Return how many processes read beside this one: no more than cores, of which torch warns.

    Their number never changes a result.
    """
    has_affinity = hasattr(os, "sched_getaffinity")
    return min(wanted, len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1)


def fresh_loader(inputs: InputBuilder, cropping: Cropping) -> SegmentLoader:
    """Make a loader that reads the audio file each time."""

    def load(clip: Clip, epoch: int | None) -> list[dict[str, Any]]:
        return [inputs.encode(segment) for segment in load_segments(clip, cropping, epoch)]

    return load


class ClipDataset(Dataset[dict[str, Any]]):
    """Encoded segments of each clip, and its target.

    Args:
        clips: the rows.
        load: gives a clip's segments.
        targets: class indices (U,) or distributions (U, K), or what gives those of an epoch.
    """

    def __init__(
        self, clips: Sequence[Clip], load: SegmentLoader, targets: NDArray[Any] | TargetLoader
    ) -> None:
        self.clips = clips
        self.load = load
        self.target: TargetLoader = (
            targets if callable(targets) else lambda idx, epoch: targets[idx]
        )

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Load one row; the key is (index, epoch) in training, and its index else."""
        idx, epoch = key if isinstance(key, tuple) else (key, None)
        return {"segments": self.load(self.clips[idx], epoch), "target": self.target(idx, epoch)}


class Collator:
    """Makes the batches that `EmotionClassifier.forward` takes.

    Args:
        collate: batch of encoded segments to tensors.
    """

    def __init__(self, collate: Callable[[list[dict[str, Any]]], Mapping[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return `inputs`, `labels` and, if a row has several segments, `segment_of`."""
        segments = [segment for row in rows for segment in row["segments"]]
        targets = torch.from_numpy(np.stack([row["target"] for row in rows]))
        # Labels first: the Trainer takes the first tensor's length for the number of rows.
        batch: dict[str, Any] = {"labels": targets, "inputs": dict(self.collate(segments))}
        if len(segments) > len(rows):
            n_segments = [len(row["segments"]) for row in rows]
            batch["segment_of"] = torch.repeat_interleave(torch.tensor(n_segments))
        return batch
