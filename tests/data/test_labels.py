from __future__ import annotations

import numpy as np
import pytest

from abhinaya.data.labels import ABSTAIN, MSP_PODCAST, EmotionSet
from abhinaya.errors import BadValueError, ClassOrderError

TWO = EmotionSet(codes=("anger", "joy"), names=("anger", "joy"), outside=("other",))


def test_msp_podcast_order_is_the_challenge_order() -> None:
    # Published class indices: A 0, C 1, D 2, F 3, H 4, N 5, S 6, U 7.
    assert "".join(MSP_PODCAST.codes) == "ACDFHNSU"
    assert dict(zip(MSP_PODCAST.codes, MSP_PODCAST.names, strict=True))["U"] == "surprise"
    assert len(MSP_PODCAST) == 8
    assert MSP_PODCAST.data_labels == tuple("ACDFHNSUOX")
    assert MSP_PODCAST.vote_codes == tuple("ACDFHNSUO")


def test_encode_outside_and_null_become_abstain() -> None:
    indices = MSP_PODCAST.encode(["U", "A", "O", "X", None])
    assert indices.tolist() == [7, 0, ABSTAIN, ABSTAIN, ABSTAIN]
    assert indices.dtype == np.int64


def test_encode_not_a_number_cell_counts_as_null() -> None:
    # pandas writes missing text as a float.
    assert MSP_PODCAST.encode([float("nan"), "N"]).tolist() == [ABSTAIN, 5]  # type: ignore[list-item]  # what pandas hands over


def test_encode_nothing_gives_empty_array() -> None:
    assert MSP_PODCAST.encode([]).shape == (0,)


def test_decode_undoes_encode() -> None:
    assert MSP_PODCAST.decode([7, ABSTAIN, 0]) == ["U", None, "A"]


def test_encode_unknown_labels_raises_with_all_of_them() -> None:
    with pytest.raises(BadValueError, match=r"Unknown label 'Q', 'n'; the set has A C D F H N S U"):
        MSP_PODCAST.encode(["A", "n", "Q", "n"])


def test_one_class_raises() -> None:
    with pytest.raises(BadValueError, match=r"at least two classes, got \('anger',\)"):
        EmotionSet.from_codes(["anger"])


def test_names_that_do_not_match_codes_raise() -> None:
    with pytest.raises(BadValueError, match="one name per class, got 1 names for 2 codes"):
        EmotionSet.from_codes(["A", "B"], ["angry"])


@pytest.mark.parametrize(
    ("codes", "outside"),
    [(["A", "A"], []), (["A", "B"], ["A"]), (["A", " B"], []), (["A", ""], [])],
    ids=["repeated", "also outside", "blank around", "empty"],
)
def test_bad_codes_raise(codes: list[str], outside: list[str]) -> None:
    with pytest.raises(BadValueError, match="must be unique and without blanks around them, got"):
        EmotionSet.from_codes(codes, None, outside)


def test_json_round_trip_keeps_everything() -> None:
    named = EmotionSet(codes=("A", "Ü"), names=("angry", "überrascht"), outside=("X",))
    assert EmotionSet.from_json(named.to_json()) == named


def test_json_with_codes_alone_takes_them_as_names() -> None:
    read = EmotionSet.from_json('{"codes": ["anger", "joy"]}')
    assert (read.names, read.outside) == (("anger", "joy"), ())


@pytest.mark.parametrize("text", ["{", "[]", '{"cods": ["A", "B"]}', '{"codes": 3}'])
def test_json_of_something_else_raises(text: str) -> None:
    with pytest.raises(BadValueError, match=r"e\.json is not an emotion set, expected JSON such"):
        EmotionSet.from_json(text, where="e.json")


def test_same_order_passes_whatever_the_names() -> None:
    other = EmotionSet(codes=("anger", "joy"), names=("Wut", "Freude"))
    TWO.require_same_order(other, what="table.parquet", where="the manifest")


def test_other_order_raises_and_shows_both() -> None:
    other = EmotionSet.from_codes(["joy", "anger"])
    expected = "table.parquet has the class order joy anger, but the manifest has anger joy"
    with pytest.raises(ClassOrderError, match=expected):
        TWO.require_same_order(other, what="table.parquet", where="the manifest")
