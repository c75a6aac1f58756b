from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from abhinaya.data.labels import ABSTAIN
from abhinaya.errors import BadShapeError, BadValueError
from abhinaya.evaluation.significance import compare_labels, holm, mcnemar


def macro_f1(truth, predicted, n_classes):
    """scikit-learn's, over all classes."""
    return f1_score(truth, predicted, labels=range(n_classes), average="macro", zero_division=0)


def draw(rng, n_utts, n_classes, accuracy):
    """True classes, and two predictions of the same accuracy with independent mistakes."""
    truth = rng.integers(n_classes, size=n_utts)
    noise = rng.integers(n_classes, size=(2, n_utts))
    is_kept = rng.random((2, n_utts)) < accuracy
    return truth, *np.where(is_kept, truth, noise)


def test_compare_labels_by_hand():
    # All right against half right: accuracy 1 - 1/2. Macro-F1 of the second: each class has
    # precision 1/2 and recall 1/2; 1 - 1/2.
    # The two utterances that differ can be swapped in 4 ways. Neither and both: |difference| = 1/2.
    # One alone: both predictors then have F1 of 2/3 and 4/5, so there is no difference. p = 2/4.
    # McNemar: 2 P[X <= 0] with X ~ B(2, 1/2) = 2 / 4.
    truth, right, half = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0])
    f1, accuracy = compare_labels(truth, right, half, 2, n_resamples=100, seed=0)
    assert (f1.metric, accuracy.metric) == ("macro_f1", "accuracy")
    assert (f1.value, accuracy.value) == (0.5, 0.5)
    assert (f1.p, f1.test) == (0.5, "exact randomisation")
    assert (accuracy.p, accuracy.test) == (0.5, "McNemar")
    assert (f1.p_holm, accuracy.p_holm) == (0.5, 0.5)


def test_compare_labels_other_way_round_changes_the_sign_only():
    truth, first, second = draw(np.random.default_rng(0), 300, 4, 0.5)
    there = compare_labels(truth, first, second, 4, n_resamples=2_000, seed=1)
    back = compare_labels(truth, second, first, 4, n_resamples=2_000, seed=1)
    for one, other in zip(there, back, strict=True):
        assert one.value == -other.value
        assert one.p == pytest.approx(other.p, abs=0.05)
        assert one.interval == pytest.approx([-end for end in reversed(other.interval)], abs=0.01)


def test_compare_labels_same_predictions_differ_by_nothing():
    truth, same, _ = draw(np.random.default_rng(0), 50, 3, 0.5)
    for groups in (None, [idx % 5 for idx in range(50)]):
        for found in compare_labels(truth, same, same, 3, groups=groups, n_resamples=50, seed=0):
            assert (found.value, found.interval, found.p) == (0.0, (0.0, 0.0), 1.0)


def test_compare_labels_one_right_and_one_wrong_everywhere_has_no_spread():
    truth = np.zeros(30, dtype=int)
    _, accuracy = compare_labels(truth, truth, truth + 1, 2, n_resamples=200, seed=0)
    assert accuracy.interval == (1.0, 1.0)
    assert accuracy.p == 2 / 2**30


def test_compare_labels_abstention_is_wrong():
    # right and right against right and abstained: one discordant utterance, 2 P[X <= 0] = 1.
    truth, right, silent = np.array([0, 1]), np.array([0, 1]), np.array([0, ABSTAIN])
    f1, accuracy = compare_labels(truth, right, silent, 2, n_resamples=10, seed=0)
    assert accuracy.value == 0.5
    assert f1.value == 1 - 0.5  # class 1 is never predicted: F1 0
    assert accuracy.p == 1.0
    # Two abstentions agree.
    assert compare_labels(truth, silent, silent, 2, n_resamples=10, seed=0)[0].p == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_compare_labels_few_utterances_equal_scipys_exact_permutation_test(seed):
    truth, first, second = draw(np.random.default_rng(seed), 8, 3, 0.4)

    def difference(one, other):
        return macro_f1(truth, one, 3) - macro_f1(truth, other, 3)

    theirs = stats.permutation_test(
        (first, second), difference, permutation_type="samples", n_resamples=np.inf
    )
    ours, accuracy = compare_labels(truth, first, second, 3, n_resamples=256, seed=0)
    assert ours.value == pytest.approx(theirs.statistic)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert ours.test == "exact randomisation"
    # McNemar's test is the same for accuracy, worked out in full.
    correct = ((first == truth).astype(float), (second == truth).astype(float))
    theirs = stats.permutation_test(
        correct, lambda a, b: a.mean() - b.mean(), permutation_type="samples", n_resamples=np.inf
    )
    assert accuracy.p == pytest.approx(theirs.pvalue)


