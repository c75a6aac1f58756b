from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare, multivariate_hypergeom

from abhinaya.errors import BadValueError
from ensembling.ablation.gray_code import score_every_subset
from ensembling.ablation.selection_bias import draw_half, selection_optimism
from ensembling.ablation.subset_search import members_of
from ensembling.ablation.subset_votes import vote_subsets

# Two candidates, each right on one of two utterances of the only class, silent on the other.
# On both utterances F1 is 2 * 1 / (2 + 1) = 2/3, and the first is picked.
EACH_ONE_HALF = np.array([[0, -1], [-1, 0]])


def test_expected_drop_by_hand():
    result = selection_optimism(EACH_ONE_HALF, np.array([0, 0]), 1, n_halves=2_000)

    assert (result.n_candidates, result.picked) == (2, 0)
    assert result.macro_f1 == pytest.approx(2 / 3)
    # A half is one utterance; the candidate that is right there has F1 1, and 0 on the other half.
    # That is always a drop of 1, divided by the square root of 2.
    assert result.expected_drop == pytest.approx(0.5**0.5)
    assert result.interval == pytest.approx((0.5**0.5, 0.5**0.5))
    # Every split has one half for each candidate.
    assert result.picked_on_half == 0.5


def test_drop_of_two_kinds_of_splits_by_hand():
    # The first candidate is right on utterances 0 and 1, the second on 2 and 3. Of the 6 halves of
    # two, {0, 1} and {2, 3} pick the candidate that is right on both: F1 1 there, 0 on the other
    # half. In the 4 mixed ones both have 2 * 1 / (2 + 1) on both halves: no drop, the first one.
    labels = np.array([[0, 0, -1, -1], [-1, -1, 0, 0]])
    result = selection_optimism(labels, np.zeros(4, dtype=int), 1, n_halves=20_000)

    # One sigma of the mean of 10,000 splits is .47 / 100 / sqrt(2) = .0033.
    assert result.expected_drop == pytest.approx(1 / 3 / 2**0.5, abs=0.015)
    assert result.interval == pytest.approx((0, 1 / 2**0.5))
    assert result.picked_on_half == pytest.approx(5 / 6, abs=0.01)


def test_groups_stay_in_one_half():
    # Every utterance ten times, in two groups: the same drop as with two utterances.
    labels, truth = np.repeat(EACH_ONE_HALF, 10, axis=1), np.zeros(20, dtype=int)
    groups = ["s1"] * 10 + ["s2"] * 10

    by_group = selection_optimism(labels, truth, 1, groups=groups)
    by_utterance = selection_optimism(labels, truth, 1)
    unknown = selection_optimism(labels, truth, 1, groups=[None] * 20)

    assert by_group.expected_drop == pytest.approx(0.5**0.5)
    # Twenty independent utterances leave less to luck; unknown speakers stand for themselves.
    assert by_utterance.expected_drop < 0.3
    assert unknown == by_utterance


def test_equal_utterances_in_one_column_leave_the_halves_as_they_are():
    rng = np.random.default_rng(0)
    labels, truth = rng.integers(-1, 3, size=(4, 30)), rng.integers(3, size=30)
    which = rng.integers(30, size=300)
    groups = [f"s{number}" for number in rng.integers(20, size=300)]
    rows = {"labels": labels[:, which], "truth": truth[which]}

    merged = selection_optimism(labels, truth, 3, which=which, groups=groups)
    assert merged == selection_optimism(**rows, n_classes=3, groups=groups)

    # Without groups the draws are others, of the same distribution.
    merged = selection_optimism(labels, truth, 3, which=which, n_halves=8_000)
    by_row = selection_optimism(**rows, n_classes=3, n_halves=8_000)
    assert merged.macro_f1 == by_row.macro_f1
    assert merged.expected_drop == pytest.approx(by_row.expected_drop, abs=0.002)
    assert merged.interval == pytest.approx(by_row.interval, abs=0.004)
    assert merged.picked_on_half == pytest.approx(by_row.picked_on_half, abs=0.03)


