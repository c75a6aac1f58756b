from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from abhinaya.data.labels import ABSTAIN
from abhinaya.evaluation.calibration import measure_calibration


def test_calibration_by_hand() -> None:
    # .9 and .92 share the bin (13/15, 14/15], 1 of 2 right: |1/2 - .91| of half the rows;
    # .7 (10/15, 11/15], right: |1 - .7| of a quarter; .55 (8/15, 9/15], wrong: .55 of a quarter.
    probs = np.array([[0.9, 0.1], [0.08, 0.92], [0.7, 0.3], [0.45, 0.55]])
    found = measure_calibration(np.array([0, 0, 0, 0]), np.array([0, 1, 0, 1]), probs)
    assert found is not None
    assert found.ece == pytest.approx((2 * 0.41 + 0.3 + 0.55) / 4)
    # Twice the square of what is missing, with two classes.
    assert found.brier == pytest.approx(2 * (0.01 + 0.8464 + 0.09 + 0.3025) / 4)
    assert found.n_utts == 4


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_calibration_equals_that_of_scikit_learn(sharpness: float) -> None:
    rng = np.random.default_rng(0)
    logits = sharpness * rng.standard_normal((5_000, 8))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = np.array([rng.choice(8, p=row) for row in probs**0.5 / (probs**0.5).sum(1)[:, None]])
    predicted = probs.argmax(axis=1)
    ours = measure_calibration(truth, predicted, probs.astype(np.float32))
    assert ours is not None
    confidence, right = probs.max(axis=1), predicted == truth
    accuracies, means = calibration_curve(right, confidence, n_bins=15, strategy="uniform")
    sizes = np.histogram(confidence, bins=np.linspace(0, 1, 16))[0]
    theirs = (sizes[sizes > 0] * np.abs(accuracies - means)).sum() / len(probs)
    assert ours.ece == pytest.approx(theirs, abs=1e-6)
    assert ours.brier == pytest.approx(
        brier_score_loss(truth, probs, labels=range(8), scale_by_half=False), abs=1e-6
    )


def test_calibration_of_the_certain_and_the_clueless() -> None:
    truth = np.array([0, 1, 2, 3])
    certain = measure_calibration(truth, truth, np.eye(4))
    assert certain is not None
    assert (certain.ece, certain.brier) == (0, 0)
    wrong = measure_calibration(truth, (truth + 1) % 4, np.eye(4)[(truth + 1) % 4])
    assert wrong is not None
    assert (wrong.ece, wrong.brier) == (1, 2)
    clueless = measure_calibration(truth, np.zeros(4, dtype=int), np.full((4, 4), 0.25))
    assert clueless is not None
    assert clueless.ece == 0  # right one time in four, as it says


def test_rows_that_abstain_or_have_no_probabilities_are_left_out() -> None:
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [np.nan, np.nan], [0.2, 0.8]])
    predicted = np.array([0, ABSTAIN, 1, 1])
    found = measure_calibration(np.array([0, 0, 0, 0]), predicted, probs)
    assert found is not None
    assert found.n_utts == 2
    assert found.ece == pytest.approx((0.1 + 0.8) / 2)
    assert measure_calibration(np.zeros(4, dtype=int), np.full(4, ABSTAIN), probs) is None
    assert measure_calibration(np.zeros(4, dtype=int), predicted, None) is None