def test_compare_labels_speakers_equal_a_loop_over_all_swaps():
    rng = np.random.default_rng(3)
    truth, first, second = draw(rng, 40, 3, 0.4)
    speakers = rng.integers(7, size=40)

    def differences(swapped):
        is_swapped = np.array(swapped)[speakers] == 1
        one, other = np.where(is_swapped, second, first), np.where(is_swapped, first, second)
        return (
            macro_f1(truth, one, 3) - macro_f1(truth, other, 3),
            np.mean(one == truth) - np.mean(other == truth),
        )

    every = np.abs([differences(swapped) for swapped in product((0, 1), repeat=7)])
    expected = (every >= every[0] - 1e-12).mean(axis=0)
    found = compare_labels(
        truth, first, second, 3, groups=speakers.tolist(), n_resamples=128, seed=0
    )
    assert [difference.p for difference in found] == pytest.approx(expected)
    assert {difference.test for difference in found} == {"exact randomisation"}


def test_compare_labels_sampled_p_is_near_the_exact_one():
    rng = np.random.default_rng(5)
    truth, first, second = draw(rng, 240, 3, 0.5)
    speakers = [idx % 12 for idx in range(240)]

    def p_values(n_resamples):
        found = compare_labels(
            truth, first, second, 3, groups=speakers, n_resamples=n_resamples, seed=2
        )
        return [difference.p for difference in found], found[0].test

    exact, how = p_values(4_096)  # 2 ** 12
    assert how == "exact randomisation"
    sampled, how = p_values(4_000)
    assert how == "randomisation"
    # Standard error at most 1 / (2 sqrt(4000)) = .008
    assert sampled == pytest.approx(exact, abs=0.03)


def test_compare_labels_exact_p_counts_every_assignment_once():
    # Right everywhere against wrong everywhere, 12 speakers: of 4,096 assignments only none and
    # all are as extreme.
    truth = np.arange(48) % 2
    found = compare_labels(
        truth, truth, 1 - truth, 2, groups=[idx % 12 for idx in range(48)], seed=0
    )
    assert [(d.p, d.test) for d in found] == [(2 / 4_096, "exact randomisation")] * 2


def test_compare_labels_sampled_p_is_never_zero():
    truth = np.arange(60) % 2
    f1, _ = compare_labels(truth, truth, 1 - truth, 2, n_resamples=99, seed=0)
    assert f1.p == 1 / 100


@pytest.mark.slow
@pytest.mark.parametrize("by_group", [False, True])
def test_compare_labels_interval_agrees_with_resampling_rows(by_group):
    rng = np.random.default_rng(7)
    truth, first, second = draw(rng, 200, 3, 0.5)
    groups = np.arange(200) % 25 if by_group else np.arange(200)
    members = [np.flatnonzero(groups == group) for group in range(groups.max() + 1)]
    drawn = []
    for _ in range(400):
        rows = np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))])
        f1s = [macro_f1(truth[rows], own[rows], 3) for own in (first, second)]
        accuracies = [np.mean(own[rows] == truth[rows]) for own in (first, second)]
        drawn.append([f1s[0] - f1s[1], accuracies[0] - accuracies[1]])
    expected = np.quantile(drawn, [0.025, 0.975], axis=0).T
    found = compare_labels(
        truth, first, second, 3, groups=groups.tolist() if by_group else None, seed=0
    )
    for difference, interval in zip(found, expected, strict=True):
        # The ends of 400 resamples have a standard error of about .007 here.
        assert difference.interval == pytest.approx(interval, abs=0.025)


