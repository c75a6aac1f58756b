"""Whether a table is right as often as its probabilities say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.labels import ABSTAIN

__all__ = ["Calibration", "Reliability", "measure_calibration", "measure_reliability"]

_N_BINS = 15


@dataclass(frozen=True)
class Calibration:
    """How far probabilities are to be trusted.

    Args:
        ece: expected calibration error, in [0, 1].
        brier: mean Brier score, in [0, 2].
        n_utts: rows behind it, those with a prediction and probabilities.
    """

    ece: float
    brier: float
    n_utts: int


def measure_calibration(
    truth: NDArray[np.integer[Any]],
    predicted: NDArray[np.integer[Any]],
    probs: NDArray[np.floating[Any]] | None,
) -> Calibration | None:
    """Measure expected calibration error and Brier score.

    The confidence of a row is its largest probability. 15 bins of equal width, ((m - 1) / 15,
    m / 15], sort the rows by it; the ECE is the mean over rows of the distance between accuracy and
    mean confidence of their bin. The Brier score of a row is the sum over classes of
    (p(c) - [c is true]) ** 2. Rows that abstained, or have no probabilities, are left out: nothing
    was claimed there that could be wrong.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017, eq. 3, arXiv:1706.04599.

    Args:
        truth: class indices, shape (U,), values in [0, K).
        predicted: class indices, shape (U,); `ABSTAIN` for an abstention.
        probs: class probabilities, shape (U, K), NaN rows where there are none; None for no row.

    Returns:
        What was measured; None if no row has both.

    Example:
        Sure to .8 and right twice out of three times.

        >>> probs = np.array([[0.8, 0.2]] * 3)
        >>> found = measure_calibration(np.array([0, 0, 1]), np.array([0, 0, 0]), probs)
        >>> round(found.ece, 4), round(found.brier, 4)
        (0.1333, 0.48)
    """
    if probs is None:
        return None
    kept = _claims(predicted, probs)
    if len(kept) == 0:
        return None
    p = probs[kept].astype(np.float64)
    confidence = p.max(axis=1)
    gaps = np.bincount(_bins(confidence), weights=(predicted[kept] == truth[kept]) - confidence)
    of_truth = p[np.arange(len(p)), truth[kept]]
    squares = np.einsum("uk,uk->u", p, p) - 2 * of_truth + 1
    return Calibration(float(np.abs(gaps).sum() / len(p)), float(squares.mean()), len(p))


@dataclass(frozen=True, eq=False)
class Reliability:
    """How often rows are right, by how sure they are: what the calibration error is made of.

    Args:
        confidence: mean highest probability of each bin, shape (15,); NaN in an empty one.
        accuracy: share of right rows in each, shape (15,); NaN in an empty one.
        counts: rows in each, shape (15,).
    """

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    counts: NDArray[np.int64]


def measure_reliability(
    truth: NDArray[np.integer[Any]],
    predicted: NDArray[np.integer[Any]],
    probs: NDArray[np.floating[Any]] | None,
) -> Reliability | None:
    """Measure the bins behind the error of `measure_calibration`, arguments and rows as there.

    Example:
        >>> probs = np.array([[0.8, 0.2]] * 3)
        >>> found = measure_reliability(np.array([0, 0, 1]), np.array([0, 0, 0]), probs)
        >>> int(found.counts[11]), round(float(found.accuracy[11]), 4)
        (3, 0.6667)
    """
    if probs is None or len(kept := _claims(predicted, probs)) == 0:
        return None
    confidence = probs[kept].astype(np.float64).max(axis=1)
    bins = _bins(confidence)
    counts = np.bincount(bins, minlength=_N_BINS)
    is_right = (predicted[kept] == truth[kept]).astype(np.float64)
    means = [
        np.divide(
            np.bincount(bins, weights=values, minlength=_N_BINS),
            counts,
            out=np.full(_N_BINS, np.nan),
            where=counts > 0,
        )
        for values in (confidence, is_right)
    ]
    return Reliability(means[0], means[1], counts)


def _claims(
    predicted: NDArray[np.integer[Any]], probs: NDArray[np.floating[Any]]
) -> NDArray[np.int64]:
    """Return the rows with a prediction and probabilities."""
    return np.flatnonzero((predicted != ABSTAIN) & ~np.isnan(probs).any(axis=1))


def _bins(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.clip(np.ceil(confidence * _N_BINS).astype(np.int64) - 1, 0, _N_BINS - 1)
