from __future__ import annotations

import pytest

from abhinaya.errors import MissingFileError, ProblemsError
from ensembling.ablation.combinations import check_combinations, read_combinations


def test_shipped_combinations_are_those_of_the_paper_that_are_public():
    assert read_combinations("ensemble/combinations.yaml") == {
        "Comb. I": ("S2", "T2", "ST1"),
        "Comb. IV": ("S1", "S2", "T1", "T2"),
        "Abhinaya": ("S1", "S2", "T1", "T2", "ST1"),
    }


def test_combinations_keep_the_order_of_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("combinations:\n  second: [b]\n  first: [a, b]\n")
    assert list(read_combinations(path)) == ["second", "first"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("combination: {a: [b]}\n", "combination is unknown, did you mean combinations"),
        ("combinations: {}\n", "combinations is .* at least 1"),
        ("combinations: {a: b}\n", "combinations.a is 'b'"),
    ],
)
def test_wrong_file_raises(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ProblemsError, match=message):
        read_combinations(path)


def test_missing_file_raises(tmp_path):
    with pytest.raises(MissingFileError, match="There is no config"):
        read_combinations(tmp_path / "none.yaml")


def test_all_combinations_that_cannot_be_formed_are_named_at_once():
    with pytest.raises(ProblemsError) as caught:
        check_combinations(
            {"good": ["a", "b"], "none": [], "other": ["a", "x", "x"]}, names=["a", "b"]
        )
    problems = caught.value.problems
    assert len(problems) == 3
    assert problems[0] == "the combination 'none' has no tables"
    assert "'other' names 'x', expected one of the tables a, b" in problems[1]
    assert "NAME=TABLE" in problems[1]
    assert "'other' names 'x' more than once" in problems[2]
