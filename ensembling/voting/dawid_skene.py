"""Members' confusions and the true classes, both estimated from nothing but the members' labels.

Source: Dawid and Skene, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM
Algorithm", Applied Statistics 28, 1979.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.labels import ABSTAIN
from abhinaya.errors import BadValueError
from ensembling.voting.soft_votes import softmax

__all__ = ["DawidSkene", "dawid_skene", "log_likelihoods", "smoothed"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_MIN_MEMBERS = 3


@dataclass(frozen=True, eq=False)
class DawidSkene:
    """What the members' labels say about the truth and about the members.

    Args:
        posterior: probability of each class, shape (U, K); the prior where all members abstained.
        confusions: probability that a member says a class (last axis) of a true class (middle one),
            shape (M, K, K).
        prior: share of each class, shape (K,).
    """

    posterior: FloatArray
    confusions: FloatArray
    prior: FloatArray


def dawid_skene(
    labels: IntArray,
    n_classes: int,
    *,
    known: FloatArray | None = None,
    smoothing: float = 1.0,
    max_rounds: int = 200,
    tolerance: float = 1e-6,
) -> DawidSkene:
    """Estimate true classes and confusions by expectation-maximisation, starting at vote shares.

    The model takes the members to err independently given the class. Members that share their
    errors look better than they are to it.

    Args:
        labels: class index chosen by each member, shape (M, U); `ABSTAIN` where it has none, which
            tells nothing.
        n_classes: K.
        known: counts out of labelled data that are added to those estimated here, shape (M, K, K):
            member, true class, class said. The first round then starts from them.
        smoothing: added to every count, so that nothing seen once is certain.
        max_rounds: at most so many rounds.
        tolerance: stops once no posterior changes by more.

    Raises:
        BadValueError: without `known`, if there are fewer than three members, whose confusions
            labels alone cannot tell apart.
    """
    n_members = len(labels)
    if known is None and n_members < _MIN_MEMBERS:
        raise BadValueError(
            f"Confusions cannot be estimated from the labels of {n_members} "
            f"{'table' if n_members == 1 else 'tables'}: who errs is told by a third. Give at "
            f"least {_MIN_MEMBERS} tables, or choose another rule, such as plurality."
        )
    # Equal columns are one column that counts more often: there are few even of a million rows.
    patterns, where, n_rows = np.unique(labels, axis=1, return_inverse=True, return_counts=True)
    said = patterns[:, :, None] == np.arange(n_classes)  # (M, P, K)
    has_voted = (patterns != ABSTAIN).any(axis=0)
    weights = n_rows * has_voted
    shares = said.sum(axis=0) / np.maximum(said.sum(axis=(0, 2))[:, None], 1)
    base = np.zeros((n_members, n_classes, n_classes)) if known is None else known

    def maximize(posterior: FloatArray, counts: FloatArray) -> tuple[FloatArray, FloatArray]:
        totals = weights @ posterior + base.sum(axis=(0, 2)) / n_members
        return smoothed(counts, smoothing), (totals + smoothing) / (totals + smoothing).sum()

    def counted(posterior: FloatArray) -> FloatArray:
        weighed = posterior * weights[:, None]
        return np.asarray(np.einsum("pt,mps->mts", weighed, said)) + base

    posterior = shares
    start = counted(shares) if known is None else base
    confusions, prior = maximize(shares, start)
    for _ in range(max_rounds):
        before = posterior
        posterior = softmax(log_likelihoods(patterns, confusions) + np.log(prior))
        confusions, prior = maximize(posterior, counted(posterior))
        if np.abs(posterior - before)[has_voted].max(initial=0) <= tolerance:
            break
    return DawidSkene(posterior[where.reshape(-1)], confusions, prior)


def smoothed(counts: FloatArray, smoothing: float) -> FloatArray:
    """Return P(said | true) from counts, shape (M, K, K), with `smoothing` added to each."""
    counts = counts + smoothing
    return np.asarray(counts / counts.sum(axis=2, keepdims=True))


def log_likelihoods(labels: IntArray, confusions: FloatArray) -> FloatArray:
    """Return the log likelihood of what the members said under each true class, shape (U, K).

    Args:
        labels: shape (M, U); an abstention tells nothing.
        confusions: shape (M, K, K), all positive.
    """
    total = np.zeros((labels.shape[1], confusions.shape[1]))
    for said, confusion in zip(labels, np.log(confusions), strict=True):
        total += np.where((said == ABSTAIN)[:, None], 0.0, confusion.T[said])
    return total