@pytest.mark.slow
def test_compare_labels_equally_good_predictors_are_told_apart_at_the_level_of_the_test():
    rng = np.random.default_rng(11)
    n_runs, rejected, excluded = 400, np.zeros(2), 0
    for run in range(n_runs):
        truth, first, second = draw(rng, 150, 3, 0.5)
        f1, accuracy = compare_labels(truth, first, second, 3, n_resamples=199, seed=run)
        rejected += [f1.p <= 0.05, accuracy.p <= 0.05]
        excluded += not f1.interval[0] <= 0 <= f1.interval[1]
    # 400 draws of probability .05: 20 with a standard deviation of 4.4.
    assert 8 <= rejected[0] <= 33
    assert rejected[1] <= 33  # McNemar's discrete test may be stricter
    assert 8 <= excluded <= 40


def test_compare_labels_of_speakers_keeps_the_level_where_utterances_do_not():
    """Each speaker suits one of two equally good predictors: 20 speakers, not 200 utterances."""
    rng = np.random.default_rng(13)
    speakers, n_runs, rejected = np.repeat(np.arange(20), 10), 200, np.zeros(2)
    for run in range(n_runs):
        truth = rng.integers(3, size=200)
        suits = (rng.random(20) < 0.5)[speakers]
        first = np.where(suits, truth, rng.integers(3, size=200))
        second = np.where(suits, rng.integers(3, size=200), truth)
        for idx, groups in enumerate((None, speakers.tolist())):
            f1, _ = compare_labels(
                truth, first, second, 3, groups=groups, n_resamples=199, seed=run
            )
            rejected[idx] += f1.p <= 0.05
    # Probability .05 would be 10 of 200 with a standard deviation of 3.1.
    assert rejected[0] > 60
    assert rejected[1] <= 20


@pytest.mark.parametrize(("first", "second"), [(0, 5), (3, 9), (12, 12), (40, 71), (900, 1_000)])
def test_mcnemar_equals_scipys_binomial_test(first, second):
    theirs = stats.binomtest(first, first + second, 0.5).pvalue
    assert mcnemar(first, second) == pytest.approx(theirs, rel=1e-10)
    assert mcnemar(second, first) == mcnemar(first, second)


def test_mcnemar_by_hand():
    # 1 of 4: 2 (1 + 4) / 16 = 10 / 16; none at all: nothing to tell apart.
    assert mcnemar(1, 3) == pytest.approx(10 / 16)
    assert mcnemar(0, 0) == 1.0


def test_holm_by_hand():
    # Sorted .01 .02 .03 .4 times 4 3 2 1: .04 .06 .06 .4.
    assert holm([0.03, 0.01, 0.4, 0.02]) == pytest.approx([0.06, 0.04, 0.4, 0.06])
    # Products that fall are lifted, and none exceeds 1: .5 .3 -> 2 * .3 = .6, then max(.5, .6).
    assert holm([0.5, 0.3]) == pytest.approx([0.6, 0.6])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_compare_labels_is_the_same_with_one_seed():
    truth, first, second = draw(np.random.default_rng(0), 100, 3, 0.5)
    one, again, other = (
        compare_labels(truth, first, second, 3, n_resamples=100, seed=seed) for seed in (4, 4, 5)
    )
    assert one == again
    assert one != other


def test_wrong_values_raise():
    labels = np.array([0, 1])
    with pytest.raises(BadShapeError, match=r"groups has 1 entries, expected 2"):
        compare_labels(labels, labels, labels, 2, groups=["a"], seed=0)
    with pytest.raises(BadShapeError, match=r"expected \(n_utts,\) twice"):
        compare_labels(labels, labels, labels[:1], 2, seed=0)
    with pytest.raises(BadValueError, match="All utterances belong to one group"):
        compare_labels(labels, labels, labels, 2, groups=["a", "a"], seed=0)
    with pytest.raises(BadValueError, match="n_resamples is 0, expected at least 1"):
        compare_labels(labels, labels, labels, 2, n_resamples=0, seed=0)
    with pytest.raises(BadValueError, match=r"predicted holds 4, 5 .* expected -1 to 1"):
        compare_labels(labels, labels, labels + 4, 2, seed=0)
    with pytest.raises(BadValueError, match="no utterance with a true label"):
        compare_labels(labels[:0], labels[:0], labels[:0], 2, seed=0)
    with pytest.raises(BadValueError, match="The counts are -1 and 2, expected none below 0"):
        mcnemar(-1, 2)
