from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abhinaya.data.labels import ABSTAIN, EmotionSet
from abhinaya.errors import BadShapeError, BadValueError
from ensembling.aligned import AlignedTables
from ensembling.voting.soft_votes import (
    SMALLEST_PROB,
    check_weights,
    log_probs,
    mean_probs,
    pick_classes,
    soft_vote,
    weighted_vote,
)
from ensembling.voting.votes import MAJORITY, plurality

quick = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**16)


def test_soft_vote_is_the_mean_of_those_that_answered(aligned_of):
    # u0: mean (.6+.2, .3+.5, .1+.3)/2 = (.4, .4, .2): a tie of 0 and 1, m0 says 0.
    # u1: only m1 answers.
    aligned = aligned_of([[0.6, 0.3, 0.1], None], [[0.2, 0.5, 0.3], [0.1, 0.2, 0.7]])
    result = soft_vote(aligned)
    np.testing.assert_allclose(result.shares, [[0.4, 0.4, 0.2], [0.1, 0.2, 0.7]], rtol=1e-12)
    assert result.labels.tolist() == [0, 2]
    assert result.decided_by.tolist() == [0, MAJORITY]
    # With m1 first in line the tie goes to its class 1.
    assert soft_vote(aligned, [1]).labels.tolist() == [1, 2]


def test_soft_vote_can_overrule_the_plurality(aligned_of):
    # Two members lean to 0 with .5, one is sure of 1: means .35 and .6.
    aligned = aligned_of([[0.5, 0.45, 0.05]], [[0.5, 0.45, 0.05]], [[0.05, 0.9, 0.05]])
    assert plurality(aligned.labels, 3).labels.tolist() == [0]
    assert soft_vote(aligned).labels.tolist() == [1]


def test_geometric_vote_is_the_scaled_root_of_the_product(aligned_of):
    # sqrt(.9 * .1) = .3, sqrt(.05 * .45) = .15, and again .15: sum .6 -> .5, .25, .25
    aligned = aligned_of([[0.9, 0.05, 0.05]], [[0.1, 0.45, 0.45]])
    result = soft_vote(aligned, geometric=True)
    np.testing.assert_allclose(result.shares, [[0.5, 0.25, 0.25]], rtol=1e-12)


def test_geometric_vote_zero_is_no_veto(aligned_of):
    # One member's zero counts as 1e-7: sqrt(1e-7 * .98) = 3.1e-4, sqrt(.5 * .01) = .07
    aligned = aligned_of([[0.0, 0.5, 0.5]], [[0.98, 0.01, 0.01]])
    shares = soft_vote(aligned, geometric=True).shares[0]
    assert shares[0] == pytest.approx((SMALLEST_PROB * 0.98) ** 0.5 / (2 * 0.005**0.5), rel=1e-2)


def test_weights_pull_the_mean(aligned_of):
    # (3 * .2 + 1 * .6) / 4 = .3; where m0 is silent its weight is too.
    aligned = aligned_of([[0.2, 0.8, 0.0], None], [[0.6, 0.4, 0.0], [0.1, 0.9, 0.0]])
    means = mean_probs(aligned, weights=np.array([3.0, 1.0]))
    np.testing.assert_allclose(means, [[0.3, 0.7, 0], [0.1, 0.9, 0]], rtol=1e-12)
    # 2 ** (2/3) * ... : .2^(3/4) * .6^(1/4) against .8^(3/4) * .4^(1/4), zeros aside
    a, b = 0.2**0.75 * 0.6**0.25, 0.8**0.75 * 0.4**0.25
    geometric = mean_probs(aligned, weights=np.array([3.0, 1.0]), geometric=True)
    assert geometric[0, 0] == pytest.approx(a / (a + b), rel=1e-5)


def test_soft_vote_nobody_answers_is_flagged(aligned_of):
    aligned = aligned_of([None, [1.0, 0.0, 0.0]], [None, None])
    result = soft_vote(aligned)
    assert result.labels.tolist() == [ABSTAIN, 0]
    assert result.all_abstained.tolist() == [True, False]
    assert result.shares[0].tolist() == [0, 0, 0]
    assert np.isnan(mean_probs(aligned)[0]).all()


