"""Subsets of members with their scores: all of them, or those that a beam search meets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.errors import BadValueError
from ensembling.ablation.gray_code import score_every_subset
from ensembling.ablation.subset_votes import exact_floats, score_labels, vote_subsets

__all__ = ["MAX_TABLES", "Ballots", "Subsets", "beam_search", "every_subset", "members_of"]

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

MAX_TABLES = 64
"""Members that a bit mask has room for."""

# Subsets times utterances voted at a time.
_BLOCK_CELLS = 6_400_000


@dataclass(frozen=True, eq=False)
class Ballots:
    """What the members voted, what is true, and who settles ties.

    Args:
        votes: class index chosen by each member, shape (M, U), values in [0, K) or `ABSTAIN`.
        truth: true class index, shape (U,), values in [0, K).
        n_classes: K.
        tiebreak_order: member indices that settle ties, first one first; the members left out
            follow in the order of the rows of `votes`.
        which: column that each utterance stands in, where `merge_equal` has put several into one;
            U is then the number of columns.
    """

    votes: IntArray
    truth: IntArray
    n_classes: int
    tiebreak_order: Sequence[int] = ()
    which: NDArray[np.int64] | None = None

    @cached_property
    def how_often(self) -> NDArray[np.int64] | None:
        """Return how many utterances each column stands for, shape (U,); None for one."""
        return None if self.which is None else np.bincount(self.which, minlength=len(self.truth))

    def merge_equal(self) -> Ballots:
        """Put utterances of one truth and the same votes into one column, if that saves half.

        A million utterances of five tables have some ten thousand patterns; few utterances of many
        tables have almost as many as there are utterances.
        """
        codes, n_codes = self.truth.astype(np.int64), self.n_classes
        for votes in self.votes:
            if n_codes > 2**62 // (self.n_classes + 1):  # the next digit could be too many
                found, codes = np.unique(codes, return_inverse=True)
                n_codes = len(found)
            codes = codes * (self.n_classes + 1) + votes + 1
            n_codes *= self.n_classes + 1
        _, first, which = np.unique(codes, return_index=True, return_inverse=True)
        if 2 * len(first) > len(codes):
            return self
        return replace(self, votes=self.votes[:, first], truth=self.truth[first], which=which)

    def vote(self, subsets: BoolArray) -> NDArray[np.int16]:
        """Vote in each subset (True for its members, shape (N, M)); return labels, shape (N, U)."""
        return vote_subsets(self.votes, subsets, self.n_classes, self.tiebreak_order)

    def score(self, subsets: BoolArray) -> tuple[FloatArray, FloatArray]:
        """Score the vote of each subset: macro-F1 and accuracy, shape (N,)."""
        # Bounds the memory to some 40 MB.
        block = max(1, _BLOCK_CELLS // len(self.truth))
        scores = [
            self.score_labels(self.vote(subsets[at : at + block]))
            for at in range(0, len(subsets), block)
        ]
        macro_f1, accuracy = zip(*scores, strict=True)
        return np.concatenate(macro_f1), np.concatenate(accuracy)

    def score_labels(self, labels: IntArray) -> tuple[FloatArray, FloatArray]:
        """Score sets of labels, shape (N, U): macro-F1 and accuracy, shape (N,)."""
        counts, weights = self.how_often, None
        if counts is not None:
            weights = exact_floats(counts, int(counts.sum()))[np.newaxis]
        macro_f1, accuracy = score_labels(labels, self.truth, self.n_classes, weights)
        return macro_f1[:, 0], accuracy[:, 0]


@dataclass(frozen=True, eq=False)
class Subsets:
    """Scored subsets of members, best first; among equals the smaller, then that of earlier ones.

    Args:
        masks: bit i is set where member i belongs to the subset, shape (N,).
        sizes: number of members, shape (N,).
        macro_f1: in [0, 1], shape (N,).
        accuracy: in [0, 1], shape (N,).
    """

    masks: NDArray[np.uint64]
    sizes: NDArray[np.int64]
    macro_f1: FloatArray
    accuracy: FloatArray

    def __len__(self) -> int:
        return len(self.masks)

    def best_of_each_size(self) -> list[int]:
        """Return the place of the best subset of every size there is, smallest size first."""
        return [int(idx) for idx in np.unique(self.sizes, return_index=True)[1]]


def every_subset(ballots: Ballots, max_size: int) -> tuple[Subsets, FloatArray]:
    """Score all subsets of up to `max_size` members.

    Args:
        ballots: of at most `gray_code.MAX_MEMBERS` members.
        max_size: larger subsets are left out.

    Returns:
        subsets: those that are small enough, without the empty one.
        macro_f1: of every subset by bit mask, shape (2 ** M,).

    Raises:
        BadValueError: if there are more members or classes than can be enumerated.
    """
    macro_f1, accuracy = score_every_subset(
        ballots.votes,
        ballots.truth,
        ballots.n_classes,
        ballots.tiebreak_order,
        ballots.how_often,
    )
    masks = np.arange(1, len(macro_f1), dtype=np.uint64)
    subsets = _ranked(masks, len(ballots.votes), macro_f1[1:], accuracy[1:], max_size)
    return subsets, macro_f1


def beam_search(ballots: Ballots, max_size: int, width: int) -> Subsets:
    """Score the subsets met when the best of each size grow by one member at a time.

    The best subset need not be among them: it can grow out of weak ones only.

    Args:
        ballots: of at most `MAX_TABLES` members.
        max_size: size at which to stop.
        width: how many subsets of each size are kept and grown.

    Returns:
        Every subset that was scored.

    Raises:
        BadValueError: if there are too many members, or `width` is below 1.
    """
    n_members = len(ballots.votes)
    if n_members > MAX_TABLES or width < 1:
        raise BadValueError(
            f"A beam search of width {width} over {n_members} members was asked for, expected a "
            f"width of at least 1 and at most {MAX_TABLES} members. Leave out the weakest."
        )
    bits = np.uint64(1) << np.arange(n_members, dtype=np.uint64)
    kept = np.zeros(1, dtype=np.uint64)
    found = []
    for _ in range(max_size):
        grown = kept[:, np.newaxis] | bits
        masks = np.unique(grown[(kept[:, np.newaxis] & bits) == 0])
        macro_f1, accuracy = ballots.score(members_of(masks, n_members))
        found.append((masks, macro_f1, accuracy))
        # Masks are sorted, so a stable sort prefers earlier members among equals.
        kept = masks[np.argsort(-macro_f1, kind="stable")[:width]]
    masks, macro_f1, accuracy = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _ranked(masks, n_members, macro_f1, accuracy, max_size)


def members_of(masks: NDArray[np.uint64], n_members: int) -> BoolArray:
    """Return True where a member belongs to a subset, shape (N, M)."""
    bits = np.arange(n_members, dtype=np.uint64)
    return (masks[:, np.newaxis] >> bits & np.uint64(1)).astype(bool)


def _ranked(
    masks: NDArray[np.uint64],
    n_members: int,
    macro_f1: FloatArray,
    accuracy: FloatArray,
    max_size: int,
) -> Subsets:
    sizes = np.zeros(len(masks), dtype=np.int64)
    for member in range(n_members):
        sizes += (masks >> np.uint64(member) & np.uint64(1)).astype(np.int64)
    small = np.flatnonzero(sizes <= max_size)
    order = small[np.lexsort((masks[small], sizes[small], -macro_f1[small]))]
    return Subsets(masks[order], sizes[order], macro_f1[order], accuracy[order])
