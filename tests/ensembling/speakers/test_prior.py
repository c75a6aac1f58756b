from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from abhinaya.data.labels import ABSTAIN
from abhinaya.errors import BadShapeError, BadValueError, UnknownNameError
from ensembling.speakers.prior import estimate_prior, reestimate_rows
from ensembling.speakers.rows import ABSTAINED, ADAPTED, ALONE, NO_SPEAKER, NO_VECTOR, SpeakerRows


def make_rows(probs, speakers, **fields):
    probs = np.array(probs, dtype=float)
    return SpeakerRows(
        name="m",
        utterances=tuple(f"u{idx}" for idx in range(len(probs))),
        speakers=tuple(speakers),
        labels=np.nan_to_num(probs).argmax(axis=1),
        n_classes=probs.shape[1],
        probs=probs,
        **fields,
    )


def test_estimate_prior_one_step_by_hand(monkeypatch):
    monkeypatch.setattr("ensembling.speakers.prior._MAX_STEPS", 1)
    # Training prior (.75, .25): from it, the first posteriors are those given, and their mean
    # (.8 + .5) / 2 = .65 is the new prior. The posteriors under it: weights .65 / .75 = .866667 and
    # .35 / .25 = 1.4; .8 * .866667 = .693333 against .2 * 1.4 = .28 -> .712329;
    # .5 * .866667 = .433333 against .7 -> .382353.
    prior, posteriors = estimate_prior(np.array([[0.8, 0.2], [0.5, 0.5]]), np.array([0.75, 0.25]))
    np.testing.assert_allclose(prior, [0.65, 0.35])
    np.testing.assert_allclose(posteriors[:, 0], [0.712329, 0.382353], atol=1e-6)


def test_estimate_prior_two_steps_by_hand(monkeypatch):
    monkeypatch.setattr("ensembling.speakers.prior._MAX_STEPS", 2)
    # The second prior is the mean of the posteriors above.
    prior, _ = estimate_prior(np.array([[0.8, 0.2], [0.5, 0.5]]), np.array([0.75, 0.25]))
    np.testing.assert_allclose(prior, [0.547341, 0.452659], atol=1e-6)


def test_estimate_prior_strength_counts_as_further_utterances(monkeypatch):
    monkeypatch.setattr("ensembling.speakers.prior._MAX_STEPS", 1)
    # (1.3 + 2 * .75) / (2 + 2) = .7
    prior, _ = estimate_prior(
        np.array([[0.8, 0.2], [0.5, 0.5]]), np.array([0.75, 0.25]), strength=2.0
    )
    np.testing.assert_allclose(prior, [0.7, 0.3])


@pytest.mark.parametrize("strength", [0.0, 1.5])
def test_estimate_prior_finds_the_maximum_that_scipy_finds(strength):
    rng = np.random.default_rng(0)
    for _ in range(5):
        training = rng.dirichlet(np.full(3, 5.0))
        posteriors = rng.dirichlet(np.full(3, 0.7), size=15)
        ours, _ = estimate_prior(posteriors, training, strength=strength)

        def loss(free, posteriors=posteriors, training=training):
            prior = np.exp(free) / np.exp(free).sum()
            likelihood = np.log((posteriors * prior / training).sum(axis=1)).sum()
            return -likelihood - strength * (training * np.log(prior)).sum()

        found = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-9}).x
        theirs = np.exp(found) / np.exp(found).sum()
        # Our steps end at 1e-6 each, and several may be left.
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_estimate_prior_two_classes_closed_form():
    # Utterances that tell nothing, p = t, do not matter; a certain ones of class 0 and b of class 1
    # give a / (a + b).
    posteriors = np.array([[0.3, 0.7]] * 4 + [[1, 0]] * 3 + [[0, 1]])
    prior, new = estimate_prior(posteriors, np.array([0.3, 0.7]))
    np.testing.assert_allclose(prior, [0.75, 0.25], atol=1e-4)
    # And those that tell nothing get the prior.
    np.testing.assert_allclose(new[0], [0.75, 0.25], atol=1e-4)


def test_estimate_prior_great_strength_changes_nothing():
    posteriors = np.random.default_rng(1).dirichlet(np.ones(4), size=6)
    training = np.array([0.4, 0.3, 0.2, 0.1])
    prior, new = estimate_prior(posteriors, training, strength=1e9)
    np.testing.assert_allclose(prior, training, atol=1e-6)
    np.testing.assert_allclose(new, posteriors, atol=1e-6)