def test_soft_vote_probabilities_of_a_row_that_abstained_do_not_count(aligned_of):
    aligned = aligned_of([[0.0, 1.0, 0.0]], [[0.6, 0.4, 0.0]])
    silent = replace(aligned, labels=np.array([[ABSTAIN], [0]]))
    assert soft_vote(silent).shares.tolist() == [[0.6, 0.4, 0.0]]


def test_soft_vote_labels_without_probabilities_raise_and_name_all(aligned_of):
    aligned = aligned_of([0, 1, None], [[1.0, 0, 0], 2, [0, 1.0, 0]], [[1.0, 0, 0]] * 3)
    with pytest.raises(
        BadValueError, match=r"only labels from 'm0' on 2 of 3 .*, 'm1' on 1 of 3.*plurality"
    ):
        soft_vote(aligned)


def test_weighted_vote_counts_ballots_by_weight():
    labels = np.array([[0, 0, -1], [1, 1, 1], [1, 2, -1]])
    result = weighted_vote(labels, np.array([3.0, 1.0, 2.0]), 3)
    # u0: 3 against 1 + 2: a tie that m0 settles; u1: 3, 1 and 2; u2: m1 alone
    np.testing.assert_allclose(
        result.shares, [[0.5, 0.5, 0], [0.5, 1 / 6, 1 / 3], [0, 1, 0]], rtol=1e-12
    )
    assert result.labels.tolist() == [0, 0, 1]
    assert result.decided_by.tolist() == [0, MAJORITY, MAJORITY]
    assert weighted_vote(labels, np.array([3.0, 1.0, 2.0]), 3, [2]).labels[0] == 1


def test_weighted_vote_sums_that_differ_by_rounding_are_tied():
    # .1 + .2 is not .3 in binary.
    labels = np.array([[1], [1], [0]])
    result = weighted_vote(labels, np.array([0.1, 0.2, 0.3]), 2, [2])
    assert (result.labels.tolist(), result.decided_by.tolist()) == ([0], [2])


def test_weighted_vote_by_class_uses_the_weight_of_the_class_named():
    labels = np.array([[0, 1], [1, 0]])
    weights = np.array([[0.9, 0.1, 0.0], [0.5, 0.6, 0.0]])
    # u0: .9 for 0, .6 for 1; u1: .1 for 1, .5 for 0
    result = weighted_vote(labels, weights, 3)
    np.testing.assert_allclose(result.shares, [[0.6, 0.4, 0], [5 / 6, 1 / 6, 0]], rtol=1e-12)


def test_weighted_vote_worthless_ballots_are_tied_not_lost():
    weights = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    result = weighted_vote(np.array([[0, -1], [1, -1]]), weights, 3, [1])
    assert result.shares.tolist() == [[0.5, 0.5, 0], [0, 0, 0]]
    assert result.labels.tolist() == [1, ABSTAIN]
    assert result.all_abstained.tolist() == [False, True]


def test_pick_classes_tie_that_no_member_named_goes_to_the_smallest():
    result = pick_classes(np.array([[0.2, 0.4, 0.4]]), np.array([[0], [0]]))
    assert (result.labels.tolist(), result.decided_by.tolist()) == ([1], [MAJORITY])


def test_log_probs_have_a_floor_and_keep_nan():
    assert log_probs(np.array([1.0, 0.0])).tolist() == [0.0, np.log(SMALLEST_PROB)]
    assert np.isnan(log_probs(np.array([np.nan]))[0])


def test_weights_of_wrong_number_or_value_raise():
    with pytest.raises(BadShapeError, match=r"weights has shape \(2,\), expected \(3,\)"):
        check_weights([1, 2], 3)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(BadValueError, match=f"A weight is {wrong}, expected positive.*Leave"):
            check_weights([1.0, wrong], 2)
    labels = np.array([[0], [1]])
    with pytest.raises(BadShapeError, match=r"weights has shape \(3,\), expected \(2,\) or \(2, 4"):
        weighted_vote(labels, np.ones(3), 4)
    with pytest.raises(BadValueError, match=r"weights holds -1.0 to 1.0, expected finite"):
        weighted_vote(labels, np.array([1.0, -1.0]), 4)


