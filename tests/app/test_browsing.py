"""Rows of the tables of `shown_runs`, worked out there by hand."""

from __future__ import annotations

import numpy as np
import pytest
from shown_runs import ROWS

from abhinaya.app.browsing import AGREEMENTS, Filters, filter_rows, list_rows, votes_on
from abhinaya.data.labels import ABSTAIN
from abhinaya.errors import BadValueError, UnknownNameError


def shown(run, table="vote", **filters):
    rows = filter_rows(list_rows(run, "development", table), Filters(**filters))
    return rows["utterance"].str.removesuffix(".wav").tolist()


def test_rows_say_truth_vote_and_who_agrees(run):
    rows = list_rows(run, "development", "vote")
    assert rows["utterance"].tolist() == list(ROWS)
    assert rows["true"].fillna("-").tolist() == ["S", "U", "A", "-"]  # X is no class
    assert rows["predicted"].tolist() == ["S", "A", "A", "H"]
    # Shares of the votes cast: 3 of 3, 1 of 3, 1 of 2, 3 of 3.
    assert rows["confidence"].tolist() == pytest.approx([1, 1 / 3, 1 / 2, 1])
    assert rows["agree"].tolist() == [3, 1, 1, 3]
    assert rows["voted"].tolist() == [3, 3, 2, 3]
    assert rows["differ"].tolist() == [False, True, True, False]
    assert rows["decided_by"].tolist() == ["majority", "b", "b", "majority"]
    assert rows["speaker"].tolist() == ["6", "7", "8", "9"]


def test_rows_of_a_member_have_its_own_probabilities(run):
    rows = list_rows(run, "development", "a")
    assert rows["predicted"].tolist() == ["S", "U", "N", "H"]
    assert rows["confidence"].tolist() == pytest.approx([0.65] * 4)
    assert rows["decided_by"].isna().all()
    assert np.isnan(list_rows(run, "development", "b")["confidence"]).all()


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, ["n6", "n7", "n8", "n9"]),
        ({"true": "A"}, ["n8"]),
        ({"predicted": "A"}, ["n7", "n8"]),
        ({"agreement": "differ"}, ["n7", "n8"]),
        ({"agreement": "agree"}, ["n6", "n9"]),
        ({"agreement": "tie"}, ["n7", "n8"]),
        ({"agreement": "wrong"}, ["n7"]),
        ({"speaker": "9"}, ["n9"]),
        ({"confidence": (0.33, 0.5)}, ["n7", "n8"]),
        ({"confidence": (0.9, 1.0)}, ["n6", "n9"]),
        ({"predicted": "A", "agreement": "wrong", "speaker": "8"}, []),
    ],
)
def test_filters_choose_rows(run, filters, names):
    assert shown(run, **filters) == names


def test_table_without_probabilities_has_rows_until_a_confidence_is_asked_for(run):
    assert len(shown(run, "b")) == 4
    assert shown(run, "b", confidence=(0.1, 1.0)) == []


def test_votes_on_an_utterance_are_every_members(run):
    votes = votes_on(run, "development", "vote", "n8.wav")
    assert [int(table.labels[0]) for table in votes.members] == [5, 0, ABSTAIN]
    assert votes.decided.decided_by[0] == "b"
    assert (votes.true, votes.speaker) == (0, "8")


def test_what_is_not_there_is_named(run):
    with pytest.raises(UnknownNameError, match="Unknown table 'c'"):
        list_rows(run, "development", "c")
    with pytest.raises(BadValueError, match=r"'development' have no utterance 'n1.wav'"):
        votes_on(run, "development", "vote", "n1.wav")
    with pytest.raises(UnknownNameError, match=r"agreement 'often'.*differ"):
        shown(run, agreement="often")
    assert len(AGREEMENTS) == 5


def test_run_without_corpus_has_rows_without_truth(run):
    from dataclasses import replace

    rows = list_rows(replace(run, manifest=None, truth=None, speakers=None), "development", "vote")
    assert rows["true"].isna().all()
    assert rows["speaker"].isna().all()
