import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from sklearn import metrics as theirs

from abhinaya.errors import BadShapeError, BadValueError, UnknownNameError
from abhinaya.evaluation.bootstrap import bootstrap_interval, resampling_units
from abhinaya.evaluation.metrics import Classes, confusion_matrix, scores

N_CLASSES = 8


def random_labels(seed: int, *, n_utts: int, n_abstained: int) -> tuple[np.ndarray, np.ndarray]:
    """Predictions that are right about half the time; class 7 never occurs on either side."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 7, size=n_utts)
    predicted = np.where(rng.random(n_utts) < 0.5, truth, rng.integers(0, 6, size=n_utts))
    predicted[:n_abstained] = -1
    return truth, predicted


def classes_of(truth: np.ndarray, classes: Classes) -> np.ndarray:
    return np.arange(N_CLASSES) if classes == "all" else np.unique(truth)


def their_macro_f1(truth: np.ndarray, predicted: np.ndarray, classes: Classes = "all") -> float:
    labels = classes_of(truth, classes)
    return float(theirs.f1_score(truth, predicted, labels=labels, average="macro", zero_division=0))


def their_uar(truth: np.ndarray, predicted: np.ndarray, classes: Classes = "all") -> float:
    options = {"labels": classes_of(truth, classes), "average": "macro", "zero_division": 0}
    return float(theirs.recall_score(truth, predicted, **options))


def their_weighted_f1(truth: np.ndarray, predicted: np.ndarray, classes: Classes = "all") -> float:
    options = {"labels": classes_of(truth, classes), "average": "weighted", "zero_division": 0}
    return float(theirs.f1_score(truth, predicted, **options))


def their_accuracy(truth: np.ndarray, predicted: np.ndarray, classes: Classes = "all") -> float:
    return float(theirs.accuracy_score(truth, predicted))


THEIR_METRICS: dict[str, Callable[[np.ndarray, np.ndarray, Classes], float]] = {
    "macro_f1": their_macro_f1,
    "accuracy": their_accuracy,
    "uar": their_uar,
    "weighted_f1": their_weighted_f1,
}


def test_scores_small_table_match_hand_computation() -> None:
    truth = np.array([0, 0, 0, 0, 1, 1])
    predicted = np.array([0, 0, 1, 1, 1, -1])

    result = scores(truth, predicted, n_classes=3)

    assert result.confusion.tolist() == [[2, 2, 0], [0, 1, 0], [0, 0, 0]]
    assert result.support.tolist() == [4, 2, 0]
    # Predicted 2, 3 and 0 times, correct 2, 1 and 0 times.
    np.testing.assert_allclose(result.precision, [2 / 2, 1 / 3, 0])
    np.testing.assert_allclose(result.recall, [2 / 4, 1 / 2, 0])
    # F1 = 2 * correct / (true + predicted).
    np.testing.assert_allclose(result.f1, [4 / 6, 2 / 5, 0])
    assert result.macro_f1 == pytest.approx((2 / 3 + 2 / 5 + 0) / 3)
    assert result.weighted_f1 == pytest.approx((4 * 2 / 3 + 2 * 2 / 5) / 6)
    assert result.accuracy == pytest.approx(3 / 6)
    # Class 2 has no true utterance: it counts as 0 in both means, or is left out of both.
    assert result.uar == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    present = scores(truth, predicted, n_classes=3, classes="present")
    assert present.uar == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert present.macro_f1 == pytest.approx((2 / 3 + 2 / 5) / 2)
    assert present.weighted_f1 == result.weighted_f1
    assert (result.n_utts, result.n_abstained) == (6, 1)


@pytest.mark.parametrize("classes", ["all", "present"])
@pytest.mark.parametrize("n_abstained", [0, 40])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_equal_scikit_learn(seed: int, n_abstained: int, classes: Classes) -> None:
    truth, predicted = random_labels(seed, n_utts=200, n_abstained=n_abstained)
    options = {"labels": range(N_CLASSES), "zero_division": 0}

    ours = scores(truth, predicted, N_CLASSES, classes=classes)

    precision, recall, f1, support = theirs.precision_recall_fscore_support(
        truth, predicted, **options
    )
    np.testing.assert_allclose(ours.precision, precision, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.recall, recall, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.f1, f1, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(ours.support, support)
    their_confusion = theirs.confusion_matrix(truth, predicted, labels=range(N_CLASSES))
    np.testing.assert_array_equal(ours.confusion, their_confusion)
    for name, their_metric in THEIR_METRICS.items():
        theirs_is = their_metric(truth, predicted, classes)
        assert getattr(ours, name) == pytest.approx(theirs_is, abs=1e-12), name


def test_scores_absent_class_lowers_macro_f1() -> None:
    truth = np.array([0, 1])
    # Two classes right out of three: the third counts as zero.
    assert scores(truth, truth, n_classes=3).macro_f1 == pytest.approx(2 / 3)
    # UAR left it out, so that one line of a table had two rules.
    assert scores(truth, truth, n_classes=3).uar == pytest.approx(2 / 3)
    present = scores(truth, truth, n_classes=3, classes="present")
    assert (present.macro_f1, present.uar) == (1, 1)


def test_scores_all_abstained_are_zero() -> None:
    result = scores(np.array([0, 1]), np.array([-1, -1]), n_classes=2)

    assert (result.macro_f1, result.accuracy, result.uar, result.weighted_f1) == (0, 0, 0, 0)
    assert result.confusion.sum() == 0
    assert result.n_abstained == 2


def test_confusion_matrix_counts_truth_in_rows() -> None:
    matrix = confusion_matrix(np.array([2, 2, 2, 0]), np.array([1, 1, 2, -1]), n_classes=3)

    assert matrix.tolist() == [[0, 0, 0], [0, 0, 0], [0, 2, 1]]


@pytest.mark.parametrize("classes", ["all", "present"])
@pytest.mark.parametrize("metric", sorted(THEIR_METRICS))
def test_bootstrap_interval_agrees_with_resampled_rows(metric: str, classes: Classes) -> None:
    truth, predicted = random_labels(3, n_utts=60, n_abstained=6)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 60, size=(250, 60))
    plain = np.array([THEIR_METRICS[metric](truth[idx], predicted[idx], classes) for idx in rows])

    ours = bootstrap_interval(
        truth, predicted, N_CLASSES, metric=metric, classes=classes, confidence=0.8, seed=1
    )

    # A 10 % quantile of 250 normal draws has a standard error of
    # sqrt(0.1 * 0.9 / 250) / 0.175 = 0.11 standard deviations; four of those are allowed.
    np.testing.assert_allclose(ours, np.quantile(plain, [0.1, 0.9]), atol=0.44 * plain.std())


def test_bootstrap_interval_by_group_agrees_with_resampled_groups() -> None:
    truth, predicted = random_labels(4, n_utts=60, n_abstained=6)
    groups = np.repeat(np.arange(12), 5)
    rng = np.random.default_rng(0)
    members = np.arange(60).reshape(12, 5)
    drawn = [members[rng.integers(0, 12, size=12)].ravel() for _ in range(250)]
    plain = np.array([their_macro_f1(truth[idx], predicted[idx]) for idx in drawn])

    ours = bootstrap_interval(truth, predicted, N_CLASSES, groups=groups, confidence=0.8, seed=1)

    # Tolerance as above.
    np.testing.assert_allclose(ours, np.quantile(plain, [0.1, 0.9]), atol=0.44 * plain.std())


def test_bootstrap_interval_one_right_one_wrong_matches_hand_computation() -> None:
    truth, predicted = np.array([0, 1]), np.array([0, 0])

    def interval(confidence: float) -> tuple[float, float]:
        return bootstrap_interval(
            truth, predicted, 2, metric="accuracy", confidence=confidence, seed=0
        )

    # Two draws: accuracy 0, 1/2 and 1 with probabilities 1/4, 1/2 and 1/4.
    assert interval(0.4) == (0.5, 0.5)  # quantiles 0.3 and 0.7
    assert interval(0.6) == (0, 1)  # quantiles 0.2 and 0.8


def test_bootstrap_interval_all_right_has_no_width() -> None:
    truth = np.array([0, 0, 0, 0])

    # Only class 0 occurs, so each resample has F1 = 1 for it and 0 for the other class.
    assert bootstrap_interval(truth, truth, 2, seed=0) == (0.5, 0.5)
    assert bootstrap_interval(truth, truth, 2, metric="uar", seed=0) == (0.5, 0.5)
    for metric in ("macro_f1", "uar"):
        options = {"metric": metric, "classes": "present", "seed": 0}
        assert bootstrap_interval(truth, truth, 2, **options) == (1, 1)


def test_bootstrap_interval_all_abstained_is_zero() -> None:
    truth, predicted = np.array([0, 1, 1]), np.array([-1, -1, -1])

    assert bootstrap_interval(truth, predicted, 2, seed=0, n_resamples=100) == (0, 0)


def test_bootstrap_interval_same_seed_same_ends() -> None:
    truth, predicted = random_labels(5, n_utts=100, n_abstained=0)

    first = bootstrap_interval(truth, predicted, N_CLASSES, seed=7)

    assert bootstrap_interval(truth, predicted, N_CLASSES, seed=7) == first
    assert bootstrap_interval(truth, predicted, N_CLASSES, seed=8) != first


def test_bootstrap_interval_by_group_same_seed_same_ends() -> None:
    truth, predicted = random_labels(5, n_utts=100, n_abstained=0)
    groups = [f"speaker {idx % 10}" for idx in range(100)]

    first = bootstrap_interval(truth, predicted, N_CLASSES, groups=groups, seed=7)

    assert bootstrap_interval(truth, predicted, N_CLASSES, groups=groups, seed=7) == first


def test_bootstrap_interval_by_group_alike_within_groups_is_wider() -> None:
    # Ten speakers of twenty utterances, five always right and five always wrong.
    truth = np.zeros(200, dtype=int)
    predicted = np.repeat([0, 1] * 5, 20)
    groups = np.repeat(np.arange(10), 20)

    low, high = bootstrap_interval(truth, predicted, 2, groups=groups, metric="accuracy", seed=0)
    utt_low, utt_high = bootstrap_interval(truth, predicted, 2, metric="accuracy", seed=0)

    # Binomial(10, 1/2): P(<= 1) = 11/1024 and P(<= 2) = 56/1024, so the 2.5 % quantile is 2 of 10.
    assert (low, high) == (0.2, 0.8)
    # Binomial(200, 1/2): 1.96 * sqrt(0.25 / 200) = 0.069 on either side.
    assert utt_low == pytest.approx(0.431, abs=0.01)
    assert utt_high == pytest.approx(0.569, abs=0.01)


@pytest.mark.parametrize("unknown", [None, float("nan")])
def test_bootstrap_interval_by_group_unknown_speakers_are_groups_of_their_own(
    unknown: object,
) -> None:
    truth = np.zeros(200, dtype=int)
    predicted = np.repeat([0, 1] * 5, 20)

    low, high = bootstrap_interval(
        truth, predicted, 2, groups=[unknown] * 200, metric="accuracy", seed=0
    )

    # As over utterances, see the previous test.
    assert low == pytest.approx(0.431, abs=0.01)
    assert high == pytest.approx(0.569, abs=0.01)


def test_scores_other_length_raises() -> None:
    with pytest.raises(BadShapeError, match=r"truth has shape \(3,\) and predicted \(2,\)"):
        scores(np.array([0, 1, 1]), np.array([0, 1]), 2)


def test_scores_two_dimensional_raises() -> None:
    with pytest.raises(BadShapeError, match=r"expected \(n_utts,\) twice"):
        scores(np.zeros((2, 2), dtype=int), np.zeros((2, 2), dtype=int), 2)


def test_scores_no_utterances_raises() -> None:
    with pytest.raises(BadValueError, match="no utterance with a true label"):
        scores(np.array([], dtype=int), np.array([], dtype=int), 2)


def test_scores_truth_without_label_raises() -> None:
    with pytest.raises(BadValueError, match=r"truth holds -1 at 2 of 3.*Drop rows without"):
        scores(np.array([0, -1, -1]), np.array([0, 1, 1]), 2)


def test_scores_prediction_outside_the_set_raises() -> None:
    with pytest.raises(BadValueError, match=r"predicted holds -2, 2 at 2 of 3.*expected -1 to 1"):
        scores(np.array([0, 1, 1]), np.array([0, 2, -2]), 2)


def test_scores_float_labels_raises() -> None:
    with pytest.raises(BadValueError, match="predicted holds float64 values, expected integers"):
        scores(np.array([0, 1]), np.array([0.0, 1.0]), 2)


def test_bootstrap_interval_unknown_metric_raises() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'macro_f1'"):
        bootstrap_interval(np.array([0]), np.array([0]), 2, metric="macrof1", seed=0)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_bootstrap_interval_confidence_out_of_range_raises(confidence: float) -> None:
    with pytest.raises(BadValueError, match=f"confidence is {confidence}, .*for example 0.95"):
        bootstrap_interval(np.array([0]), np.array([0]), 2, confidence=confidence, seed=0)


def test_bootstrap_interval_no_resamples_raises() -> None:
    with pytest.raises(BadValueError, match="n_resamples is 0, expected at least 1"):
        bootstrap_interval(np.array([0]), np.array([0]), 2, n_resamples=0, seed=0)


def test_bootstrap_interval_by_group_other_length_raises() -> None:
    with pytest.raises(BadShapeError, match="groups has 1 entries, expected 2"):
        bootstrap_interval(np.array([0, 1]), np.array([0, 1]), 2, groups=["a"], seed=0)


def test_bootstrap_interval_by_group_single_group_raises() -> None:
    with pytest.raises(BadValueError, match=r"belong to one group.*Resample utterances"):
        bootstrap_interval(np.array([0, 1]), np.array([0, 1]), 2, groups=["a", "a"], seed=0)


def test_utterances_of_unknown_speakers_need_no_table_each():
    n_utts = 200_000
    truth = np.arange(n_utts) % 8
    groups = [None] * (n_utts - 4) + ["a", "a", "b", "b"]
    tracemalloc.start()
    units, how_often = resampling_units(truth, [truth, truth], 8, groups)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    # Eight kinds of lone utterances, and two speakers of two.
    assert len(units) == 10
    assert how_often.sum() == n_utts - 2
    assert peak < n_utts * 200  # a table of two times 8 x 9 numbers each took 1,152 bytes and more
