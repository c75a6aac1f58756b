"""Is one prediction better than another, or was it luck? Intervals and tests on paired labels.

Two predictions of the same utterances are compared utterance by utterance, which sees much smaller
differences than two separate intervals do. All of it works on counts: utterances (or speakers) with
the same outcome are interchangeable, so a resample is one draw of how many of each outcome there
are, and ten thousand resamples take a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from abhinaya.errors import BadValueError
from abhinaya.evaluation.bootstrap import blocks, resample, resampling_units
from abhinaya.evaluation.metrics import Metric, metric_of_counts

__all__ = ["Difference", "compare_labels", "holm", "mcnemar"]

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float64]

_CONFIDENCE = 0.95

# Sums of the same fractions in another order differ by less than this.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Difference:
    """How much better one prediction is than another in one metric.

    Args:
        metric: "macro_f1" or "accuracy".
        value: metric of the one minus metric of the other, in [-1, 1].
        interval: 95 % paired bootstrap interval of `value`. It is that of this comparison alone:
            Holm's correction changes p-values only.
        p: two-sided probability of a difference at least as large if the two were equally good.
        test: where `p` comes from: `randomisation` (sampled), `exact randomisation` (all
            assignments) or `McNemar`.
        p_holm: `p` after Holm's correction over all comparisons made together.
    """

    metric: Metric
    value: float
    interval: tuple[float, float]
    p: float
    test: Literal["randomisation", "exact randomisation", "McNemar"]
    p_holm: float


def compare_labels(
    truth: IntArray,
    predicted: IntArray,
    against: IntArray,
    n_classes: int,
    *,
    groups: Sequence[Hashable] | None = None,
    n_resamples: int = 10_000,
    seed: int,
) -> tuple[Difference, Difference]:
    """Compare macro-F1 and accuracy of two predictions of the same utterances.

    The interval is the percentile interval of the paired bootstrap: utterances are drawn with
    replacement, each with both predictions (Efron & Tibshirani, "An Introduction to the Bootstrap",
    1993). The p-value of macro-F1 is that of the approximate randomisation test: if both were
    equally good, the two predictions of an utterance could be swapped (Noreen, "Computer-Intensive
    Methods for Testing Hypotheses", 1989; Yeh 2000, arXiv:cs/0008005). It is (1 + as extreme) /
    (1 + n_resamples), or exact where there are at most `n_resamples` ways to swap. The p-value of
    accuracy is McNemar's, which is that test worked out in full.

    With groups, whole groups are drawn, and swapped. McNemar's test would take the utterances of a
    group for independent, so the p-value of accuracy is then one of randomisation as well.

    Args:
        truth: true class index, shape (U,), values in [0, K).
        predicted: predicted class index, shape (U,), values in [0, K) or `ABSTAIN`, which is wrong.
        against: the same by the other predictor.
        n_classes: K.
        groups: group of each utterance such as its speaker, length U; None and NaN are groups of
            their own. By default every utterance is one.
        n_resamples: number of resamples, and of random assignments.
        seed: the same seed gives the same numbers.

    Returns:
        Differences of macro-F1 and accuracy, `predicted` minus `against`, without correction.

    Raises:
        BadShapeError: if the arrays differ in length.
        BadValueError: if there are no utterances or fewer than two groups, an index is out of
            range, or `n_resamples` is not positive.
    """
    units, how_often = resampling_units(truth, [predicted, against], n_classes, groups)
    rng = np.random.default_rng(seed)
    observed = _differences(np.tensordot(how_often, units, axes=1)[np.newaxis])[:, 0]
    drawn = resample(units, how_often, n_resamples, rng)
    resampled = np.concatenate([_differences(counts) for counts in drawn], axis=1)
    tail = (1 - _CONFIDENCE) / 2
    intervals = np.quantile(resampled, [tail, 1 - tail], axis=1)
    p_values, is_exact = _randomize(units, how_often, observed, n_resamples, rng)
    test: Literal["randomisation", "exact randomisation", "McNemar"]
    found = []
    for idx, metric in enumerate(_METRICS):
        p, test = float(p_values[idx]), "exact randomisation" if is_exact else "randomisation"
        if metric == "accuracy" and groups is None:
            right, other_right = predicted == truth, against == truth
            p = mcnemar(int((right & ~other_right).sum()), int((other_right & ~right).sum()))
            test = "McNemar"
        low, high = intervals[:, idx].tolist()
        found.append(Difference(metric, float(observed[idx]), (low, high), p, test, p_holm=p))
    return found[0], found[1]


def mcnemar(n_only_first: int, n_only_second: int) -> float:
    """Return the two-sided p-value of McNemar's test, from the exact binomial distribution.

    Of the utterances that exactly one of two predictors gets right, either would get half if both
    were equally accurate: p = min(1, 2 P[X <= the smaller count]), X ~ Binomial(both counts, 1/2).
    No approximation is needed, however many there are.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions",
    1947, https://doi.org/10.1007/BF02295996.

    Args:
        n_only_first: utterances that only the first one gets right.
        n_only_second: utterances that only the second one gets right.

    Returns:
        In (0, 1]; 1 where there are no such utterances.

    Raises:
        BadValueError: if a count is negative.

    Example:
        >>> mcnemar(0, 5)  # 2 / 2 ** 5
        0.0625
    """
    if min(n_only_first, n_only_second) < 0:
        raise BadValueError(
            f"The counts are {n_only_first} and {n_only_second}, expected none below 0."
        )
    from scipy.stats import binomtest

    both = n_only_first + n_only_second
    return float(binomtest(n_only_first, both).pvalue) if both else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for having looked at all of them.

    The smallest of n is multiplied by n, the next by n - 1 and so on; none becomes smaller than one
    before it, nor larger than 1. The probability of any false alarm is then at most the level.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979,
    https://www.jstor.org/stable/4615733.

    Args:
        p_values: of n tests, in any order.

    Returns:
        In the same order.

    Example:
        >>> holm([0.25, 0.0625, 0.125])
        [0.25, 0.1875, 0.25]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * np.arange(len(p), 0, -1)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(value) for value in corrected]


# Below, a unit is an utterance or a group of them. It is described by two tables of counts, shape
# (2, K, K + 1): what the first and what the second predictor make of it.

_METRICS: tuple[Metric, ...] = ("macro_f1", "accuracy")


def _differences(counts: FloatArray) -> FloatArray:
    """Subtract metrics of the second from the first, shape (2, R), of counts (R, 2, K, K + 1)."""
    values = [metric_of_counts(counts, metric) for metric in _METRICS]  # each (R, 2)
    return np.stack([both[:, 0] - both[:, 1] for both in values])


def _randomize(
    units: FloatArray,
    how_often: NDArray[np.int64],
    observed: FloatArray,
    n_resamples: int,
    rng: np.random.Generator,
) -> tuple[FloatArray, bool]:
    """Swap predictions of units; return the p-value of each metric, and whether it is exact."""
    total = np.tensordot(how_often, units, axes=1)  # (2, K, K + 1)
    changes = units[:, 1] - units[:, 0]  # what swapping a unit does to the first predictor
    matters = changes.any(axis=(1, 2))
    how_often, changes = how_often[matters], changes[matters]
    n_swappable = int(how_often.sum())
    is_exact = n_swappable < 63 and 2**n_swappable <= n_resamples
    if is_exact:
        changes, how_often = np.repeat(changes, how_often, axis=0), np.ones(n_swappable, np.int64)
    flat = changes.reshape(len(changes), total[0].size)
    n_extreme, n_done = np.zeros(len(observed)), 0
    for n_draws in blocks(2**n_swappable if is_exact else n_resamples, len(flat)):
        if is_exact:
            numbers = np.arange(n_done, n_done + n_draws)[:, np.newaxis]
            swapped = numbers >> np.arange(n_swappable) & 1
        else:
            swapped = rng.binomial(how_often, 0.5, size=(n_draws, len(how_often)))
        n_done += n_draws
        moved = (swapped.astype(np.float64) @ flat).reshape(n_draws, *total.shape[1:])
        counts = np.stack([total[0] + moved, total[1] - moved], axis=1)
        values = np.abs(_differences(counts))
        n_extreme += (values >= np.abs(observed)[:, np.newaxis] - _ROUNDING).sum(axis=1)
    if is_exact:
        return n_extreme / n_done, True
    # What was observed is one of the possible assignments, so p is never 0.
    return (n_extreme + 1) / (n_done + 1), False
