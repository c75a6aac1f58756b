"""What each encoder of a fusion gets of an utterance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abhinaya.loading.joined import join_batches
from abhinaya.member import InputBuilder, Utterance

__all__ = ["FusionInputs"]


class FusionInputs:
    """The inputs of several encoders side by side.

    Args:
        parts: builder of each encoder, by its name.
    """

    def __init__(self, parts: Mapping[str, InputBuilder]) -> None:
        self.parts = dict(parts)
        self.needs_audio = any(part.needs_audio for part in parts.values())
        self.needs_text = any(part.needs_text for part in parts.values())

    def encode(self, utterance: Utterance) -> dict[str, Any]:
        """Return the inputs of each encoder by its name."""
        return {name: part.encode(utterance) for name, part in self.parts.items()}

    def collate(self, encoded: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch of each encoder, its keys as `NAME.KEY`."""
        parts = self.parts.items()
        return join_batches({n: part.collate([row[n] for row in encoded]) for n, part in parts})
