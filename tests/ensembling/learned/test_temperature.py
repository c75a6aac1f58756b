from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss

from abhinaya.errors import BadValueError, UnknownNameError
from ensembling.aligned import align_predictions
from ensembling.learned.temperature import TEMPERATURE, fit_temperature, sharpen


def test_temperature_two_classes_by_hand():
    # Every row says .9 for class 0, and 3 of 4 rows are class 0. The best constant is .75, so
    # log(9) / T = log(3), T = 2.
    probs = np.tile([0.9, 0.1], (4, 1))
    assert fit_temperature(probs, np.array([0, 0, 0, 1])) == pytest.approx(2.0, abs=1e-4)


def test_temperature_undoes_logits_that_were_multiplied():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 5)) * 2
    truth = np.array([rng.choice(5, p=row) for row in softmax(logits, axis=1)])
    assert fit_temperature(softmax(logits * 3, axis=1), truth) == pytest.approx(3.0, rel=0.1)


def test_temperature_has_the_lowest_loss_of_a_fine_grid(make_corpus):
    tables, truth, _ = make_corpus(n_utts=200)
    probs = tables[1].probs.astype(np.float64)
    probs /= probs.sum(axis=1, keepdims=True)
    found = fit_temperature(probs, truth)
    losses = {
        t: log_loss(truth, softmax(np.log(probs) / t, axis=1)) for t in np.geomspace(0.1, 10, 400)
    }
    best = min(losses, key=losses.__getitem__)
    assert log_loss(truth, softmax(np.log(probs) / found, axis=1)) <= losses[best] + 1e-9
    assert found == pytest.approx(best, rel=0.02)


def test_temperature_stays_finite_for_a_member_that_is_never_wrong():
    # The sharper the better; far down the loss is zero to the last bit, and all are alike.
    assert np.exp(-4) <= fit_temperature(np.array([[0.9, 0.1]]), np.array([0])) < 0.1
    assert fit_temperature(np.zeros((0, 2)), np.array([], dtype=int)) == 1.0


def test_sharpen_by_hand():
    # squares of .6, .3, .1 are .36, .09, .01: sum .46
    np.testing.assert_allclose(
        sharpen(np.array([[0.6, 0.3, 0.1], [np.nan] * 3]), 0.5),
        [[0.36 / 0.46, 0.09 / 0.46, 0.01 / 0.46], [np.nan] * 3],
        rtol=1e-12,
    )


def test_temperature_rule_averages_after_scaling(aligned_of):
    aligned = aligned_of([[0.6, 0.3, 0.1], None], [[0.2, 0.2, 0.6], [0.5, 0.25, 0.25]])
    for mean, expected in (
        # (.36 / .46 + .2) / 2, (.09 / .46 + .2) / 2, (.01 / .46 + .6) / 2
        ("arithmetic", [0.491304, 0.197826, 0.31087]),
        # roots of .36 * .2, .09 * .2, .01 * .6: .26833, .13416, .07746, sum .47995
        ("geometric", [0.559072, 0.279536, 0.161390]),
    ):
        fused = TEMPERATURE.apply({"temperatures": [0.5, 1.0], "mean": mean}, aligned, [None] * 2)
        np.testing.assert_allclose(fused.probs[0], expected, atol=2e-6)
        np.testing.assert_allclose(fused.probs[1], [0.5, 0.25, 0.25], rtol=1e-12)
        assert fused.labels.tolist() == [0, 0]


def test_temperature_rule_fits_each_member_on_the_rows_where_it_spoke(make_corpus):
    tables, truth, speakers = make_corpus(n_utts=120, n_abstained=20)
    aligned = align_predictions(tables)
    fitted = TEMPERATURE.fit(aligned, truth, speakers, {"mean": "geometric"})
    assert fitted["mean"] == "geometric"
    for member, temperature in enumerate(fitted["temperatures"]):
        rows = aligned.labels[member] >= 0
        assert rows.sum() == 100
        assert temperature == fit_temperature(aligned.probs[member][rows], truth[rows])


def test_temperature_wrong_input_raises(aligned_of):
    aligned, truth = aligned_of([[1.0, 0, 0]], [2]), np.array([0])
    with pytest.raises(BadValueError, match="only labels from 'm1'"):
        TEMPERATURE.fit(aligned, truth, [None], {})
    with pytest.raises(BadValueError, match="only labels from 'm1'"):
        TEMPERATURE.apply({"temperatures": [1, 1], "mean": "arithmetic"}, aligned, [None])
    with pytest.raises(UnknownNameError, match="option mean of the rule 'temperature' 'harmonic'"):
        TEMPERATURE.fit(aligned, truth, [None], {"mean": "harmonic"})
