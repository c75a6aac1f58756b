"""Stored features of a backbone of several encoders: a store each, shared with other runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from abhinaya.data.problems import Problem
from abhinaya.files import digest_of
from abhinaya.loading.clips import Clip, Cropping
from abhinaya.loading.features import FeatureStore
from abhinaya.member import InputBuilder, JoinedInputs, Utterance
from abhinaya.nn.backbone import Backbone
from abhinaya.nn.classifier_config import CacheConfig

__all__ = ["JoinedStore", "TextStore", "join_batches", "open_store"]


def open_store(
    config: CacheConfig, backbone: Backbone, inputs: InputBuilder, cropping: Cropping
) -> FeatureStore | JoinedStore:
    """Return the store of a backbone, or of one with parts their stores together.

    Arguments and errors as for `FeatureStore`.
    """
    if not backbone.parts:
        return FeatureStore(config, backbone, inputs, cropping)
    builders = cast("JoinedInputs", inputs).parts
    stores = {
        name: (FeatureStore if builders[name].needs_audio else TextStore)(
            config, part, builders[name], cropping
        )
        for name, part in backbone.parts.items()
    }
    return JoinedStore(stores)


def join_batches(batches: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the batches of several encoders as one, with keys `NAME.KEY`."""
    return {
        f"{name}.{key}": value for name, batch in batches.items() for key, value in batch.items()
    }


class TextStore(FeatureStore):
    """Hidden states of a frozen text encoder; the key is made of its token ids."""

    hears = False

    def _content(self, clip: Clip) -> str:
        return digest_of(self.inputs.encode(Utterance(clip.utterance, text=clip.text)))


class JoinedStore:
    """Several stores that are filled and read together.

    Args:
        stores: by the names of the encoders.
    """

    def __init__(self, stores: Mapping[str, FeatureStore]) -> None:
        self.stores = stores

    @property
    def files(self) -> frozenset[Path]:
        """Return what `load` reads."""
        return frozenset().union(*(store.files for store in self.stores.values()))

    def fill(
        self,
        clips: Sequence[Clip],
        *,
        batch_size: int,
        device: torch.device,
        keep: Collection[Path] = (),
        num_workers: int = 0,
    ) -> list[Problem]:
        """Compute what is missing, one encoder after the other; see `FeatureStore.fill`."""
        problems: list[Problem] = []
        for store in self.stores.values():
            unusable = {problem.utterance for problem in problems}
            problems += store.fill(
                [
                    clip if store.hears else replace(clip, path=None, duration_s=0.0)
                    for clip in clips
                    if clip.utterance not in unusable
                ],
                batch_size=batch_size,
                device=device,
                keep={*keep, *self.files},
                num_workers=num_workers,
            )
        return problems

    def load(self, clip: Clip, epoch: int | None = None) -> list[dict[str, Any]]:
        """Load the stored states of a clip by encoder, segment by segment; text is in each."""
        loaded = {name: store.load(clip, epoch) for name, store in self.stores.items()}
        n_segments = max(map(len, loaded.values()))
        return [
            {name: found[idx if len(found) > 1 else 0] for name, found in loaded.items()}
            for idx in range(n_segments)
        ]

    def collate(self, stored: list[dict[str, Any]]) -> dict[str, Any]:
        """Make a batch of what `load` returned."""
        return join_batches(
            {
                name: store.collate([row[name] for row in stored])
                for name, store in self.stores.items()
            }
        )