def random_aligned(seed, n_members=4, n_utts=12, n_classes=4):
    """Random members, a fifth of their rows abstentions."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(n_classes, 0.5), size=(n_members, n_utts))
    labels = probs.argmax(axis=2)
    silent = rng.random((n_members, n_utts)) < 0.2
    labels[silent], probs[silent] = ABSTAIN, np.nan
    return AlignedTables(
        tuple(f"m{idx}" for idx in range(n_members)),
        EmotionSet.from_codes("ACDFHNSU"[:n_classes]),
        tuple(f"u{idx}" for idx in range(n_utts)),
        labels,
        probs,
        ({},) * n_members,
        (None,) * n_members,
    )


def decide(rule, aligned, weights):
    if rule == "weighted":
        return weighted_vote(aligned.labels, weights, len(aligned.emotions))
    return soft_vote(aligned, weights=weights, geometric=rule == "geometric")


rules = st.sampled_from(["soft", "geometric", "weighted"])


@quick
@given(rules, seeds)
def test_shuffled_utterances_and_renamed_classes_change_nothing_else(rule, seed):
    aligned, rng = random_aligned(seed), np.random.default_rng(seed + 1)
    weights = rng.uniform(0.5, 2, 4)
    shuffled, new_name = rng.permutation(12), rng.permutation(4)
    renamed = np.where(aligned.labels == ABSTAIN, ABSTAIN, new_name[aligned.labels])
    other = replace(aligned, labels=renamed, probs=aligned.probs[:, :, np.argsort(new_name)])

    before, after = decide(rule, aligned, weights), decide(rule, other.take(shuffled), weights)

    expected = np.where(before.labels == ABSTAIN, ABSTAIN, new_name[before.labels])[shuffled]
    np.testing.assert_array_equal(after.labels, expected)
    np.testing.assert_array_equal(after.decided_by, before.decided_by[shuffled])
    np.testing.assert_allclose(
        after.shares[:, new_name], before.shares[shuffled], rtol=1e-9, atol=1e-12
    )


@quick
@given(rules, seeds)
def test_member_that_always_abstains_changes_nothing(rule, seed):
    aligned = random_aligned(seed)
    silent = replace(
        aligned,
        names=(*aligned.names, "silent"),
        labels=np.vstack([aligned.labels, np.full((1, 12), ABSTAIN)]),
        probs=np.concatenate([aligned.probs, np.full((1, 12, 4), np.nan)]),
    )
    before, after = decide(rule, aligned, np.ones(4)), decide(rule, silent, np.ones(5))
    np.testing.assert_array_equal(after.labels, before.labels)
    np.testing.assert_allclose(after.shares, before.shares, rtol=1e-12)


@quick
@given(rules, seeds, st.floats(0.01, 100))
def test_weights_on_another_scale_change_nothing(rule, seed, factor):
    aligned, weights = random_aligned(seed), np.array([1.0, 2.0, 3.0, 4.0])
    before, after = decide(rule, aligned, weights), decide(rule, aligned, weights * factor)
    np.testing.assert_array_equal(after.labels, before.labels)
    np.testing.assert_allclose(after.shares, before.shares, rtol=1e-9, atol=1e-12)


@quick
@given(seeds)
def test_weighted_vote_with_equal_weights_is_the_plurality(seed):
    aligned = random_aligned(seed)
    ours, plain = weighted_vote(aligned.labels, np.full(4, 0.7), 4), plurality(aligned.labels, 4)
    np.testing.assert_array_equal(ours.labels, plain.labels)
    np.testing.assert_array_equal(ours.decided_by, plain.decided_by)
    np.testing.assert_allclose(ours.shares, plain.shares, rtol=1e-12)


@quick
@given(st.sampled_from(["soft", "geometric"]), seeds)
def test_one_member_keeps_its_labels_and_probabilities(rule, seed):
    aligned = random_aligned(seed, n_members=1)
    result = decide(rule, aligned, None)
    np.testing.assert_array_equal(result.labels, aligned.labels[0])
    np.testing.assert_allclose(result.shares, np.nan_to_num(aligned.probs[0]), rtol=1e-4, atol=1e-6)
