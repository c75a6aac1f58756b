from __future__ import annotations

import numpy as np
import pytest

from abhinaya import __version__
from abhinaya.data.labels import EmotionSet
from abhinaya.data.predictions import PredictionTable, read_table, write_table
from abhinaya.errors import BadValueError, ClassOrderError, UnknownNameError
from ensembling.voting.vote_tables import vote_tables

EMOTIONS = EmotionSet(codes=("A", "H", "N", "S"), names=("angry", "happy", "neutral", "sad"))


def table(name, letters, utterances="uvwxyz", emotions=EMOTIONS):
    """A table with one letter per utterance; "-" is an abstention."""
    labels = emotions.encode(None if letter == "-" else letter for letter in letters)
    return PredictionTable(name, emotions, tuple(utterances[: len(letters)]), labels)


def letters_of(result):
    return "".join(code or "-" for code in result.emotions.decode(result.labels))


def test_vote_majority_wins_and_shares_are_counted():
    # u: A A H -> A; v: H H H -> H
    result = vote_tables([table("p", "AH"), table("q", "AH"), table("r", "HH")])
    assert letters_of(result) == "AH"
    assert result.decided_by == ("majority", "majority")
    np.testing.assert_allclose(result.probs, [[2 / 3, 1 / 3, 0, 0], [0, 1, 0, 0]], rtol=1e-6)


def test_vote_tie_goes_to_the_tiebreaker_not_the_first_table():
    result = vote_tables([table("p", "A"), table("q", "H")], tiebreakers=["q"])
    assert letters_of(result) == "H"
    assert result.decided_by == ("q",)


def test_vote_tie_outside_which_the_tiebreaker_stands_goes_to_the_next_in_line():
    # A A H H N: tied are A and H; the tiebreaker t says N, so the next tiebreaker, d, decides.
    tables = [table(n, v) for n, v in zip("abcdt", "AAHHN", strict=True)]
    assert letters_of(vote_tables(tables, tiebreakers=["t", "d"])) == "H"
    assert vote_tables(tables, tiebreakers=["t", "d"]).decided_by == ("d",)
    # Without a second tiebreaker the tables follow in the order given: a says A.
    assert letters_of(vote_tables(tables, tiebreakers=["t"])) == "A"


def test_vote_three_way_and_all_way_ties_go_to_the_tiebreaker():
    # u: A H N, v: A H N S minus one abstention, w: all four different
    tables = [table("p", "AAA"), table("q", "H-H"), table("r", "NNN"), table("s", "-SS")]
    result = vote_tables(tables, tiebreakers=["r"])
    assert letters_of(result) == "NNN"
    assert result.decided_by == ("r", "r", "r")


def test_vote_ignores_abstentions():
    # Of the two that answer, both say S.
    result = vote_tables([table("p", "-"), table("q", "S"), table("r", "S")], tiebreakers=["p"])
    assert letters_of(result) == "S"
    assert result.decided_by == ("majority",)
    assert result.probs.tolist() == [[0, 0, 0, 1]]


def test_vote_everybody_abstains_without_fallback_raises_and_names_the_option():
    tables = [table("p", "A--"), table("q", "H--")]
    with pytest.raises(
        BadValueError, match=r"abstained on 2 of 3 .*'v', 'w'.*--fallback CLASS, one of A H N S"
    ):
        vote_tables(tables)


def test_vote_everybody_abstains_with_fallback_writes_it_without_probabilities():
    result = vote_tables([table("p", "A-"), table("q", "A-")], fallback="N")
    assert letters_of(result) == "AN"
    assert result.decided_by == ("majority", "fallback")
    assert result.has_probs.tolist() == [True, False]


def test_vote_unknown_fallback_raises():
    with pytest.raises(UnknownNameError, match=r"Unknown class 'Q'. Known: A, H, N, S"):
        vote_tables([table("p", "A")], fallback="Q")


def test_vote_other_rows_raises_unless_intersection():
    left, right = table("p", "AH"), table("q", "HS", utterances="wv")
    with pytest.raises(BadValueError, match="'q' does not cover the same utterances"):
        vote_tables([left, right])
    result = vote_tables([left, right], rows="intersection", tiebreakers=["q"])
    assert result.utterances == ("v",)
    assert letters_of(result) == "S"


def test_vote_rows_in_another_order_are_matched_by_name():
    result = vote_tables([table("p", "AH"), table("q", "HA", utterances="vu")])
    assert result.utterances == ("u", "v")
    assert letters_of(result) == "AH"
    assert result.decided_by == ("majority", "majority")


def test_vote_unknown_tiebreaker_raises_with_a_near_match():
    with pytest.raises(
        UnknownNameError, match=r"Unknown tiebreaker 'wavlmm'.*Did you mean 'wavlm'"
    ):
        vote_tables([table("wavlm", "A")], tiebreakers=["wavlmm"])


def test_vote_tiebreaker_given_twice_raises():
    with pytest.raises(BadValueError, match="tiebreaker 'p' is given more than once"):
        vote_tables([table("p", "A")], tiebreakers=["p", "p"])


def test_vote_no_tables_raises():
    with pytest.raises(BadValueError, match="No tables were given to the vote"):
        vote_tables([])


@pytest.mark.parametrize("name", ["majority", "probabilities", "fallback"])
def test_vote_table_with_a_name_that_decided_by_uses_raises(name):
    with pytest.raises(BadValueError, match=f"named '{name}'.*NAME=TABLE"):
        vote_tables([table(name, "A")])


def test_vote_other_class_order_raises():
    permuted = EmotionSet(codes=("H", "A", "N", "S"), names=("happy", "angry", "neutral", "sad"))
    with pytest.raises(ClassOrderError, match="'q' has the class order H A N S, but table 'p'"):
        vote_tables([table("p", "A"), table("q", "A", emotions=permuted)])


def test_vote_table_tells_how_it_was_made_and_survives_the_disk(tmp_path):
    result = vote_tables(
        [table("p", "A-"), table("q", "H-")], tiebreakers=["q"], fallback="S", name="final"
    )
    write_table(result, tmp_path / "final.parquet")
    read = read_table(tmp_path / "final.parquet")
    assert read.name == "final"
    assert read.decided_by == ("q", "fallback")
    assert read.has_probs.tolist() == [True, False]
    assert read.meta == {
        "rule": "vote",
        "tables": ["p", "q"],
        "tiebreakers": ["q"],
        "fallback": "S",
        "rows": "same",
        "version": __version__,
    }
