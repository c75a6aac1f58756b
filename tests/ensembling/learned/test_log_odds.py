from __future__ import annotations

import numpy as np
import pytest
from sklearn.naive_bayes import GaussianNB

from abhinaya.data.labels import EmotionSet
from abhinaya.errors import BadValueError
from abhinaya.evaluation.metrics import scores
from ensembling.aligned import AlignedTables
from ensembling.learned.log_odds import LOG_ODDS, add_log_odds, remaining_log_priors

UNIFORM = np.zeros(3)


def test_log_odds_add_up_and_take_each_prior_off(aligned_of):
    aligned = aligned_of([[0.5, 0.3, 0.2], None, None], [[0.2, 0.2, 0.6], [0.5, 0.25, 0.25], None])
    priors = np.log([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]])
    odds = np.exp(add_log_odds(aligned, priors, np.log([0.2, 0.4, 0.4])))
    # u0: .5 * .2 / (.5 * .25) * .2 = .16; .3 * .2 / (.25 * .25) * .4 = .384;
    #     .2 * .6 / (.25 * .5) * .4 = .384
    np.testing.assert_allclose(odds[0], [0.16, 0.384, 0.384], rtol=1e-12)
    # u1: m1 alone: .5 / .25 * .2, .25 / .25 * .4, .25 / .5 * .4; u2: the target prior
    np.testing.assert_allclose(odds[1], [0.4, 0.4, 0.2], rtol=1e-12)
    np.testing.assert_allclose(odds[2], [0.2, 0.4, 0.4], rtol=1e-12)


def test_log_odds_of_independent_members_is_naive_bayes():
    # Each member sees one of three features; scikit-learn's classifier sees all.
    rng = np.random.default_rng(0)
    truth = rng.choice(3, size=300, p=[0.6, 0.3, 0.1])
    features = rng.normal(size=(300, 3)) + truth[:, None] * [0.5, -0.4, 0.8]
    joint = GaussianNB().fit(features, truth)
    alone = [GaussianNB().fit(features[:, [idx]], truth) for idx in range(3)]
    probs = np.stack([nb.predict_proba(features[:, [idx]]) for idx, nb in enumerate(alone)])
    aligned = AlignedTables(
        ("a", "b", "c"),
        EmotionSet.from_codes("ACD"),
        tuple(map(str, range(300))),
        probs.argmax(axis=2),
        probs,
        ({},) * 3,
        (None,) * 3,
    )
    log_prior = np.log(joint.class_prior_)
    fused = LOG_ODDS.apply(
        {"strengths": [1.0] * 3, "log_priors": [log_prior.tolist()] * 3, "log_target": log_prior},
        aligned,
        [None] * 300,
    )
    np.testing.assert_allclose(fused.probs, joint.predict_proba(features), rtol=1e-6, atol=1e-9)


def test_remaining_prior_is_what_the_loss_has_not_absorbed(aligned_of):
    metas = [{}, {"absorbed_prior": [0.5, 0.25, 0.25]}, {"absorbed_prior": None}]
    aligned = aligned_of([0], [0], [0], metas=metas)
    prior = np.array([0.5, 0.25, 0.25])
    remaining = remaining_log_priors(aligned, UNIFORM, prior)
    np.testing.assert_allclose(remaining, [np.log(prior), UNIFORM, np.log(prior)], atol=1e-12)
    # Half of the prior absorbed (strength one half): the square root of it remains.
    half = np.sqrt(prior) / np.sqrt(prior).sum()
    aligned = aligned_of([0], metas=[{"absorbed_prior": half.tolist()}])
    rest = np.exp(remaining_log_priors(aligned, UNIFORM, prior)[0])
    np.testing.assert_allclose(rest / rest.sum(), half, rtol=1e-12)


def test_remaining_prior_without_a_training_prior_is_guessed_only_for_what_absorbed_none(
    aligned_of,
):
    aligned = aligned_of([0], [0], metas=[{}, {"absorbed_prior": [0.8, 0.1, 0.1]}])
    shares = np.array([0.5, 0.3, 0.2])
    np.testing.assert_allclose(
        remaining_log_priors(aligned, shares), [np.log(shares), UNIFORM], rtol=1e-12
    )


