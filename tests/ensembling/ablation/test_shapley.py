from __future__ import annotations

import numpy as np
import pytest

from ensembling.ablation.shapley import sampled_shapley_values, shapley_values

# Bits: A = 1, B = 2, C = 4.
SCORES = np.array([0.0, 0.3, 0.2, 0.5, 0.1, 0.3, 0.4, 0.6])


def look_up(is_in):
    return SCORES[is_in @ np.array([1, 2, 4])]


def test_three_members_by_hand():
    # Gains of A, B, C in the six orders in which they can come in:
    #   ABC: .3 .2 .1   ACB: .3 .3 .0   BAC: .3 .2 .1
    #   BCA: .2 .2 .2   CAB: .2 .3 .1   CBA: .2 .3 .1
    # Means: A 1.5 / 6, B 1.5 / 6, C .6 / 6.
    np.testing.assert_allclose(shapley_values(SCORES), [0.25, 0.25, 0.1])


def test_only_member_has_its_own_score():
    assert shapley_values(np.array([0.0, 0.4])).tolist() == [0.4]


def test_values_add_up_to_everybodys_score_and_one_without_effect_gets_nothing():
    rng = np.random.default_rng(0)
    of_seven = np.concatenate([[0], rng.random(127)])
    with_bystander = np.concatenate([of_seven, of_seven])  # bit 7 changes no score

    values = shapley_values(with_bystander)

    assert values.sum() == pytest.approx(of_seven[-1])
    assert values[7] == pytest.approx(0)
    np.testing.assert_allclose(values[:7], shapley_values(of_seven))


def test_sampled_values_add_up_and_come_near_the_exact_ones():
    values = sampled_shapley_values(look_up, 3, n_orders=2000)
    assert values.sum() == pytest.approx(0.6)
    # The gains spread by at most .1, so 2,000 orders leave an error below .003 (one sigma).
    np.testing.assert_allclose(values, [0.25, 0.25, 0.1], atol=0.01)


def test_sampled_values_are_exact_where_gains_do_not_depend_on_the_order():
    worth = np.array([0.1, 0.2, 0.3, 0.0])
    values = sampled_shapley_values(lambda is_in: is_in @ worth, 4, n_orders=2)
    np.testing.assert_allclose(values, worth, atol=1e-15)


def test_two_sampled_orders_are_each_others_reverse():
    # With two members these are all orders: (.3 + .6 - .2) / 2 and (.2 + .6 - .3) / 2.
    scores = np.array([0.0, 0.3, 0.2, 0.6])
    values = sampled_shapley_values(lambda is_in: scores[is_in @ np.array([1, 2])], 2, n_orders=2)
    np.testing.assert_allclose(values, [0.35, 0.25])
