from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from abhinaya.data.labels import EmotionSet
from abhinaya.data.predictions import PredictionTable
from abhinaya.errors import BadValueError, ClassOrderError
from ensembling.aligned import align_predictions
from ensembling.voting.vote_tables import vote_tables

EMOTIONS = EmotionSet.from_codes("AHN")


def table(name, letters, utterances, probs=None, **further):
    labels = EMOTIONS.encode(None if letter == "-" else letter for letter in letters)
    probs = None if probs is None else np.array(probs, dtype=np.float32)
    return PredictionTable(name, EMOTIONS, tuple(utterances), labels, probs=probs, **further)


def test_align_predictions_puts_every_table_into_the_order_of_the_first():
    p = table("p", "AH", "uv", [[0.5, 0.25, 0.25], [0, 1, 0]], meta={"seed": 1})
    q = table("q", "N-", "vu", embeddings=np.array([[1.0], [np.nan]], dtype=np.float32))
    aligned = align_predictions([p, q])
    assert (aligned.names, aligned.utterances, len(aligned)) == (("p", "q"), ("u", "v"), 2)
    assert aligned.labels.tolist() == [[0, 1], [-1, 2]]
    assert aligned.probs[0].tolist() == [[0.5, 0.25, 0.25], [0, 1, 0]]
    assert np.isnan(aligned.probs[1]).all()
    assert aligned.probs.dtype == np.float64
    assert aligned.metas == ({"seed": 1}, {})
    assert aligned.embeddings[0] is None
    np.testing.assert_array_equal(aligned.embeddings[1], [[np.nan], [1.0]])
    assert aligned.has_voted.tolist() == [[True, True], [False, True]]
    assert aligned.has_probs.tolist() == [[True, True], [False, False]]


def test_aligned_of_some_utterances_and_some_members():
    p = table("p", "AH", "uv", embeddings=np.array([[1.0], [2.0]], dtype=np.float32))
    aligned = align_predictions([p, table("q", "NN", "uv"), table("r", "HA", "uv")])
    part = aligned.take([1]).members([2, 0])
    assert (part.names, part.utterances) == (("r", "p"), ("v",))
    assert part.labels.tolist() == [[0], [1]]
    assert part.embeddings[0] is None
    assert part.embeddings[1].tolist() == [[2.0]]


def test_aligned_of_the_rows_that_all_tables_have():
    tables = [table("p", "AHN", "uvw"), table("q", "HN", "wu")]
    assert align_predictions(tables, rows="intersection").utterances == ("u", "w")


def test_aligned_of_tables_of_different_splits_raises():
    with pytest.raises(BadValueError, match=r"lacks 2: 'u', 'v'.*has 1 more: 'x'.*--rows"):
        align_predictions([table("p", "AH", "uv"), table("q", "A", "x")])
    with pytest.raises(BadValueError, match="share no utterance"):
        align_predictions([table("p", "AH", "uv"), table("q", "A", "x")], rows="intersection")


def test_align_predictions_without_tables_or_with_one_name_twice_raises():
    with pytest.raises(BadValueError, match="No tables were given"):
        align_predictions([])
    with pytest.raises(
        BadValueError, match=r"Two tables are named 'p'. Rename one with NAME=TABLE"
    ):
        align_predictions([table("p", "A", "u"), table("p", "H", "u")])


def test_align_predictions_of_other_class_order_raises():
    other = replace(table("q", "A", "u"), emotions=EmotionSet.from_codes("HAN"))
    with pytest.raises(ClassOrderError, match=r"Table 'q' has the class order H A N.*table 'p'"):
        align_predictions([table("p", "A", "u"), other])


def test_duplicated_utterances_and_wrong_probabilities_are_never_aligned():
    # The table itself refuses them, so no rule has to.
    with pytest.raises(BadValueError, match="1 utterances appear more than once: 'u'"):
        table("p", "AH", "uu")
    for row in ([0.9, 0.9, 0.9], [np.nan, 0.5, 0.5], [-0.5, 1.0, 0.5], [np.inf, 0, 0]):
        with pytest.raises(BadValueError, match="negative or do not sum to one"):
            table("p", "A", "u", [row])


def test_align_unites_the_marks_of_training_rows():
    p = table("p", "AHN", "uvw", trained_on=np.array([True, False, False]))
    q = table("q", "AHN", "uvw", trained_on=np.array([False, False, True]))
    unknown = table("old", "AHN", "wvu")
    aligned = align_predictions([unknown, p, q])
    assert aligned.trained_on.tolist() == [True, False, True]
    assert aligned.take([1, 2]).trained_on.tolist() == [False, True]
    assert align_predictions([unknown]).trained_on is None


def test_vote_has_the_mean_attributes_of_the_tables_that_have_them():
    """Row by row and attribute by attribute; a table without any does not count."""
    nan = np.nan
    ours = np.array([[1, 2, nan], [nan, nan, nan]], dtype=np.float32)
    theirs = np.array([[4, nan, nan], [5, 6, 7]], dtype=np.float32)
    names, labels = ("a", "b"), np.array([0, 1])
    tables = [
        PredictionTable(name, EMOTIONS, names, labels, attributes=values)
        for name, values in (("p", ours), ("q", theirs), ("r", None))
    ]
    expected = [[2.5, 2, nan], [5, 6, 7]]
    np.testing.assert_array_equal(vote_tables(tables).attributes, expected)
    np.testing.assert_array_equal(align_predictions(tables).take([1]).attributes, expected[1:])
    assert vote_tables(tables[2:]).attributes is None
