"""Unweighted plurality vote with a declared tie rule, on plain arrays.

A tie is settled by the first member, in the order of the tiebreakers and then of the members as
given, whose vote is among the tied classes; under the strict rule by the first that voted at all.
An abstention is never counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.labels import ABSTAIN
from abhinaya.errors import BadShapeError, BadValueError, list_some

__all__ = [
    "MAJORITY",
    "VoteResult",
    "break_ties",
    "majority_vote",
    "plurality",
    "rank_members",
    "settle_ties",
]

IntArray = NDArray[np.integer[Any]]
BoolArray = NDArray[np.bool_]

MAJORITY = -1
"""Value of `decided_by` where no member had to break a tie."""


@dataclass(frozen=True, eq=False)
class VoteResult:
    """What a vote decided, one entry per utterance.

    Args:
        labels: class index, shape (U,); `ABSTAIN` where all members abstained.
        decided_by: index of the member that broke the tie, shape (U,); `MAJORITY` where none had
            to.
        shares: each class's share of the votes cast, shape (U, K); rows sum to 1, or are all zero
            where all members abstained.
        all_abstained: True where no member voted, shape (U,).
    """

    labels: NDArray[np.int64]
    decided_by: NDArray[np.int64]
    shares: NDArray[np.float64]
    all_abstained: BoolArray


def plurality(
    votes: IntArray,
    n_classes: int,
    tiebreak_order: Sequence[int] = (),
    *,
    strict: bool = False,
) -> VoteResult:
    """Vote as an ensemble: most voted class, ties settled by rank of the members.

    Args:
        votes: class index chosen by each member, shape (M, U), values in [0, K) or `ABSTAIN`.
        n_classes: K, the number of classes, also when some of them got no vote.
        tiebreak_order: member indices that settle ties, first one first; the members left out
            follow in the order of the rows of `votes`.
        strict: whether the first member in that order that did not abstain wins any tie, even with
            a class that is not among the tied ones.

    Returns:
        Labels, who decided them, vote shares, and where nobody voted.

    Raises:
        BadShapeError: if `votes` is not two-dimensional or has no members.
        BadValueError: if a vote is neither `ABSTAIN` nor a class index, or `tiebreak_order` names a
            member twice or one that does not exist.

    Example:
        >>> votes = np.array([[0, 1, 2, -1], [0, 5, 3, -1], [4, 5, 6, -1]])
        >>> result = plurality(votes, n_classes=8, tiebreak_order=[1])
        >>> result.labels.tolist(), result.decided_by.tolist()
        ([0, 5, 3, -1], [-1, -1, 1, -1])
    """
    counts = _count_votes(votes, n_classes, ABSTAIN)
    is_first = counts == counts.max(axis=1, keepdims=True)
    ranked = rank_members(tiebreak_order, len(votes))
    labels, decided_by = settle_ties(is_first, votes, ranked, strict=strict)
    n_cast = counts.sum(axis=1, keepdims=True)
    labels[n_cast[:, 0] == 0] = ABSTAIN
    return VoteResult(
        labels=labels,
        decided_by=decided_by,
        # Where nothing was cast, 0 / 1 keeps the shares at zero.
        shares=counts / np.maximum(n_cast, 1),
        all_abstained=n_cast[:, 0] == 0,
    )


def majority_vote(
    votes: IntArray, n_classes: int, *, abstain: int = ABSTAIN
) -> tuple[NDArray[np.int64], BoolArray]:
    """Find the most voted class of every utterance, and whether it had to share first place.

    A tied utterance gets its smallest tied class for now; `break_ties`, which every caller runs
    next, decides. An utterance on which all members abstain is reported as tied between all
    classes.

    Args:
        votes: class index chosen by each member, shape (M, U), values in [0, K) or `abstain`.
        n_classes: K, the number of classes, also when some of them got no vote.
        abstain: value that stands for "no opinion", outside [0, K); it is never counted.

    Returns:
        winners: class index per utterance, shape (U,).
        tied: True where at least two classes share the highest count, shape (U,).

    Raises:
        BadShapeError: if `votes` is not two-dimensional or has no members.
        BadValueError: if a vote is neither `abstain` nor a class index.

    Example:
        >>> votes = np.array([[0, 5, 2], [0, 5, 3], [4, -1, 6]])
        >>> winners, tied = majority_vote(votes, n_classes=8)
        >>> winners.tolist(), tied.tolist()
        ([0, 5, 2], [False, False, True])
    """
    counts = _count_votes(votes, n_classes, abstain)
    is_first = counts == counts.max(axis=1, keepdims=True)
    return counts.argmax(axis=1), is_first.sum(axis=1) > 1


def break_ties(
    votes: IntArray,
    winners: IntArray,
    tied: BoolArray,
    order: Sequence[int],
    n_classes: int,
    *,
    abstain: int = ABSTAIN,
    strict: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Settle each tie by the first member in line with a vote among its classes.

    A member whose own vote is not among the tied classes, or who abstains, passes the tie on to
    the next.

    Args:
        votes: the votes that were counted, shape (M, U).
        winners: class index per utterance from `majority_vote`, shape (U,).
        tied: where the winner is not settled, from `majority_vote`, shape (U,).
        order: member indices that settle ties, first one first; the members left out follow in the
            order of the rows of `votes`.
        n_classes: K.
        abstain: value that stands for "no opinion".
        strict: whether the first member in line that did not abstain wins, whatever its class.

    Returns:
        labels: class index per utterance, shape (U,); `abstain` where all members abstained.
        decided_by: member that broke the tie, shape (U,); `MAJORITY` where there was nothing to
            break.

    Raises:
        BadShapeError: if `votes` is not two-dimensional or has no members, or `winners` or `tied`
            do not have one entry per utterance.
        BadValueError: if a vote is neither `abstain` nor a class index, or `order` names a member
            twice or one that does not exist.

    Example:
        >>> votes = np.array([[0, 3], [1, 3], [1, 2], [0, 2]])
        >>> winners, tied = majority_vote(votes, n_classes=4)
        >>> labels, decided_by = break_ties(votes, winners, tied, [2], n_classes=4)
        >>> labels.tolist(), decided_by.tolist()
        ([1, 2], [2, 2])
    """
    counts = _count_votes(votes, n_classes, abstain)
    n_members, n_utts = np.shape(votes)
    for name, values in (("winners", winners), ("tied", tied)):
        if np.shape(values) != (n_utts,):
            raise BadShapeError(
                f"{name} has shape {np.shape(values)}, expected ({n_utts},), one entry per "
                "utterance. Pass what majority_vote returned for the same votes."
            )
    is_first = counts == counts.max(axis=1, keepdims=True)
    labels, decided_by = settle_ties(
        is_first, votes, rank_members(order, n_members), abstain=abstain, strict=strict
    )
    # A caller may have settled some rows already.
    is_broken = np.asarray(tied, dtype=bool) & (decided_by != MAJORITY)
    labels = np.where(is_broken, labels, winners).astype(np.int64)
    labels[counts.sum(axis=1) == 0] = abstain
    return labels, np.where(is_broken, decided_by, MAJORITY)


