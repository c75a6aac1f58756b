"""Test sets to rehearse on: drawn from labelled data, shaped like the challenge's test.

A balanced test of few clips per speaker is not what a development split looks like, and speaker
adaptation depends on exactly that: how many clips a speaker has, and how their classes are mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from abhinaya.errors import BadShapeError, BadValueError

__all__ = ["CLIPS_PER_SPEAKER", "PseudoTest", "draw_pseudo_test"]

CLIPS_PER_SPEAKER = 12.5
"""Of the Interspeech 2025 challenge's test: 3,200 clips of 256 speakers."""

_MAX_ATTEMPTS = 8
_CLOSE_ENOUGH = 0.05


@dataclass(frozen=True, eq=False)
class PseudoTest:
    """One drawn set.

    Args:
        indices: rows drawn, sorted, shape (N,).
        n_speakers: speakers among them.
    """

    indices: NDArray[np.int64]
    n_speakers: int

    @property
    def clips_per_speaker(self) -> float:
        """Return mean number of clips per speaker."""
        return len(self.indices) / self.n_speakers


def draw_pseudo_test(
    truth: NDArray[np.int64],
    speakers: Sequence[str | None],
    *,
    clips_per_speaker: float = CLIPS_PER_SPEAKER,
    seed: int = 0,
) -> PseudoTest:
    """Draw a set with equally many clips of every class that occurs, few clips per speaker.

    Each speaker gets room for a random number of clips, 1 + Poisson. Clips are drawn in rounds of
    one per class, rarest class first, from speakers who are already in the set and have room; only
    if none of these has such a clip, a new speaker joins, with a chance in proportion to the clips
    that they can give to a balanced mix. It ends when a round cannot be completed. Speakers seldom
    fill their room, since rare classes keep bringing new ones in; so the rooms are enlarged, and
    the draw repeated, until the mean is within 5 % of what was asked, or nearest to it.

    Args:
        truth: true class indices, shape (U,), values in [0, K).
        speakers: U names; rows of unknown speakers are left out.
        clips_per_speaker: mean number asked for, more than 1.
        seed: of the draw.

    Raises:
        BadShapeError: if the lengths differ.
        BadValueError: if no speaker is known or `clips_per_speaker` is out of range.
    """
    if len(truth) != len(speakers):
        raise BadShapeError(
            f"truth has {len(truth)} entries and speakers {len(speakers)}, expected one of each "
            "per utterance."
        )
    if not clips_per_speaker > 1:
        raise BadValueError(
            f"clips_per_speaker is {clips_per_speaker}, expected more than 1: a speaker with one "
            "clip cannot be adapted to. The challenge's test has 12.5."
        )
    known = np.array([idx for idx, name in enumerate(speakers) if name is not None], dtype=np.int64)
    if len(known) == 0:
        raise BadValueError(
            f"No speaker is known of the {len(speakers)} labelled utterances, so no test set with "
            "a number of clips per speaker can be drawn. Give a manifest with speakers, or "
            "estimate them with: abhinaya speakers."
        )
    names, speaker_idx = np.unique([str(speakers[idx]) for idx in known], return_inverse=True)
    present, class_idx = np.unique(truth[known], return_inverse=True)
    cells = speaker_idx * len(present) + class_idx
    counts = np.bincount(cells, minlength=len(names) * len(present))
    counts = counts.reshape(len(names), len(present))
    rng = np.random.default_rng(seed)
    mean_room, best, best_mean = clips_per_speaker, np.zeros_like(counts), 0.0
    for _ in range(_MAX_ATTEMPTS):
        drawn = _draw(counts, mean_room, clips_per_speaker, rng)
        n_speakers = np.count_nonzero(drawn.sum(axis=1))
        mean = drawn.sum() / max(n_speakers, 1)
        if abs(mean - clips_per_speaker) < abs(best_mean - clips_per_speaker):
            best, best_mean = drawn, mean
        if abs(best_mean - clips_per_speaker) <= _CLOSE_ENOUGH * clips_per_speaker:
            break
        mean_room *= min(clips_per_speaker / max(mean, 1), 2.0)
    return _pick_clips(known, cells, best, rng)


def _draw(
    counts: NDArray[np.int64], mean_room: float, wanted: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw how many clips of each speaker and class to take, shape (S, K), out of `counts`."""
    n_speakers, n_classes = counts.shape
    left: NDArray[np.int64] = counts.copy()
    room = np.asarray(1 + rng.poisson(max(mean_room - 1, 0), size=n_speakers))
    chance = np.minimum(counts, wanted / n_classes).sum(axis=1)
    is_in = np.zeros(n_speakers, dtype=bool)
    rarest_first = np.argsort(counts.sum(axis=0), kind="stable").tolist()
    drawn = np.zeros_like(counts)
    while True:
        this_round: list[tuple[int, int]] = []
        for class_idx in rarest_first:
            has_clip = left[:, class_idx] > 0
            weights = np.where(is_in & (room > 0), left[:, class_idx], 0.0)
            if not weights.any():
                weights = np.where(~is_in & has_clip, chance, 0.0)
            if not weights.any():
                return drawn
            speaker = int(rng.choice(n_speakers, p=weights / weights.sum()))
            is_in[speaker] = True
            room[speaker] -= 1
            left[speaker, class_idx] -= 1
            this_round.append((speaker, class_idx))
        for speaker, class_idx in this_round:
            drawn[speaker, class_idx] += 1


def _pick_clips(
    known: NDArray[np.int64],
    cells: NDArray[np.int64],
    drawn: NDArray[np.int64],
    rng: np.random.Generator,
) -> PseudoTest:
    """Pick rows for the drawn numbers, at random within each speaker and class."""
    order = rng.permutation(len(cells))
    order = order[np.argsort(cells[order], kind="stable")]  # by cell, shuffled within
    ordered = cells[order]
    # Place of each row among those of its cell.
    rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    chosen = order[rank < drawn.reshape(-1)[ordered]]
    return PseudoTest(np.sort(known[chosen]), int(np.count_nonzero(drawn.sum(axis=1))))
