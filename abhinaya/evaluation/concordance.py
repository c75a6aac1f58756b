"""Lin's concordance correlation coefficient (CCC): how near numbers are to the true ones."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.attributes import ATTRIBUTES, find_outside
from abhinaya.data.predictions import PredictionTable
from abhinaya.data.texts import Texts, find_rows
from abhinaya.errors import BadShapeError, ProblemsError
from abhinaya.evaluation.bootstrap import blocks, number_groups
from abhinaya.evaluation.scoring import Truth

__all__ = ["Concordance", "ccc", "ccc_intervals", "score_attributes"]

FloatArray = NDArray[np.floating[Any]]


def ccc(predicted: FloatArray, truth: FloatArray) -> float:
    """Return the concordance correlation coefficient of the rows where both are known.

    CCC = 2 cov(p, t) / (var(p) + var(t) + (mean(p) - mean(t))^2), with variances and covariance
    divided by the number of rows (ddof=0), as audmetric and the challenges compute it. It is 0
    where one of the two does not vary, and NaN where there is none: of fewer than two rows, or
    where both are one and the same number.

    Source: Lin, "A Concordance Correlation Coefficient to Evaluate Reproducibility", Biometrics
    45(1), 1989.

    Args:
        predicted: shape (U,), NaN where unknown.
        truth: shape (U,), NaN where unknown.

    Raises:
        BadShapeError: if the shapes differ.

    Example:
        >>> round(ccc(np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.0, 4.0])), 4)
        0.5714
    """
    if predicted.ndim != 1 or predicted.shape != truth.shape:
        raise BadShapeError(
            f"predicted has shape {predicted.shape} and truth {truth.shape}, expected (n_utts,) "
            "twice. Pass one number per utterance."
        )
    known = ~(np.isnan(predicted) | np.isnan(truth))
    p, t = predicted[known].astype(np.float64), truth[known].astype(np.float64)
    if len(p) < 2:
        return float("nan")
    spread = p.var() + t.var() + (p.mean() - t.mean()) ** 2
    if spread == 0:
        return float("nan")
    return float(2 * ((p - p.mean()) * (t - t.mean())).mean() / spread)


@dataclass(frozen=True)
class Concordance:
    """How good one attribute of a table is.

    Args:
        attribute: arousal, valence or dominance.
        ccc: see `ccc`; NaN where there is none.
        interval: 95 % bootstrap interval, lower and upper end.
        n_utts: utterances that are both predicted and known.
    """

    attribute: str
    ccc: float
    interval: tuple[float, float]
    n_utts: int


def score_attributes(
    table: PredictionTable,
    truth: Truth,
    *,
    n_resamples: int = 10_000,
    seed: int = 0,
    by_speaker: bool = False,
) -> list[Concordance]:
    """Score each attribute that a table predicts and the truth knows of some row.

    Every such row counts, whatever its class: O, X and abstentions too.

    Args:
        table: predictions.
        truth: a manifest's; it must cover the table.
        n_resamples: number of bootstrap resamples behind the intervals.
        seed: of the bootstrap.
        by_speaker: resample speakers instead of utterances.

    Raises:
        ProblemsError: if the truth has values outside [1, 7].
    """
    if table.attributes is None or truth.attributes is None:
        return []
    places = find_rows(table.utterances, truth.utterances)
    known, predicted = truth.attributes[places], table.attributes
    problems = find_outside(known, table.utterances)
    if problems:
        raise ProblemsError(truth.where, problems)
    groups = Texts(truth.speakers).take(places) if by_speaker else None
    intervals = ccc_intervals(predicted, known, groups=groups, n_resamples=n_resamples, seed=seed)
    counts = (~np.isnan(predicted + known)).sum(axis=0).tolist()
    return [
        Concordance(attribute, ccc(predicted[:, idx], known[:, idx]), intervals[idx], counts[idx])
        for idx, attribute in enumerate(ATTRIBUTES)
        if counts[idx]
    ]


def ccc_intervals(
    predicted: FloatArray,
    truth: FloatArray,
    *,
    groups: Sequence[Hashable] | None = None,
    n_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int,
) -> list[tuple[float, float]]:
    """Return the percentile bootstrap interval of the CCC of each attribute.

    A resample is as many utterances as there are, or groups of them, drawn with replacement; one
    without a CCC does not count.

    Args:
        predicted: shape (U, A), NaN where unknown.
        truth: shape (U, A), NaN where unknown.
        groups: such as the speaker of each utterance; None means unknown, a group of its own.
        n_resamples: number of resamples.
        confidence: probability between the two ends.
        seed: the same seed gives the same intervals.
    """
    known = ~np.isnan(predicted + truth)
    # Near zero, so that sums of squares keep their digits; a common shift changes no CCC.
    p, t = (np.where(known, values.astype(np.float64) - 4.0, 0.0) for values in (predicted, truth))
    sums = np.stack([known, p, t, p * p, t * t, p * t], axis=2)  # (U, A, 6)
    n_units, width = len(sums), sums[0].size
    flat = sums.reshape(n_units, width)
    if groups is not None:
        numbers, n_units = number_groups(groups)
        flat = np.stack([np.bincount(numbers, column, n_units) for column in flat.T], axis=1)
    rng = np.random.default_rng(seed)
    values = []
    for n_draws in blocks(n_resamples, n_units):
        drawn = rng.integers(0, n_units, (n_draws, n_units))
        drawn += n_units * np.arange(n_draws)[:, np.newaxis]
        counts = np.bincount(drawn.ravel(), minlength=n_draws * n_units)
        total = counts.reshape(n_draws, n_units).astype(np.float64) @ flat
        values.append(_ccc_of_sums(total.reshape(n_draws, *sums.shape[1:])))
    tail = (1 - confidence) / 2
    found = []
    for column in np.concatenate(values).T:
        some = column[~np.isnan(column)]
        low, high = np.quantile(some, [tail, 1 - tail]) if len(some) else (np.nan, np.nan)
        found.append((float(low), float(high)))
    return found


def _ccc_of_sums(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the CCC of rows whose count, sums and sums of products are in the last axis, 6."""
    n, p, t, pp, tt, pt = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_p, mean_t = p / n, t / n
        spread = pp / n - mean_p**2 + tt / n - mean_t**2 + (mean_p - mean_t) ** 2
        values = 2 * (pt / n - mean_p * mean_t) / spread
    # Where nothing varies rounding leaves some 1e-16 of the spread.
    return np.where((n < 2) | (spread < 1e-12), np.nan, values)
