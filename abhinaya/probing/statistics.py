"""Means over seeds with intervals, and paired differences: Student's t in both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["PairedDifference", "mean_interval", "paired_difference"]


@dataclass(frozen=True)
class PairedDifference:
    """How much larger one of two paired samples is.

    Args:
        mean: of the differences.
        sd: their sample standard deviation (divisor n - 1).
        interval: 95 % interval of the mean.
        t: Student's statistic.
        p: two-sided; NaN where all differences are equal, or there is one.
        n: pairs.
    """

    mean: float
    sd: float
    interval: tuple[float, float]
    t: float
    p: float
    n: int


def mean_interval(values: ArrayLike) -> tuple[float, float, tuple[float, float]]:
    """Return mean, sample standard deviation and 95 % t interval; NaN where one value has none."""
    from scipy.stats import t

    array = np.asarray(values, dtype=np.float64)
    mean, n = float(array.mean()), len(array)
    if n < 2:
        return mean, np.nan, (np.nan, np.nan)
    sd = float(array.std(ddof=1))
    half = float(t.ppf(0.975, n - 1)) * sd / n**0.5
    return mean, sd, (mean - half, mean + half)


def paired_difference(first: ArrayLike, second: ArrayLike) -> PairedDifference:
    """Compare two samples of one length, value by value."""
    from scipy.stats import ttest_1samp

    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    mean, sd, interval = mean_interval(differences)
    t = p = np.nan
    # Rounding alone is no spread.
    if len(differences) > 1 and sd > 1e-12:
        found = ttest_1samp(differences, 0.0)
        t, p = float(found.statistic), float(found.pvalue)
    return PairedDifference(mean, sd, interval, t, p, len(differences))
