"""Votes of chosen subsets of members, and scores of many sets of labels at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.labels import ABSTAIN
from abhinaya.errors import BadValueError
from ensembling.ablation.compiled import compiled, run_in_threads
from ensembling.voting.votes import rank_members

__all__ = ["count_labels", "exact_floats", "score_counts", "score_labels", "vote_subsets"]

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float64]

_ABSTAIN = ABSTAIN
_PLACES = 256  # a power of two, above the number of members
_BLOCKS = 32


def vote_subsets(
    votes: IntArray,
    subsets: NDArray[np.bool_],
    n_classes: int,
    tiebreak_order: Sequence[int] = (),
) -> NDArray[np.int16]:
    """Vote by plurality in each of N subsets of the members.

    Args:
        votes: class index chosen by each member, shape (M, U), values in [0, K) or `ABSTAIN`.
        subsets: True where a member belongs to a subset, shape (N, M).
        n_classes: K.
        tiebreak_order: member indices that settle ties, first one first; the members left out
            follow in the order of the rows of `votes`. Within a subset only its members count.

    Returns:
        Class indices, shape (N, U); `ABSTAIN` where all members of the subset abstain.

    Raises:
        BadValueError: if there are more than 255 members.
    """
    if len(votes) >= _PLACES:
        raise BadValueError(
            f"The votes of subsets of {len(votes)} members were asked for, expected at most "
            f"{_PLACES - 1} members. Leave out the weakest."
        )
    ranked = rank_members(tiebreak_order, len(votes))
    ballots = np.ascontiguousarray(votes[ranked], dtype=np.int32)  # first in line in the first row
    is_in = np.ascontiguousarray(subsets[:, ranked])
    labels = np.empty((len(is_in), ballots.shape[1]), dtype=np.int16)

    def work(first: int, end: int) -> None:
        _vote(ballots, is_in[first:end], n_classes, labels[first:end])

    run_in_threads(work, len(labels), min(len(labels), _BLOCKS))
    return labels


def score_labels(
    labels: IntArray,
    truth: IntArray,
    n_classes: int,
    weights: NDArray[np.floating[Any]] | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Score N sets of labels under R weightings of the utterances: macro-F1 and accuracy.

    Args:
        labels: class indices, shape (N, U), values in [0, K) or `ABSTAIN`, which counts as wrong.
        truth: true class index, shape (U,), values in [0, K).
        n_classes: K; macro-F1 is the mean over all of them, with zero for undefined.
        weights: how often each utterance counts, `exact_floats` of shape (R, U); by default once.

    Returns:
        macro_f1: in [0, 1], shape (N, R).
        accuracy: likewise.
    """
    if weights is None:
        weights = np.ones((1, labels.shape[1]), dtype=np.float32)
    return score_counts(*count_labels(labels, truth, n_classes, weights))


def count_labels(
    labels: IntArray, truth: IntArray, n_classes: int, weights: NDArray[np.floating[Any]]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Count what `score_counts` scores; counts of parts may be added and subtracted.

    Args:
        labels: see `score_labels`.
        truth: see `score_labels`.
        n_classes: K.
        weights: see `score_labels`.

    Returns:
        n_predicted: utterances that are labelled so, per class, shape (K, N, R).
        n_correct: those of them that truly are so, likewise.
        support: true utterances per class, shape (K, 1, R).
    """
    n_predicted = np.empty((n_classes, len(labels), len(weights)))
    n_correct, support = np.empty_like(n_predicted), np.empty((n_classes, 1, len(weights)))
    for class_idx in range(n_classes):
        # Whole numbers below 2 ** 24 are exact in float32, whose matrix product is the fast one.
        is_predicted = (labels == class_idx).astype(weights.dtype)
        is_class = truth == class_idx
        own = weights[:, is_class]
        n_predicted[class_idx] = is_predicted @ weights.T
        n_correct[class_idx] = is_predicted[:, is_class] @ own.T
        support[class_idx] = own.sum(axis=1, dtype=np.float64)
    return n_predicted, n_correct, support


def score_counts(
    n_predicted: FloatArray, n_correct: FloatArray, support: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Score what `count_labels` counted: macro-F1 and accuracy, shape (N, R)."""
    total_f1 = np.zeros(n_predicted.shape[1:])
    for class_idx, both in enumerate(n_predicted + support):
        f1 = np.divide(2 * n_correct[class_idx], both, out=np.zeros_like(both), where=both > 0)
        total_f1 += f1
    return total_f1 / len(n_predicted), n_correct.sum(axis=0) / support.sum(axis=0)


def exact_floats(counts: IntArray, n_utts: int) -> NDArray[np.floating[Any]]:
    """Return counts of at most `n_utts` utterances in the smallest floats that add them exactly.

    Their matrix product is far faster than that of integers.
    """
    return counts.astype(np.float32 if n_utts < 2**24 else np.float64)


@compiled
def _vote(
    ballots: IntArray, is_in: NDArray[np.bool_], n_classes: int, labels: NDArray[np.int16]
) -> None:
    """Label a block of subsets; members stand in the order in which they settle ties.

    One number per utterance and class holds how many members vote for it, times `_PLACES`, and how
    early the first of them stands in line: the largest wins.
    """
    n_members, n_utts = ballots.shape
    numbers = np.empty((n_classes, n_utts), dtype=np.int32)
    best = np.empty(n_utts, dtype=np.int32)
    for n in range(len(is_in)):
        numbers[:] = 0
        for place in range(1, n_members + 1):
            # From the end of the line, so that an earlier member replaces a later one's place.
            m = n_members - place
            if is_in[n, m]:
                for c in range(n_classes):
                    for u in range(n_utts):
                        more = np.int32((numbers[c, u] & -_PLACES) + _PLACES + place)
                        is_vote = ballots[m, u] == np.int32(c)
                        numbers[c, u] = more if is_vote else numbers[c, u]
        best[:] = 0
        labels[n, :] = _ABSTAIN
        for c in range(n_classes):
            for u in range(n_utts):
                is_better = numbers[c, u] > best[u]
                labels[n, u] = c if is_better else labels[n, u]
                best[u] = numbers[c, u] if is_better else best[u]
