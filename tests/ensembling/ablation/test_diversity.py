from __future__ import annotations

import numpy as np
import pytest

from ensembling.ablation.diversity import diversity, oracle_labels


def test_pair_by_hand():
    truth = np.array([0, 0, 1, 1, 2])
    votes = np.array(
        [
            [0, 0, 1, 0, 0],  # right right right wrong wrong
            [0, 0, 0, 1, 0],  # right right wrong right wrong
        ]
    )
    result = diversity(votes, truth)

    # The same class in utterances 0, 1 and 4; both wrong in 4.
    assert result.agreement[0, 1] == result.agreement[1, 0] == pytest.approx(3 / 5)
    assert result.double_fault[0, 1] == pytest.approx(1 / 5)
    # n11 = 2, n00 = 1, n10 = n01 = 1: (2 - 1) / (2 + 1)
    assert result.q_statistic[0, 1] == result.q_statistic[1, 0] == pytest.approx(1 / 3)
    assert result.double_fault[0, 0] == pytest.approx(2 / 5)


def test_members_that_never_err_together_have_q_minus_one():
    truth = np.zeros(4, dtype=int)
    result = diversity(np.array([[0, 0, 1, 1], [1, 1, 0, 0]]), truth)
    # n10 = n01 = 2, n11 = n00 = 0: (0 - 4) / (0 + 4)
    assert result.q_statistic[0, 1] == -1
    assert result.double_fault[0, 1] == 0
    assert result.q_statistic[0, 0] == 1


def test_abstention_is_wrong_and_no_disagreement():
    truth = np.array([0, 0, 1])
    votes = np.array([[0, -1, -1], [0, 0, -1], [-1, -1, -1]])
    result = diversity(votes, truth)

    # Both gave a class on the first utterance only, the same one.
    assert result.agreement[0, 1] == 1
    assert result.double_fault[0, 1] == pytest.approx(1 / 3)
    # The third member never gave one, and is never right: nothing to compare.
    assert np.isnan(result.agreement[0, 2])
    assert np.isnan(result.q_statistic[0, 2])
    assert result.double_fault[0, 2] == pytest.approx(2 / 3)


def test_q_of_a_member_that_is_always_right_is_undefined():
    truth = np.array([0, 1])
    result = diversity(np.array([[0, 1], [0, 0]]), truth)
    # n11 = 1, n10 = 1, n01 = n00 = 0: 0 / 0
    assert np.isnan(result.q_statistic[0, 1])


def test_oracle_is_right_where_any_member_is():
    truth = np.array([0, 1, 2, 0])
    votes = np.array([[0, 0, 1, -1], [1, 1, 0, -1]])
    voted = np.array([0, 0, 1, -1])
    assert oracle_labels(votes, truth, voted).tolist() == [0, 1, 1, -1]


def test_columns_may_stand_for_several_utterances():
    rng = np.random.default_rng(0)
    votes, truth, how_often = (
        rng.integers(-1, 3, size=(4, 9)),
        rng.integers(3, size=9),
        np.arange(9),
    )
    ours = diversity(votes, truth, how_often)
    theirs = diversity(np.repeat(votes, how_often, axis=1), np.repeat(truth, how_often))
    for field in ("agreement", "double_fault", "q_statistic"):
        np.testing.assert_allclose(getattr(ours, field), getattr(theirs, field), rtol=1e-12)
