"""Is one recipe better than another, on other seeds and on other utterances, or was it luck?

A recipe that is trained with several seeds gives several predictions of the same utterances. Both
are samples: other seeds, and other utterances, would have given other scores.
"""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from abhinaya.evaluation.bootstrap import resample, resampling_units
from abhinaya.evaluation.metrics import metric_of_counts
from abhinaya.evaluation.significance import compare_labels, holm

__all__ = [
    "METRICS",
    "SeedDifference",
    "SeedMetric",
    "SeedScore",
    "compare_seeds",
    "correct",
    "score_seeds",
]

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float64]

SeedMetric = Literal["macro_f1", "accuracy"]
METRICS: tuple[SeedMetric, ...] = ("macro_f1", "accuracy")
"""What recipes are compared by."""

_TAILS = [0.025, 0.975]
# Sums of the same fractions in another order differ by less than this.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class SeedScore:
    """How good a recipe is.

    Args:
        values: the metric of each seed.
        mean: their mean.
        sd: their standard deviation (divisor n - 1); None for one seed.
        interval: 95 % interval of the mean over other seeds and other utterances.
    """

    values: tuple[float, ...]
    mean: float
    sd: float | None
    interval: tuple[float, float]


@dataclass(frozen=True)
class SeedDifference:
    """How much better one recipe is than another.

    Args:
        value: mean over seeds of the difference.
        sd: its standard deviation over seeds; None for one seed.
        interval: 95 % interval of `value` over other seeds and other utterances; that of this
            comparison alone.
        p_seeds: of a paired t test over seeds: were these utterances the only ones of interest.
            None for one seed.
        p_utterances: of a randomisation test over utterances, or groups: were these the only seeds.
        p: the larger of the two.
        p_holm: `p` after Holm's correction over all comparisons made together.
    """

    value: float
    sd: float | None
    interval: tuple[float, float]
    p_seeds: float | None
    p_utterances: float
    p: float
    p_holm: float


