"""Votes that weigh: means of probabilities, and ballots that count more or less, on plain arrays.

A member takes part in an utterance where it has a label; one that abstained is left out of the
mean. Classes whose scores differ by rounding only are tied, and a tie is settled as in the plain
vote.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.labels import ABSTAIN
from abhinaya.errors import BadShapeError, BadValueError, list_some
from ensembling.aligned import AlignedTables
from ensembling.voting.votes import VoteResult, rank_members, settle_ties

__all__ = [
    "SMALLEST_PROB",
    "check_weights",
    "log_probs",
    "mean_probs",
    "pick_classes",
    "require_probs",
    "soft_vote",
    "softmax",
    "weighted_vote",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SMALLEST_PROB = 1e-7
"""Probabilities below are taken for this one before a logarithm: the resolution of float32, in
which tables are stored, near one. So one member's zero is a strong opinion but no veto."""

_ROUNDING = 1e-9


def soft_vote(
    aligned: AlignedTables,
    tiebreak_order: Sequence[int] = (),
    *,
    weights: FloatArray | None = None,
    geometric: bool = False,
) -> VoteResult:
    """Vote for the class of the highest mean probability.

    Args:
        aligned: what the members say.
        tiebreak_order: member indices that settle ties, first one first; the members left out
            follow as they stand.
        weights: of the members in the mean, shape (M,); all alike by default.
        geometric: whether to take the geometric mean, which is then scaled to sum to one, instead
            of the arithmetic one.

    Returns:
        The decision; `shares` are the mean probabilities, zero where all members abstained.

    Raises:
        BadValueError: if a member gives labels without probabilities, or see `check_weights`.
    """
    require_probs(aligned)
    means = mean_probs(aligned, weights=weights, geometric=geometric)
    return pick_classes(means, aligned.labels, tiebreak_order)


def weighted_vote(
    labels: IntArray, weights: FloatArray, n_classes: int, tiebreak_order: Sequence[int] = ()
) -> VoteResult:
    """Vote for the class whose voters weigh most together.

    Args:
        labels: class index chosen by each member, shape (M, U); `ABSTAIN` where it has none.
        weights: what a member's ballot counts, shape (M,), or by the class it says, shape (M, K).
        n_classes: K.
        tiebreak_order: member indices that settle ties, first one first; the members left out
            follow as they stand.

    Returns:
        The decision; `shares` are each class's part of the weight cast. If all ballots of an
        utterance weigh nothing, the classes voted for are tied and share alike.

    Raises:
        BadShapeError: if `weights` fits neither shape.
        BadValueError: if `weights` holds a negative or undefined number.
    """
    labels, weights = np.asarray(labels), np.asarray(weights, dtype=np.float64)
    n_members, n_utts = labels.shape
    if weights.shape not in ((n_members,), (n_members, n_classes)):
        raise BadShapeError(
            f"weights has shape {weights.shape}, expected ({n_members},) or "
            f"({n_members}, {n_classes}): one per member, or one per member and class."
        )
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise BadValueError(
            f"weights holds {weights.min()} to {weights.max()}, expected finite numbers that are "
            "not negative."
        )
    per_class = weights if weights.ndim == 2 else np.repeat(weights[:, None], n_classes, axis=1)
    utts = np.arange(n_utts)
    totals, was_named = np.zeros((n_utts, n_classes)), np.zeros((n_utts, n_classes), dtype=bool)
    for member in range(n_members):
        has_voted = labels[member] != ABSTAIN
        rows, classes = utts[has_voted], labels[member][has_voted]
        totals[rows, classes] += per_class[member, classes]
        was_named[rows, classes] = True
    weighs_nothing = totals.sum(axis=1) == 0
    totals[weighs_nothing] = was_named[weighs_nothing]
    return pick_classes(totals, labels, tiebreak_order)