def settle_ties(
    is_first: BoolArray,
    votes: IntArray,
    ranked: IntArray,
    *,
    abstain: int = ABSTAIN,
    strict: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pick the one class that shares first place, or the one that the members' rank picks.

    Args:
        is_first: True for every class in first place, by whatever score, shape (U, K).
        votes: class index chosen by each member, shape (M, U).
        ranked: all member indices, the first in line first, shape (M,); see `rank_members`.
        abstain: value of `votes` that stands for "no opinion".
        strict: whether the first member in line that did not abstain wins, whatever its class.

    Returns:
        labels: class index per utterance, shape (U,). A tie among classes that no member voted for
            goes to the smallest of them.
        decided_by: member that broke the tie, shape (U,); `MAJORITY` where there was nothing to
            break, or no member could.
    """
    utts = np.arange(len(is_first))
    ballots = np.asarray(votes)[ranked]  # (M, U), first tiebreaker in the first row
    is_decisive = ballots != abstain
    if not strict:
        # An abstention looks up some class here and is masked out.
        is_decisive &= is_first[utts, np.where(ballots == abstain, 0, ballots)]
    rank = is_decisive.argmax(axis=0)  # (U,), the first True of each column
    is_broken = (is_first.sum(axis=1) > 1) & is_decisive.any(axis=0)
    labels = np.where(is_broken, ballots[rank, utts], is_first.argmax(axis=1))
    return labels.astype(np.int64), np.where(is_broken, ranked[rank], MAJORITY)


def _count_votes(votes: IntArray, n_classes: int, abstain: int) -> NDArray[np.int64]:
    """Check votes, and count those cast for each class, shape (U, K)."""
    votes = np.asarray(votes)
    if votes.ndim != 2 or len(votes) == 0:
        raise BadShapeError(
            f"votes has shape {votes.shape}, expected (n_members, n_utts) with at least one "
            "member. Stack one row of class indices per member."
        )
    if n_classes < 1 or 0 <= abstain < n_classes:
        raise BadValueError(
            f"n_classes is {n_classes} and abstain is {abstain}, expected at least one class and "
            f"an abstain value that is no class index. Use {ABSTAIN} for abstentions."
        )
    if not np.issubdtype(votes.dtype, np.integer):
        raise BadValueError(
            f"votes holds {votes.dtype} values, expected integers. Encode the labels first."
        )
    has_voted = votes != abstain
    wrong = votes[has_voted & ((votes < 0) | (votes >= n_classes))]
    if len(wrong) > 0:
        raise BadValueError(
            f"votes holds {list_some(np.unique(wrong).tolist())} ({len(wrong)} of {votes.size} "
            f"entries), expected 0 to {n_classes - 1}, or {abstain} for an abstention. "
            "Check that all members use the same emotion set."
        )
    counts = np.zeros((votes.shape[1], n_classes), dtype=np.int64)
    for ballots, is_cast in zip(votes, has_voted, strict=True):  # one row per utterance each
        utts = np.flatnonzero(is_cast)
        counts[utts, ballots[utts]] += 1
    return counts


def rank_members(order: Sequence[int], n_members: int) -> NDArray[np.int64]:
    """Rank all member indices, those in `order` first and the others as they stand, shape (M,).

    Raises:
        BadValueError: if `order` names a member twice or one that does not exist.
    """
    unknown = [idx for idx in order if not 0 <= idx < n_members]
    if unknown:
        raise BadValueError(
            f"The tiebreak order names member {list_some(unknown)}, expected indices from 0 to "
            f"{n_members - 1}. Leave out members that do not vote here."
        )
    if len(set(order)) != len(order):
        raise BadValueError(
            f"The tiebreak order {list(order)!r} names a member twice, expected each at most once. "
            "Remove the repetition."
        )
    rest = [idx for idx in range(n_members) if idx not in set(order)]
    return np.array([*order, *rest], dtype=np.int64)