def test_estimate_prior_class_never_seen_in_training_stays_at_zero():
    prior, new = estimate_prior(np.array([[0.5, 0.5, 0.0]]), np.array([0.5, 0.5, 0.0]))
    assert prior.tolist() == [0.5, 0.5, 0.0]
    assert new.tolist() == [[0.5, 0.5, 0.0]]


def test_estimate_prior_wrong_input_raises():
    posteriors = np.array([[0.5, 0.5]])
    with pytest.raises(BadShapeError, match=r"training_prior \(3,\), expected \(n_utts"):
        estimate_prior(posteriors, np.full(3, 1 / 3))
    with pytest.raises(BadShapeError, match=r"posteriors has shape \(0, 2\)"):
        estimate_prior(np.zeros((0, 2)), np.full(2, 0.5))
    with pytest.raises(BadValueError, match="strength is -1, expected 0 or more"):
        estimate_prior(posteriors, np.full(2, 0.5), strength=-1)
    with pytest.raises(BadValueError, match="no probability in any class that the training prior"):
        estimate_prior(np.array([[0.0, 1.0]]), np.array([1.0, 0.0]))


def test_reestimate_rows_speakers_pull_unclear_utterances_their_way():
    # Each speaker is certain about two utterances and leans the other way in the third.
    sure, lean = [0.99, 0.01], [0.45, 0.55]
    rows = make_rows([sure, sure, lean, sure[::-1], sure[::-1], lean[::-1]], "pppqqq")
    result = reestimate_rows(rows)
    assert rows.labels.tolist() == [0, 0, 1, 1, 1, 0]
    assert result.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert result.status == (ADAPTED,) * 6


def test_reestimate_rows_training_prior_is_the_tables_unless_the_loss_absorbed_it():
    probs = [[0.9, 0.1], [0.3, 0.7], [0.9, 0.1], [0.7, 0.3]]
    rows = make_rows(probs, ["p", "p", None, None])
    by_hand = {
        # (.9 + .3 + .9 + .7) / 4 = .7
        "table": estimate_prior(np.array(probs[:2]), np.array([0.7, 0.3]))[1],
        "balanced": estimate_prior(np.array(probs[:2]), np.array([0.5, 0.5]))[1],
    }
    assert not np.allclose(by_hand["table"], by_hand["balanced"], atol=1e-3)
    absorbed = replace(rows, absorbed_prior=True)
    cases = [
        (rows, "auto", "table"),
        (absorbed, "auto", "balanced"),
        (rows, "balanced", "balanced"),
        (absorbed, "table", "table"),
    ]
    for case, training_prior, expected in cases:
        result = reestimate_rows(case, training_prior=training_prior)
        np.testing.assert_allclose(result.probs[:2], by_hand[expected], atol=1e-9)


def test_reestimate_rows_keeps_what_cannot_be_adapted():
    nothing = [np.nan, np.nan]
    rows = make_rows(
        [[0.9, 0.1], [0.8, 0.2], nothing, [0.4, 0.6], [0.4, 0.6], [0.4, 0.6]],
        ["p", "p", "p", "p", None, "q"],
    )
    rows = replace(rows, labels=np.array([0, 0, 1, ABSTAIN, 1, 1]))
    result = reestimate_rows(rows)
    assert result.status == (ADAPTED, ADAPTED, NO_VECTOR, ABSTAINED, NO_SPEAKER, ALONE)
    assert result.labels.tolist() == [0, 0, 1, ABSTAIN, 1, 1]
    np.testing.assert_array_equal(result.probs[2:], rows.probs[2:])


def test_reestimate_rows_does_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(2)
    rows = make_rows(rng.dirichlet(np.ones(3), size=30), [f"s{i % 4}" for i in range(30)])
    order = rng.permutation(30)
    whole, shuffled = reestimate_rows(rows), reestimate_rows(rows.take(order))
    np.testing.assert_array_equal(shuffled.probs, whole.probs[order])


def test_reestimate_rows_wrong_input_raises():
    rows = make_rows([[0.9, 0.1], [0.8, 0.2]], "pp")
    with pytest.raises(UnknownNameError, match="Unknown training prior 'uniform'"):
        reestimate_rows(rows, training_prior="uniform")
    with pytest.raises(
        BadValueError, match="no probabilities, which re-estimating the class prior"
    ):
        reestimate_rows(replace(rows, probs=None))
    with pytest.raises(BadValueError, match="No speaker is known of the 2"):
        reestimate_rows(replace(rows, speakers=(None, None)))
    with pytest.raises(BadValueError, match="min_utts is 1, expected at least 2"):
        reestimate_rows(rows, min_utts=1)
