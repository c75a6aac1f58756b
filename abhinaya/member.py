"""What the registry hands out: the contract of a member."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from abhinaya.config import MemberConfig
    from abhinaya.data.manifest import Manifest
    from abhinaya.data.predictions import PredictionTable

__all__ = [
    "ContextBuilder",
    "InputBuilder",
    "JoinedInputs",
    "Member",
    "PredictRequest",
    "Utterance",
]


@dataclass(frozen=True)
class Utterance:
    """One clip as a member sees it.

    Args:
        name: the manifest's `utterance`.
        waveform: mono float32 at 16 kHz, shape (S,), already cropped; None if the member needs no
            audio, and where stored features replace it.
        text: its transcript; None if the member needs none.
        epoch: the epoch in training; None in validation and prediction, where nothing is drawn.
    """

    name: str
    waveform: NDArray[np.float32] | None = None
    text: str | None = None
    epoch: int | None = None


class InputBuilder(Protocol):
    """Turns utterances into what a backbone takes."""

    needs_audio: bool
    needs_text: bool

    def encode(self, utterance: Utterance) -> dict[str, Any]:
        """Return model inputs of one utterance; runs in data-loading workers."""

    def collate(self, encoded: list[dict[str, Any]]) -> dict[str, Any]:
        """Return one batch of tensors out of several encoded utterances."""


class ContextBuilder(InputBuilder, Protocol):
    """An input builder for a backbone that has a `context`; `encode` and `collate` give that too.

    Where the hidden states come from a store, only the context is computed.
    """

    def encode_context(self, utterance: Utterance) -> dict[str, Any]:
        """Return what of an utterance goes into the context; its waveform is None."""

    def collate_context(self, encoded: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the tensors that the backbone's `context` names, of several utterances."""


class JoinedInputs(InputBuilder, Protocol):
    """An input builder for a backbone that has `parts`: each with a builder of its own."""

    parts: Mapping[str, InputBuilder]
    """By the names of the backbone's parts."""


@dataclass(frozen=True)
class PredictRequest:
    """What to predict, and where the table goes.

    Args:
        manifest: the corpus.
        selection: names of splits or subsets.
        out: the table to write; finished shards are kept beside it until it is whole.
        with_embedding: also keep the input of the head's last linear layer.
        overrides: `key=value` changes of the stored config, such as `base=/new/place`.
    """

    manifest: Manifest
    selection: tuple[str, ...]
    out: Path
    with_embedding: bool = False
    overrides: tuple[str, ...] = ()


class Member(Protocol):
    """A kind of model that labels utterances.

    A result never depends on batch size or neighbours. `train` is called with the same config in
    every process of `accelerate launch`; so is `predict`.
    """

    config_class: type[MemberConfig]

    def train(self, config: MemberConfig, manifest: Manifest) -> Path:
        """Train, or resume what was begun; return the run directory."""

    def predict(self, source: Path | MemberConfig, request: PredictRequest) -> PredictionTable:
        """Label every row of a selection, write the table and return it.

        Args:
            source: a run directory, or for a member with nothing to train its config.
            request: what to predict.
        """
