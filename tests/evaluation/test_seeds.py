"""Recipes of several seeds: by hand, and against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_rel

from abhinaya.evaluation.metrics import scores
from abhinaya.evaluation.seeds import compare_seeds, correct, score_seeds
from abhinaya.evaluation.significance import compare_labels


def simulate(accuracies, n_utts=300, n_classes=3, seed=0):
    """One row of labels per accuracy, wrong at random."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(n_classes, size=n_utts)
    wrong = (truth + rng.integers(1, n_classes, size=(len(accuracies), n_utts))) % n_classes
    right = rng.random(wrong.shape) < np.array(accuracies)[:, np.newaxis]
    return truth, np.where(right, truth, wrong)


def test_mean_and_spread_over_seeds_by_hand():
    """Accuracies 1, 3/4 and 2/4: mean 3/4, sd sqrt((1/16 + 0 + 1/16) / 2) = 1/4."""
    truth = np.array([0, 0, 1, 1])
    predicted = np.array([[0, 0, 1, 1], [0, 0, 1, 0], [0, 1, 1, 0]])
    found = score_seeds(truth, predicted, 2, n_resamples=200)["accuracy"]
    assert found.values == (1, 0.75, 0.5)
    assert (found.mean, found.sd) == (0.75, pytest.approx(0.25))
    assert found.interval[0] < 0.75 < found.interval[1]


def test_p_over_seeds_is_that_of_scipy_and_the_larger_one_counts():
    truth, labels = simulate([0.8, 0.7, 0.75, 0.7, 0.72, 0.66])
    found = compare_seeds(truth, labels[:3], labels[3:], 3, n_resamples=500)
    for metric in ("macro_f1", "accuracy"):
        values = np.array([getattr(scores(truth, row, 3), metric) for row in labels])
        ours, theirs = found[metric], ttest_rel(values[:3], values[3:])
        assert ours.p_seeds == pytest.approx(theirs.pvalue)
        assert ours.value == pytest.approx(np.mean(values[:3] - values[3:]))
        assert ours.sd == pytest.approx(np.std(values[:3] - values[3:], ddof=1))
        assert ours.p == ours.p_holm == max(ours.p_seeds, ours.p_utterances)


def test_one_seed_is_the_comparison_of_two_tables():
    truth, labels = simulate([0.8, 0.7])
    ours = compare_seeds(truth, labels[:1], labels[1:], 3, n_resamples=2_000)
    for theirs in compare_labels(truth, labels[0], labels[1], 3, n_resamples=2_000, seed=0):
        found = ours[theirs.metric]
        assert found.p_seeds is found.sd is None
        assert found.p == found.p_utterances == theirs.p
        assert found.value == pytest.approx(theirs.value)
        assert found.interval == pytest.approx(theirs.interval, abs=1e-12)


def test_same_predictions_differ_by_nothing():
    truth, labels = simulate([0.8, 0.7])
    found = compare_seeds(truth, labels, labels, 3, n_resamples=100)["macro_f1"]
    assert (found.value, found.interval) == (0, (0, 0))
    assert found.p == found.p_seeds == found.p_utterances == 1


def test_seeds_that_differ_by_the_same_have_the_p_of_signs():
    """Both seeds are better by the same ten rows: of four pairs of signs, two are as extreme."""
    truth = np.zeros(60, dtype=int)
    worse = np.zeros((2, 60), dtype=int)
    worse[:, :10] = 1
    found = compare_seeds(truth, np.zeros_like(worse), worse, 2, n_resamples=2_000)["accuracy"]
    assert found.p_seeds == found.p == 0.5
    assert found.p_utterances == 2 / 2**10


def test_luck_of_the_seed_is_no_difference_of_recipes():
    """One seed of four is ten points better: certain on these seeds, not over others."""
    truth, labels = simulate([0.9, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7], n_utts=2_000)
    labels[5:] = labels[1:4]
    found = compare_seeds(truth, labels[:4], labels[4:], 3, n_resamples=1_000)["accuracy"]
    assert found.p_utterances < 0.01
    assert found.p == found.p_seeds == pytest.approx(0.391, abs=1e-3)  # t = 1 with 3 degrees
    assert found.interval[0] <= 0 < found.interval[1]


def test_interval_over_speakers_is_wider_where_they_differ():
    truth, labels = simulate([0.8, 0.8, 0.5, 0.5])
    speakers = [None if idx > 297 else f"s{idx // 50}" for idx in range(300)]
    labels[:2, :150] = labels[2:, :150]  # it helps the last three speakers only
    single, by_speaker = (
        compare_seeds(truth, labels[:2], labels[2:], 3, groups=groups, n_resamples=2_000)
        for groups in (None, speakers)
    )
    width, wider = (np.diff(found["accuracy"].interval)[0] for found in (single, by_speaker))
    assert wider > 1.5 * width
    # Three speakers and two utterances of nobody can be swapped: 2 of 2 ** 5 ways are as extreme.
    assert by_speaker["accuracy"].p_utterances == 2 / 32
    assert single["accuracy"].p_utterances < 0.01


def test_more_seeds_than_fit_into_a_number_give_the_same():
    """Twelve predictions of 56 cells are more than 2 ** 63 kinds."""
    truth, labels = simulate([0.8] * 6, n_classes=7)
    found = score_seeds(truth, np.concatenate([labels, labels]), 7, n_resamples=500)["accuracy"]
    once = score_seeds(truth, labels, 7, n_resamples=500)["accuracy"]
    assert found.values == once.values * 2
    assert found.mean == pytest.approx(once.mean)


def test_correction_is_over_all_comparisons():
    truth, labels = simulate([0.9, 0.91, 0.7, 0.71, 0.9, 0.91])
    better, same = (
        compare_seeds(truth, labels[:2], other, 3, n_resamples=500)
        for other in (labels[2:4], labels[4:])
    )
    corrected = correct([better, same])
    assert corrected[0]["accuracy"].p_holm == pytest.approx(2 * better["accuracy"].p)
    assert corrected[1]["accuracy"].p_holm == same["accuracy"].p  # the largest