def score_seeds(
    truth: IntArray,
    predicted: IntArray,
    n_classes: int,
    *,
    groups: Sequence[Hashable] | None = None,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> dict[SeedMetric, SeedScore]:
    """Score the predictions of several seeds, with an interval over seeds and utterances.

    Seeds and utterances (or groups of them) are drawn with replacement, each independently of the
    other: the pigeonhole bootstrap (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics
    2007, https://doi.org/10.1214/07-AOAS122). With few seeds their share of the variance comes out
    too small, by (n - 1) / n.

    Args:
        truth: true class index, shape (U,), values in [0, K).
        predicted: predicted class index of each seed, shape (S, U), values in [0, K) or `ABSTAIN`.
        n_classes: K.
        groups: see `compare_labels`.
        n_resamples: number of resamples.
        seed: of the draws.

    Raises:
        BadShapeError: if the arrays differ in length.
        BadValueError: see `compare_labels`.
    """
    observed, drawn = _draw(truth, predicted, n_classes, groups, n_resamples, seed)
    found: dict[SeedMetric, SeedScore] = {}
    for metric in METRICS:
        values = observed[metric].tolist()
        interval = _interval(drawn[metric], seed)
        found[metric] = SeedScore(tuple(values), statistics.fmean(values), _sd(values), interval)
    return found


def compare_seeds(
    truth: IntArray,
    predicted: IntArray,
    against: IntArray,
    n_classes: int,
    *,
    groups: Sequence[Hashable] | None = None,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> dict[SeedMetric, SeedDifference]:
    """Compare two recipes that were trained with the same seeds.

    The interval is that of `score_seeds`, of paired differences. A difference is one of recipes
    only if it holds on other seeds *and* on other utterances, so `p` is the larger one of two
    p-values (an intersection-union test: Berger, "Multiparameter hypothesis testing and acceptance
    sampling", Technometrics 1982): that of Student's paired t test over seeds, and that of the
    randomisation test of `compare_labels` over utterances (or groups), which swaps an utterance in
    all seeds at once and takes macro-F1 over the predictions of all seeds together.

    Args:
        truth: true class index, shape (U,), values in [0, K).
        predicted: predicted class index of each seed, shape (S, U), values in [0, K) or `ABSTAIN`.
        against: the same of the other recipe, seeds in the same order.
        n_classes: K.
        groups: see `compare_labels`.
        n_resamples: number of resamples, and of random assignments.
        seed: of the draws.

    Returns:
        Differences of each metric, `predicted` minus `against`, without correction.

    Raises:
        BadShapeError: if the arrays differ in length.
        BadValueError: see `compare_labels`.
    """
    n_seeds, n_utts = len(predicted), len(truth)
    both = np.concatenate([predicted, against])
    observed, drawn = _draw(truth, both, n_classes, groups, n_resamples, seed)
    owners: Sequence[Hashable] = range(n_utts)
    if groups is not None:
        # An unknown one is a group of its own, but the same one in every seed.
        owners = [(idx, None) if _is_unknown(name) else name for idx, name in enumerate(groups)]
    over_utterances = compare_labels(
        np.tile(truth, n_seeds),
        predicted.ravel(),
        against.ravel(),
        n_classes,
        groups=list(owners) * n_seeds if n_seeds > 1 else groups,
        n_resamples=n_resamples,
        seed=seed,
    )
    found: dict[SeedMetric, SeedDifference] = {}
    for metric, utterances in zip(METRICS, over_utterances, strict=True):
        values = observed[metric][:n_seeds] - observed[metric][n_seeds:]
        differences = drawn[metric][:, :n_seeds] - drawn[metric][:, n_seeds:]
        p_seeds = _paired_t(values)
        p = max(utterances.p, p_seeds or 0.0)
        found[metric] = SeedDifference(
            value=float(values.mean()),
            sd=_sd(values.tolist()),
            interval=_interval(differences, seed),
            p_seeds=p_seeds,
            p_utterances=utterances.p,
            p=p,
            p_holm=p,
        )
    return found


def correct(
    comparisons: Sequence[dict[SeedMetric, SeedDifference]],
) -> list[dict[SeedMetric, SeedDifference]]:
    """Correct each metric by Holm's procedure over all comparisons."""
    p_holm = {metric: holm([each[metric].p for each in comparisons]) for metric in METRICS}
    return [
        {metric: replace(each[metric], p_holm=p_holm[metric][idx]) for metric in METRICS}
        for idx, each in enumerate(comparisons)
    ]


def _draw(
    truth: IntArray,
    predicted: IntArray,
    n_classes: int,
    groups: Sequence[Hashable] | None,
    n_resamples: int,
    seed: int,
) -> tuple[dict[SeedMetric, FloatArray], dict[SeedMetric, FloatArray]]:
    """Compute metrics of P predictions, shape (P,), and of their resamples, shape (R, P)."""
    units, how_often = resampling_units(truth, list(predicted), n_classes, groups)
    total = np.tensordot(how_often, units, axes=1)
    rng = np.random.default_rng(seed)
    drawn: dict[SeedMetric, list[FloatArray]] = {metric: [] for metric in METRICS}
    for counts in resample(units, how_often, n_resamples, rng):
        for metric in METRICS:
            drawn[metric].append(metric_of_counts(counts, metric))
    return (
        {metric: metric_of_counts(total, metric) for metric in METRICS},
        {metric: np.concatenate(blocks) for metric, blocks in drawn.items()},
    )


def _interval(drawn: FloatArray, seed: int) -> tuple[float, float]:
    """Return the interval of the mean over seeds, which are drawn as well; shape (R, S)."""
    rng = np.random.default_rng([seed, 1])
    seeds = rng.integers(drawn.shape[1], size=drawn.shape)
    means = np.take_along_axis(drawn, seeds, axis=1).mean(axis=1)
    low, high = np.quantile(means, _TAILS)
    return float(low), float(high)


def _paired_t(differences: FloatArray) -> float | None:
    """Return the two-sided p-value of Student's t test that the mean is 0; None for one value.

    Where all values are the same, as accuracies of few clips may be, t would be infinite; p is then
    that of the sign test.
    """
    from scipy.stats import ttest_1samp

    if len(differences) < 2:
        return None
    if np.ptp(differences) < _ROUNDING:
        return 1.0 if abs(differences[0]) < _ROUNDING else float(2.0 ** (1 - len(differences)))
    return float(ttest_1samp(differences, 0.0).pvalue)


def _sd(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _is_unknown(name: Hashable) -> bool:
    return name is None or name != name  # NaN