def pick_classes(
    scores: FloatArray, labels: IntArray, tiebreak_order: Sequence[int] = ()
) -> VoteResult:
    """Pick the class of the highest score, ties settled by rank of the members.

    Args:
        scores: not negative, shape (U, K); a row of zeros or NaN means that nothing was said.
        labels: class index chosen by each member, shape (M, U).
        tiebreak_order: see `soft_vote`. Where no member named a tied class, the smallest wins.

    Returns:
        The decision; `shares` are the scores scaled to sum to one.
    """
    shares = np.nan_to_num(scores, nan=0.0)
    sums = shares.sum(axis=1, keepdims=True)
    nobody = sums[:, 0] == 0
    shares /= np.where(sums == 0, 1, sums)
    is_first = shares >= shares.max(axis=1, keepdims=True) - _ROUNDING
    winners, decided_by = settle_ties(is_first, labels, rank_members(tiebreak_order, len(labels)))
    winners[nobody] = ABSTAIN
    return VoteResult(winners, decided_by, shares, nobody)


def mean_probs(
    aligned: AlignedTables, *, weights: FloatArray | None = None, geometric: bool = False
) -> FloatArray:
    """Average the members' probabilities, shape (U, K); NaN where no member takes part.

    Args:
        aligned: what the members say.
        weights: of the members, shape (M,); all alike by default.
        geometric: whether to take the geometric mean, scaled to sum to one.

    Raises:
        BadShapeError: see `check_weights`.
        BadValueError: see `check_weights`.
    """
    n_members = len(aligned.names)
    weights = np.ones(n_members) if weights is None else check_weights(weights, n_members)
    takes_part = aligned.has_voted & aligned.has_probs
    total = np.zeros(len(aligned))
    for member, weight in enumerate(weights):
        total += weight * takes_part[member]
    means: FloatArray = np.zeros(aligned.probs.shape[1:])
    # One member at a time: that of all together would be the largest array of a vote.
    for member, probs in enumerate(aligned.probs):
        values = log_probs(probs) if geometric else probs
        # A product would turn a weight of zero times NaN into NaN.
        values = np.where(takes_part[member, :, None], values, 0.0)
        share = np.divide(
            weights[member] * takes_part[member], total, out=np.zeros_like(total), where=total > 0
        )
        means += share[:, None] * values
    if geometric:
        means = softmax(means)
    means[total == 0] = np.nan
    return means


def log_probs(probs: FloatArray) -> FloatArray:
    """Take logarithms of probabilities, none below that of `SMALLEST_PROB`; NaN stays NaN."""
    return np.asarray(np.log(np.maximum(probs, SMALLEST_PROB, dtype=np.float64)))


def softmax(logits: FloatArray) -> FloatArray:
    """Return probabilities over the last axis."""
    exps: FloatArray = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exps / exps.sum(axis=-1, keepdims=True))


def require_probs(aligned: AlignedTables) -> None:
    """Refuse members that give labels without probabilities.

    Raises:
        BadValueError: naming every such member, and on how many utterances.
    """
    is_bare = aligned.has_voted & ~aligned.has_probs
    bare = [
        f"{name!r} on {count} of {len(aligned)} utterances"
        for name, count in zip(aligned.names, is_bare.sum(axis=1).tolist(), strict=True)
        if count
    ]
    if bare:
        raise BadValueError(
            f"This rule works on probabilities, but there are only labels from {', '.join(bare)}. "
            "Leave these tables out, or take a rule that works on labels, such as plurality."
        )


def check_weights(weights: Sequence[float] | FloatArray, n_members: int) -> FloatArray:
    """Check members' weights, and return them as an array, shape (M,).

    Raises:
        BadShapeError: if there is not one per member.
        BadValueError: if one is not a positive number.
    """
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (n_members,):
        raise BadShapeError(
            f"weights has shape {values.shape}, expected ({n_members},), one per member."
        )
    wrong = values[~(np.isfinite(values) & (values > 0))]
    if len(wrong):
        raise BadValueError(
            f"A weight is {list_some(wrong.tolist())}, expected positive numbers. "
            "Leave a table out rather than giving it no weight."
        )
    return values
