"""Two ensembles of the members of `shown_runs`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from abhinaya.app.comparing import Ensemble, compare_ensembles
from abhinaya.errors import BadValueError, UnknownNameError


def test_ensembles_have_their_scores_and_the_rows_where_they_differ(run):
    found = compare_ensembles(
        run, "development", Ensemble(("a", "b", "t1"), ("b",)), Ensemble(("a", "t1"))
    )
    # All: S A A against S U A. F1 of S is 1, of A 2/3, of the other six 0: 5/24.
    # a and t1: S U N, a breaking the tie of n7. F1 of S and U is 1, of the others 0: 2/8.
    assert [score.scores.macro_f1 for score in found.scores] == pytest.approx([5 / 24, 1 / 4])
    assert found.differing.values.tolist() == [
        ["n7.wav", "U", "A", "b", "U", "a"],
        ["n8.wav", "A", "A", "b", "N", "majority"],
    ]


def test_ensembles_without_truth_have_no_scores(run):
    found = compare_ensembles(
        replace(run, truth=None), "development", Ensemble(("a",)), Ensemble(("b",))
    )
    assert found.scores is None
    assert found.differing["true"].tolist() == [None, None]


def test_fallback_settles_what_nobody_votes_on(run):
    with pytest.raises(BadValueError, match="Every member abstained on 1 of 4"):
        compare_ensembles(run, "development", Ensemble(("t1",)), Ensemble(("a",)))
    t1 = Ensemble(("t1",), fallback="A")
    found = compare_ensembles(run, "development", t1, Ensemble(("a",)))
    assert found.differing["A decided by"].tolist() == ["majority", "fallback"]


def test_ensemble_that_cannot_vote_is_told(run):
    with pytest.raises(BadValueError, match="Ensemble B has no members"):
        compare_ensembles(run, "development", Ensemble(("a",)), Ensemble(()))
    with pytest.raises(UnknownNameError, match="tiebreaker 'b'"):
        compare_ensembles(run, "development", Ensemble(("a",), ("b",)), Ensemble(("a",)))
