"""The concordance correlation coefficient: by hand, by the formula, and how sure it is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from abhinaya.data.labels import ABSTAIN, MSP_PODCAST
from abhinaya.data.predictions import PredictionTable
from abhinaya.errors import BadShapeError, ProblemsError
from abhinaya.evaluation.concordance import ccc, ccc_intervals, score_attributes
from abhinaya.evaluation.scoring import Truth

NAN = float("nan")


def test_ccc_by_hand() -> None:
    # p 1 2 3, t 2 3 4: 2 * 2/3 / (2/3 + 2/3 + 1) = 4/7.
    assert ccc(np.array([1.0, 2, 3]), np.array([2.0, 3, 4])) == pytest.approx(4 / 7)
    # The mirror image: cov -1, variances 1.
    assert ccc(np.array([1.0, 3]), np.array([3.0, 1])) == pytest.approx(-1)
    assert ccc(np.array([1.0, 5, 9]), np.array([1.0, 5, 9])) == 1
    # Unknown rows do not count.
    assert ccc(np.array([1, 2, 9, NAN, 3]), np.array([2, 3, NAN, 9, 4])) == pytest.approx(4 / 7)


def test_ccc_equals_scipy() -> None:
    """As audmetric writes it: 2 r s_p s_t / (s_p^2 + s_t^2 + d^2), deviations with ddof=0."""
    from scipy.stats import pearsonr

    p, t = np.random.default_rng(0).uniform(1, 7, (2, 200))
    t = 0.5 * p + 0.5 * t
    theirs = 2 * pearsonr(p, t).statistic * p.std() * t.std()
    theirs /= p.var() + t.var() + (p.mean() - t.mean()) ** 2
    assert ccc(p, t) == pytest.approx(theirs, rel=1e-12)


def test_ccc_of_one_row_or_constant_values() -> None:
    def of(predicted: list[float], truth: list[float]) -> float:
        return ccc(np.array(predicted), np.array(truth))

    assert math.isnan(of([], []))
    assert math.isnan(of([3.0], [3.0]))
    assert math.isnan(of([3.0, 2.0], [3.0, NAN]))
    assert math.isnan(of([3.0, 3.0], [3.0, 3.0]))  # nothing varies and nothing differs
    assert of([3.0, 3.0], [1.0, 5.0]) == 0
    assert of([1.0, 5.0], [3.0, 3.0]) == 0
    assert of([2.0, 2.0], [3.0, 3.0]) == 0


def test_ccc_of_other_shapes_raises() -> None:
    with pytest.raises(BadShapeError, match=r"predicted has shape \(2,\) and truth \(3,\)"):
        ccc(np.zeros(2), np.zeros(3))


def test_ccc_interval_is_that_of_resampled_rows() -> None:
    """Against a plain loop that draws rows and calls `ccc`, in distribution."""
    rng = np.random.default_rng(1)
    truth = rng.uniform(1, 7, (60, 1))
    predicted = np.clip(truth + rng.normal(0, 1, (60, 1)), 1, 7)
    ((low, high),) = ccc_intervals(predicted, truth, n_resamples=2_000, seed=0)
    draws = [rng.integers(0, 60, 60) for _ in range(2_000)]
    theirs = np.quantile([ccc(predicted[d, 0], truth[d, 0]) for d in draws], [0.025, 0.975])
    assert (low, high) == pytest.approx(tuple(theirs), abs=0.01)
    assert low < ccc(predicted[:, 0], truth[:, 0]) < high
    again = ccc_intervals(predicted, truth, n_resamples=2_000, seed=0)
    assert again == [(low, high)]
    # One speaker per half: only four resamples of speakers, two of them of one half alone.
    groups = ["a"] * 30 + ["b"] * 30
    ((low, high),) = ccc_intervals(predicted, truth, groups=groups, n_resamples=200, seed=0)
    halves = [ccc(predicted[half, 0], truth[half, 0]) for half in (slice(30), slice(30, 60))]
    assert (low, high) == pytest.approx((min(halves), max(halves)))


def test_ccc_interval_of_nothing_or_of_constant_values_is_nan() -> None:
    nothing = np.full((3, 1), NAN)
    for predicted, truth in ((nothing, nothing), (np.full((3, 1), 3.3), np.full((3, 1), 3.3))):
        ((low, high),) = ccc_intervals(predicted, truth, n_resamples=10, seed=0)
        assert math.isnan(low)
        assert math.isnan(high)


def table_and_truth(values: list[list[float]], known: list[list[float]]) -> tuple[object, object]:
    names = tuple(f"u{idx}" for idx in range(len(values)))
    labels = np.full(len(names), ABSTAIN)
    own = np.array(values, dtype=np.float32)
    table = PredictionTable("p", MSP_PODCAST, names, labels, attributes=own)
    # The truth has one more row, and another order.
    truth = Truth(
        (*names[::-1], "other"),
        np.full(len(names) + 1, ABSTAIN),
        MSP_PODCAST,
        ("a",) * (len(names) + 1),
        attributes=np.array([*known[::-1], [1, 1, 1]], dtype=np.float32),
    )
    return table, truth


def test_score_attributes_takes_rows_that_are_predicted_and_known() -> None:
    table, truth = table_and_truth(
        [[1, NAN, 4], [2, NAN, NAN], [3, NAN, 4]], [[2, 4, 4], [3, 4, 5], [4, 4, NAN]]
    )
    arousal, dominance = score_attributes(table, truth, n_resamples=10)
    assert (arousal.attribute, arousal.n_utts) == ("arousal", 3)
    assert arousal.ccc == pytest.approx(4 / 7)
    assert (dominance.attribute, dominance.n_utts) == ("dominance", 1)
    assert math.isnan(dominance.ccc)


def test_score_attributes_of_a_truth_outside_the_scale_raises() -> None:
    table, truth = table_and_truth([[1, 2, 3]], [[2, 70, 3]])
    with pytest.raises(ProblemsError, match=r"valence of 1 rows is outside \[1, 7\]: '70 \(u0\)'"):
        score_attributes(table, truth)