@pytest.mark.parametrize("how_often", [[1, 2, 4], [3, 1, 1, 1], [2, 90]])
def test_halves_are_hypergeometric(how_often):
    n_half, rng = sum(how_often) // 2, np.random.default_rng(0)
    drawn = [tuple(draw_half(np.array(how_often), rng).tolist()) for _ in range(20_000)]

    every = np.indices([n + 1 for n in how_often]).reshape(len(how_often), -1).T
    possible = [tuple(half) for half in every[every.sum(axis=1) == n_half].tolist()]
    observed = [drawn.count(half) for half in possible]
    assert sum(observed) == len(drawn)
    expected = [multivariate_hypergeom.pmf(half, how_often, n_half) for half in possible]
    assert chisquare(observed, np.array(expected) * len(drawn)).pvalue > 0.01


def test_candidate_that_is_always_best_costs_nothing():
    truth = np.array([0, 1, 0, 1])
    result = selection_optimism(np.array([[1, 0, 1, 0], [0, 1, 0, 1]]), truth, 2)

    assert result.picked == 1
    assert result.picked_on_half == 1
    # A half without one of the classes scores (1 + 0) / 2, but so does the other half.
    assert result.expected_drop == 0
    assert result.interval == (0, 0)


def test_same_seed_gives_the_same_figures_and_blocks_do_not_matter(monkeypatch):
    rng = np.random.default_rng(0)
    truth, labels = rng.integers(3, size=60), rng.integers(-1, 3, size=(20, 60))
    once = selection_optimism(labels, truth, 3, n_halves=50, seed=1)
    assert selection_optimism(labels, truth, 3, n_halves=50, seed=1) == once
    assert selection_optimism(labels, truth, 3, n_halves=50, seed=2) != once
    monkeypatch.setattr("ensembling.ablation.selection_bias._BLOCK_CELLS", 8 * 60)
    assert selection_optimism(labels, truth, 3, n_halves=50, seed=1) == once


def test_expected_drop_is_what_fresh_utterances_show():
    """Draw corpora from a known world, pick the best of 255 votes, see what it does elsewhere."""
    n_members, n_classes, n_utts = 8, 8, 600
    rng = np.random.default_rng(0)

    def world(n):
        truth = rng.integers(n_classes, size=n)
        shared = rng.normal(size=(n, n_classes))  # what makes a clip hard for everybody
        logits = shared + rng.normal(size=(n_members, n, n_classes))
        logits[:, np.arange(n), truth] += 1.0
        return logits.argmax(axis=2), truth

    elsewhere, _ = score_every_subset(*world(30_000), n_classes)
    subsets = members_of(np.arange(1, 256, dtype=np.uint64), n_members)
    true_drops, expected_drops, is_inside = [], [], []
    for _ in range(40):
        votes, truth = world(n_utts)
        labels = vote_subsets(votes, subsets, n_classes)
        result = selection_optimism(labels, truth, n_classes, n_halves=100)
        true_drops.append(result.macro_f1 - elsewhere[1 + result.picked])
        expected_drops.append(result.expected_drop)
        again, _ = score_every_subset(*world(n_utts), n_classes)
        drop_there = result.macro_f1 - again[1 + result.picked]
        is_inside.append(result.interval[0] <= drop_there <= result.interval[1])

    # Some 2 points; those of one corpus spread by about 2, so the mean of 40 has an error of .3.
    assert np.mean(true_drops) > 0.01
    assert 0.7 < np.mean(expected_drops) / np.mean(true_drops) < 1.7
    assert np.mean(is_inside) > 0.8


@pytest.mark.parametrize(
    ("n_candidates", "options", "message"),
    [
        (1, {}, "among 1 candidates on 1000 halves of 3 groups"),
        (2, {"n_halves": 1}, "among 2 candidates on 1 halves of 3 groups"),
        (2, {"groups": ["s", "s", "s"]}, "on 1000 halves of 1 groups"),
    ],
)
def test_nothing_to_choose_or_to_split_raises(n_candidates, options, message):
    labels, truth = np.zeros((n_candidates, 3), dtype=int), np.zeros(3, dtype=int)
    with pytest.raises(BadValueError, match=f"{message}.*at least two of each"):
        selection_optimism(labels, truth, 1, **options)