@pytest.mark.parametrize("wrong", [[0.5, 0.5], [0.5, 0.5, 0], ["a", "b", "c"], 3, [1, 2, np.nan]])
def test_prior_that_is_none_raises(aligned_of, wrong):
    aligned, truth = aligned_of([[1.0, 0, 0]], metas=[{"absorbed_prior": wrong}]), np.array([0])
    with pytest.raises(
        BadValueError, match=r"absorbed_prior of table 'm0' is .*3 positive numbers.* A C D"
    ):
        LOG_ODDS.fit(aligned, truth, [None], {})
    if isinstance(wrong, list):
        aligned = aligned_of([[1.0, 0, 0]])
        for key in ("prior", "target"):
            with pytest.raises(BadValueError, match=f"The option {key} is .*3 positive numbers"):
                LOG_ODDS.fit(aligned, truth, [None], {key: wrong})


def skewed(seed=0, n_utts=600):
    """A member that has learned a prior of 8:1:1, seen on balanced rows."""
    rng = np.random.default_rng(seed)
    prior = np.array([0.8, 0.1, 0.1])
    truth = np.arange(n_utts) % 3
    logits = rng.normal(size=(n_utts, 3)) * 0.7 + np.eye(3)[truth] * 1.2 + np.log(prior)
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probs, truth, prior


def test_strength_is_fitted_where_the_test_has_another_prior(aligned_of):
    probs, truth, prior = skewed()
    aligned = aligned_of(probs.tolist())
    fitted = LOG_ODDS.fit(aligned, truth, [None] * 600, {"prior": [8, 1, 1]})
    assert fitted["strengths"][0] >= 0.75
    np.testing.assert_allclose(np.exp(fitted["log_priors"][0]), prior, rtol=1e-12)
    fused = LOG_ODDS.apply(fitted, aligned, [None] * 600)
    before = scores(truth, probs.argmax(axis=1), 3).macro_f1
    assert scores(truth, fused.labels, 3).macro_f1 > before + 0.1


def test_strength_stays_zero_where_no_correction_helps(aligned_of):
    # The loss has absorbed the prior already, so there is nothing to take off.
    probs, truth, prior = skewed()
    aligned = aligned_of(probs.tolist(), metas=[{"absorbed_prior": prior.tolist()}])
    for options in ({}, {"prior": [8, 1, 1]}):
        fitted = LOG_ODDS.fit(aligned, truth, [None] * 600, options)
        assert fitted["strengths"] == [0.0]
    # A member that is always right gains from nothing.
    perfect = aligned_of([[0.98, 0.01, 0.01], [0.01, 0.98, 0.01]])
    fitted = LOG_ODDS.fit(perfect, np.array([0, 1]), [None] * 2, {"prior": [1, 1, 2]})
    assert fitted["strengths"] == [0.0]


def test_default_prior_is_that_of_the_labelled_rows_with_one_more_of_each(aligned_of):
    aligned = aligned_of([[1.0, 0, 0]] * 7)
    fitted = LOG_ODDS.fit(aligned, np.array([0, 0, 0, 0, 0, 1, 1]), [None] * 7, {})
    # (5 + 1, 2 + 1, 0 + 1) / 10
    np.testing.assert_allclose(np.exp(fitted["log_priors"]), [[0.6, 0.3, 0.1]], rtol=1e-12)


def test_target_prior_decides_where_members_do_not(aligned_of):
    aligned = aligned_of([[0.4, 0.4, 0.2], None])
    fitted = LOG_ODDS.fit(aligned, np.array([1, 0]), [None] * 2, {"target": [1, 2, 1]})
    fused = LOG_ODDS.apply({**fitted, "strengths": [0.0]}, aligned, [None] * 2)
    # .4 * .25, .4 * .5, .2 * .25: 2 : 4 : 1; a row on which nobody spoke stays an abstention
    np.testing.assert_allclose(fused.probs[0], [2 / 7, 4 / 7, 1 / 7], rtol=1e-12)
    assert fused.labels.tolist() == [1, -1]


def test_log_odds_of_labels_alone_raise(aligned_of):
    with pytest.raises(BadValueError, match="only labels from 'm0'"):
        LOG_ODDS.fit(aligned_of([0]), np.array([0]), [None], {})
