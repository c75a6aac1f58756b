"""The turns that were spoken before an utterance in the same recording."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from abhinaya.data.manifest import Manifest

__all__ = ["Conversations", "EarlierTurn"]


@dataclass(frozen=True)
class EarlierTurn:
    """What was said before.

    Args:
        utterance: the manifest's name of it.
        text: its transcript, not empty.
        same_speaker: whether the speaker is that of the later turn; `None` where one is unknown.
    """

    utterance: str
    text: str
    same_speaker: bool | None


class Conversations:
    """Looks up earlier turns.

    Recordings and turns are those of the whole manifest, because the turns before an utterance need
    not be in its split. Turns without a transcript, or with an empty one, are passed over.

    Args:
        manifest: its columns `recording`, `turn` and `speaker` say who spoke when.
        transcripts: text by utterance, all of one source.
    """

    def __init__(self, manifest: Manifest, transcripts: Mapping[str, str | None]) -> None:
        columns = manifest.rows[["utterance", "recording", "turn", "speaker"]]
        self._place: dict[str, tuple[str, float]] = {}
        self._speaker: dict[str, str] = {}
        self._turns: dict[str, list[tuple[float, str, str]]] = {}
        for utterance, recording, turn, speaker in columns.itertuples(index=False):
            if pd.notna(speaker):
                self._speaker[utterance] = speaker
            if pd.isna(recording) or pd.isna(turn):
                continue
            self._place[utterance] = (recording, float(turn))
            text = " ".join((transcripts.get(utterance) or "").split())
            if text:
                self._turns.setdefault(recording, []).append((float(turn), utterance, text))
        for turns in self._turns.values():
            turns.sort()

    def before(self, utterance: str, n_turns: int) -> list[EarlierTurn]:
        """Return the last turns before an utterance, the oldest first.

        Args:
            utterance: a row of the manifest; without a place in a recording it has none.
            n_turns: how many at most.
        """
        if utterance not in self._place:
            return []
        recording, turn = self._place[utterance]
        turns = self._turns.get(recording, [])
        end = bisect_left(turns, turn, key=lambda entry: entry[0])
        own = self._speaker.get(utterance)
        found = []
        for _, earlier, text in turns[max(0, end - n_turns) : end]:
            other = self._speaker.get(earlier)
            same = None if own is None or other is None else own == other
            found.append(EarlierTurn(earlier, text, same))
        return found
