"""How differently members err: pairs that agree, fail together, or complement each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.labels import ABSTAIN

__all__ = ["Diversity", "diversity", "oracle_labels"]

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Diversity:
    """Measures of every pair of members, symmetric matrices of shape (M, M).

    Args:
        agreement: share of the same class among the utterances on which both gave one, in [0, 1];
            NaN if there is none.
        double_fault: share of all utterances that both get wrong, in [0, 1]; small is diverse. On
            the diagonal stands each member's share of errors.
        q_statistic: Yule's Q of being right, in [-1, 1]: 1 if the same utterances are got right, 0
            if independent, negative if they complement each other; NaN where undefined, as for a
            member that is always right.
    """

    agreement: FloatArray
    double_fault: FloatArray
    q_statistic: FloatArray


def diversity(votes: IntArray, truth: IntArray, how_often: IntArray | None = None) -> Diversity:
    """Measure agreement, double fault and Q statistic of every pair of members.

    With n11 utterances that both get right, n00 both wrong, n10 and n01 one of them, the double
    fault is n00 / U and Q = (n11 n00 - n10 n01) / (n11 n00 + n10 n01). An abstention is wrong.

    Source: Kuncheva & Whitaker, "Measures of diversity in classifier ensembles and their
    relationship with the ensemble accuracy", Machine Learning 51, 2003, sections 2.1 and 2.4.

    Args:
        votes: class index chosen by each member, shape (M, U), or `ABSTAIN`.
        truth: true class index, shape (U,); U >= 1.
        how_often: how many utterances each column stands for, shape (U,); by default one.

    Example:
        >>> result = diversity(np.array([[0, 0, 1, 1], [0, 1, 0, 1]]), np.array([0, 0, 0, 0]))
        >>> float(result.agreement[0, 1]), float(result.q_statistic[0, 1])
        (0.5, 0.0)
    """
    n_members = len(votes)
    counts = np.ones(len(truth)) if how_often is None else how_often.astype(np.float64)
    n_agree, n_both_voted = np.zeros((n_members, n_members)), np.zeros((n_members, n_members))
    has_voted = votes != ABSTAIN
    for m in range(n_members):
        both_voted = has_voted & has_voted[m]
        n_agree[m] = ((votes == votes[m]) & both_voted) @ counts
        n_both_voted[m] = both_voted @ counts
    is_right = (votes == truth).astype(np.float64)
    is_wrong = 1 - is_right
    right, wrong = is_right * counts, is_wrong * counts
    n11, n00 = right @ is_right.T, wrong @ is_wrong.T
    n10, n01 = right @ is_wrong.T, wrong @ is_right.T
    return Diversity(
        agreement=_ratio(n_agree, n_both_voted),
        double_fault=n00 / counts.sum(),
        q_statistic=_ratio(n11 * n00 - n10 * n01, n11 * n00 + n10 * n01),
    )


def oracle_labels(votes: IntArray, truth: IntArray, voted: IntArray) -> NDArray[np.int64]:
    """Label as an oracle that picks a member that is right wherever there is one.

    Their score bounds what any rule that follows one of the members can reach.

    Args:
        votes: class index chosen by each member, shape (M, U).
        truth: true class index, shape (U,).
        voted: what to say where no member is right, shape (U,), such as the members' vote.

    Returns:
        Class indices, shape (U,).
    """
    return np.where((votes == truth).any(axis=0), truth, voted).astype(np.int64)


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    undefined = np.full_like(part, np.nan)
    return np.divide(part, whole, out=undefined, where=whole != 0)
