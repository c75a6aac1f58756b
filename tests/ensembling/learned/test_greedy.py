from __future__ import annotations

import numpy as np
import pytest

from abhinaya.errors import BadValueError
from ensembling.aligned import align_predictions
from ensembling.learned.greedy import GREEDY, select_members
from ensembling.learned.opinions import member_opinions, weigh_opinions

TRUTH = np.array([0, 0, 1, 1])
WEAK = [[0.65, 0.35, 0], [0.65, 0.35, 0], [0.6, 0.4, 0], [0.35, 0.65, 0]]
"""By how much class 1 is ahead: -.3, -.3, -.2 (wrong), .3."""
OTHER = [[0.3, 0.7, 0], [0.55, 0.45, 0], [0.25, 0.75, 0], [0.45, 0.55, 0]]
"""By how much class 1 is ahead: .4 (wrong), -.1, .5, .1."""


def test_a_member_is_added_again_where_that_helps(aligned_of):
    # Macro-F1 of each alone and of one of each is the same, so the first is added, and again. Then
    # weak + weak + other is ahead by -.2, -.7, .1, .7: all right, which nothing later can raise.
    assert select_members(aligned_of(WEAK, OTHER), TRUTH, [0, 1], 30).tolist() == [2, 1]


def test_selection_ends_where_it_was_best(aligned_of):
    good = [[0.9, 0.1, 0], [0.9, 0.1, 0], [0.1, 0.9, 0], [0.1, 0.9, 0]]
    assert select_members(aligned_of(OTHER, good), TRUTH, [0, 1], 30).tolist() == [0, 1]
    assert select_members(aligned_of(OTHER, good), TRUTH, [0], 30).tolist() == [1, 0]
    assert select_members(aligned_of(WEAK, OTHER), TRUTH, [0, 1], 2).tolist() == [1, 0]


def test_bags_are_seeded_and_add_up(make_corpus):
    tables, truth, speakers = make_corpus(strengths=(2.0, 1.5, 1.0, 0.5), label_only=("m1",))
    aligned = align_predictions(tables)
    options = {"bags": 8, "share": 0.5}
    first = GREEDY.fit(aligned, truth, speakers, options)
    assert first == GREEDY.fit(aligned, truth, speakers, options)
    assert first != GREEDY.fit(aligned, truth, speakers, {**options, "seed": 1})
    assert sum(first["weights"]) == pytest.approx(1)
    assert all(weight > 0 for weight in first["weights"][:2])


def test_rows_of_unchosen_members_alone_are_decided_by_these(aligned_of):
    aligned = aligned_of([0, None, None], [1, 1, None], [2, 2, None])
    fused = GREEDY.apply({"weights": [1.0, 0.0, 0.0]}, aligned, [None] * 3)
    assert fused.labels.tolist() == [0, 1, -1]  # a tie of 1 and 2 goes to the first that named one


def test_opinions_are_probabilities_labels_or_nothing(aligned_of):
    opinions = member_opinions(aligned_of([[0.2, 0.3, 0.5], 1, None]))
    np.testing.assert_array_equal(opinions, [[[0.2, 0.3, 0.5], [0, 1, 0], [0, 0, 0]]])
    per_class = weigh_opinions(opinions, np.array([[1.0, 2.0, 4.0]]))
    np.testing.assert_allclose(per_class, [[0.2, 0.6, 2.0], [0, 2, 0], [0, 0, 0]])


@pytest.mark.parametrize("option", [{"steps": 0}, {"bags": 0}, {"share": 1.5}, {"seed": -1}])
def test_greedy_wrong_options_raise(aligned_of, option):
    with pytest.raises(BadValueError, match="expected at least one step and one bag, a share"):
        GREEDY.fit(aligned_of([0, 1]), np.array([0, 1]), [None] * 2, option)
