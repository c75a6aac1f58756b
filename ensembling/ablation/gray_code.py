"""Scores of the vote of every subset of members, found by adding or removing one at a time.

In the order of the Gray code each subset differs from the one before by a single member, so only
that member's votes are added or taken away. What makes a step cheap is that one 32-bit number per
utterance and class holds all that the vote depends on, most important part first:

    bits 27-31  how many members of the subset vote for the class
    bits 7-26   which ones: one bit per member, the first in line for ties in the highest
    bits 0-6    the class itself

The largest of the K numbers wins. Among equal counts the one with the higher bit wins, and the
members' bits are different ones: exactly the rule that the first member in line with a vote among
the tied classes decides. A member adds or subtracts one constant. All loops run over utterances
without a branch, so the compiler handles many at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.labels import ABSTAIN
from abhinaya.errors import BadValueError
from ensembling.ablation.compiled import compiled, run_in_threads
from ensembling.voting.votes import rank_members

__all__ = ["MAX_CLASSES", "MAX_MEMBERS", "score_every_subset"]

MAX_MEMBERS = 20
"""Members that every subset is tried of: a million subsets, some seconds."""

_CLASS_BITS = 7
MAX_CLASSES = 1 << _CLASS_BITS
"""Classes that the numbers have room for."""

_COUNT_SHIFT = _CLASS_BITS + MAX_MEMBERS
_CLASS_MASK = np.uint32(MAX_CLASSES - 1)
_NOBODY = np.uint32(MAX_CLASSES)
_NO_CLASS = np.int32(ABSTAIN)
_NOTHING = np.uint32(0)
_BLOCK = 2048

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float64]


def score_every_subset(
    votes: IntArray,
    truth: IntArray,
    n_classes: int,
    tiebreak_order: Sequence[int] = (),
    how_often: IntArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Score the plurality vote of every subset of the members: macro-F1 and accuracy.

    Subsets are numbered by bit mask: bit i stands for row i of `votes`. Within a subset a tie is
    settled as in `ensembling.voting.votes.plurality`, by its own members alone; an utterance on
    which all of them abstain counts as wrong.

    Args:
        votes: class index chosen by each member, shape (M, U), values in [0, K) or `ABSTAIN`.
        truth: true class index, shape (U,), values in [0, K).
        n_classes: K; macro-F1 is the mean over all of them, with zero for undefined.
        tiebreak_order: member indices that settle ties, first one first; the members left out
            follow in the order of the rows of `votes`.
        how_often: how many utterances each column stands for, shape (U,); by default one.

    Returns:
        macro_f1: in [0, 1], shape (2 ** M,); entry 0 is the empty subset and 0.
        accuracy: likewise.

    Raises:
        BadValueError: if there are more members or classes than fit.
    """
    n_members = len(votes)
    if n_members > MAX_MEMBERS or n_classes > MAX_CLASSES:
        raise BadValueError(
            f"Every subset of {n_members} members with {n_classes} classes was asked for, expected "
            f"at most {MAX_MEMBERS} members and {MAX_CLASSES} classes. Search by a beam instead, "
            "with --beam on the command line."
        )
    rank = np.empty(n_members, dtype=np.int64)
    rank[rank_members(tiebreak_order, n_members)] = np.arange(n_members)
    weights = ((1 << _COUNT_SHIFT) + (1 << (_COUNT_SHIFT - 1 - rank))).astype(np.uint32)

    # Sorted by true class, the utterances of a class are one stretch.
    order = np.argsort(truth, kind="stable")
    n_columns = np.bincount(truth, minlength=n_classes)
    edges = np.concatenate([[0], np.cumsum(n_columns)])
    sorted_votes = np.ascontiguousarray(votes[:, order], dtype=np.int32)
    counts, support = None, n_columns
    if how_often is not None:
        counts = how_often[order].astype(np.uint32)
        support = np.bincount(truth, how_often, minlength=n_classes).astype(np.int64)

    n_subsets = 1 << n_members
    macro_f1, accuracy = np.zeros(n_subsets), np.zeros(n_subsets)

    def work(first: int, end: int) -> None:
        _score_steps(sorted_votes, counts, weights, support, edges, first, end, macro_f1, accuracy)

    run_in_threads(work, n_subsets, max(1, n_subsets // _BLOCK))
    return macro_f1, accuracy


@compiled
def _score_steps(
    votes: IntArray,
    counts: NDArray[np.uint32] | None,
    weights: NDArray[np.uint32],
    support: IntArray,
    edges: IntArray,
    first: int,
    end: int,
    macro_f1: FloatArray,
    accuracy: FloatArray,
) -> None:
    """Score the subsets at the steps `first` to `end` of the Gray code, into the last two.

    Args:
        votes: shape (M, U), utterances sorted by true class.
        counts: how many utterances each column stands for, shape (U,); None for one.
        weights: what each member adds to the number of the class it votes for, shape (M,).
        support: utterances of each true class, shape (K,).
        edges: where each true class starts, and the end, shape (K + 1,).
        first: first step.
        end: step after the last one.
        macro_f1: by bit mask, shape (2 ** M,).
        accuracy: by bit mask, shape (2 ** M,).
    """
    n_members, n_utts = votes.shape
    n_classes, n_all = len(support), support.sum()
    numbers = np.empty((n_classes, n_utts), dtype=np.uint32)
    best = np.empty(n_utts, dtype=np.uint32)
    winners = np.empty(n_utts, dtype=np.int32)
    for c in range(n_classes):
        numbers[c, :] = c

    # The subset before the first one, member by member.
    before = (first - 1) ^ ((first - 1) >> 1) if first > 0 else 0
    for m in range(n_members):
        if (before >> m) & 1:
            _add(numbers, best, votes[m], weights[m])

    for step in range(first, end):
        subset = step ^ (step >> 1)
        changed = subset ^ before
        before = subset
        if changed == 0:  # the empty subset, at step 0
            continue
        m = 0
        while (changed >> m) & 1 == 0:
            m += 1
        # Unsigned numbers wrap around, so adding the negative takes away.
        weight = weights[m] if subset & changed else np.uint32(_NOTHING - weights[m])
        _add(numbers, best, votes[m], weight)

        for u in range(n_utts):
            winner = np.int32(best[u] & _CLASS_MASK)
            winners[u] = winner if best[u] >= _NOBODY else _NO_CLASS
        total_f1 = 0.0
        n_all_correct = 0
        for c in range(n_classes):
            if counts is None:
                n_predicted = _count(winners, c)
                n_correct = _count(winners[edges[c] : edges[c + 1]], c)
            else:
                n_predicted = _count_all(winners, c, counts)
                stretch = slice(edges[c], edges[c + 1])
                n_correct = _count_all(winners[stretch], c, counts[stretch])
            n_all_correct += n_correct
            if support[c] + n_predicted > 0:
                total_f1 += 2.0 * n_correct / (support[c] + n_predicted)
        macro_f1[subset] = total_f1 / n_classes
        accuracy[subset] = n_all_correct / n_all


@compiled
def _add(
    numbers: NDArray[np.uint32], best: NDArray[np.uint32], votes: IntArray, weight: np.uint32
) -> None:
    """Add a member's weight where it votes, and find the largest number of each utterance."""
    best[:] = 0
    for c in range(len(numbers)):
        for u in range(len(best)):
            # Without the casts numba computes in 64 bits, half as many at once.
            number = np.uint32(numbers[c, u] + (weight if votes[u] == np.int32(c) else _NOTHING))
            numbers[c, u] = number
            best[u] = max(best[u], number)


@compiled
def _count(winners: NDArray[np.int32], class_idx: int) -> int:
    """Count the winners that are that class."""
    n = np.uint32(0)
    for u in range(len(winners)):
        n = np.uint32(n + np.uint32(winners[u] == np.int32(class_idx)))
    return int(n)


@compiled
def _count_all(winners: NDArray[np.int32], class_idx: int, counts: NDArray[np.uint32]) -> int:
    """Count the utterances of the winners that are that class."""
    n = np.uint32(0)
    for u in range(len(winners)):
        n = np.uint32(n + (counts[u] if winners[u] == np.int32(class_idx) else _NOTHING))
    return int(n)
