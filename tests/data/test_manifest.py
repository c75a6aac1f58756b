from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from abhinaya.data.labels import MSP_PODCAST, EmotionSet
from abhinaya.data.manifest import Manifest, make_manifest
from abhinaya.errors import BadValueError, ProblemsError, UnknownNameError

ROWS: list[dict[str, Any]] = [
    {"utterance": "a.wav", "split": "train", "label": "N", "audio": "Audios/a.wav"},
    {"utterance": "b.wav", "split": "development", "label": "A", "audio": "Audios/b.wav"},
    {"utterance": "c.wav", "split": "development", "label": "X", "audio": "Audios/c.wav"},
    {"utterance": "d.wav", "split": "development", "label": "O", "audio": "Audios/d.wav"},
    {"utterance": "e.wav", "split": "test3", "label": None, "audio": "Audios/e.wav"},
]


def manifest_of(*rows: dict[str, Any], **named: Any) -> Manifest:
    return make_manifest(list(rows), MSP_PODCAST, Path("/corpus"), **named)


def column(manifest: Manifest, name: str) -> list[Any]:
    return [None if pd.isna(cell) else cell for cell in manifest.rows[name]]


def chosen(manifest: Manifest, selection: str | list[str]) -> str:
    """First letters of the selected utterances."""
    return "".join(utterance[0] for utterance in manifest.select(selection)["utterance"])


def test_utterances_alone_are_a_manifest_with_null_elsewhere() -> None:
    manifest = manifest_of({"utterance": "a.wav"})
    assert set(manifest.rows.columns) == {
        "utterance",
        "audio",
        "split",
        "label",
        "speaker",
        "gender",
        "language",
        "duration_s",
        "recording",
        "turn",
        "arousal",
        "valence",
        "dominance",
        "votes",
    }
    assert all(
        column(manifest, name) == [None] for name in manifest.rows.columns if name != "utterance"
    )
    assert manifest.splits == []


def test_blanks_empty_cells_and_empty_lists_become_null() -> None:
    manifest = manifest_of(
        {"utterance": " a.wav ", "label": " N ", "speaker": "  ", "gender": [], "arousal": ""},
        {"utterance": "b.wav", "label": "", "speaker": 12, "gender": float("nan"), "arousal": []},
    )
    assert column(manifest, "utterance") == ["a.wav", "b.wav"]
    assert column(manifest, "label") == ["N", None]
    assert column(manifest, "speaker") == [None, "12"]
    assert column(manifest, "gender") == [None, None]
    assert column(manifest, "arousal") == [None, None]


def test_numbers_are_read_from_text() -> None:
    manifest = manifest_of({"utterance": "a", "arousal": "4.5", "turn": "12", "duration_s": 3})
    assert column(manifest, "arousal") == [4.5]
    assert column(manifest, "turn") == [12.0]
    assert column(manifest, "duration_s") == [3.0]


def test_further_columns_are_kept_behind_ours() -> None:
    manifest = manifest_of({"note": "x", "utterance": "a.wav"})
    assert manifest.rows.columns[-1] == "note"
    assert column(manifest, "note") == ["x"]


@pytest.mark.parametrize(
    "cell",
    ["A:3 N:1", "N:1 A:1 A:2", [3, 0, 0, 0, 0, 1, 0, 0, 0], np.array([3, 0, 0, 0, 0, 1, 0, 0, 0])],
    ids=["text", "text, class repeated", "list", "array"],
)
def test_votes_are_read_from_text_and_lists(cell: Any) -> None:
    votes = manifest_of({"utterance": "a", "votes": cell}).rows["votes"][0]
    # Order: A C D F H N S U, then O.
    assert votes.tolist() == [3, 0, 0, 0, 0, 1, 0, 0, 0]
    assert votes.dtype == np.int32


@pytest.mark.parametrize("cell", [None, "", " ", [], [0] * 9, float("nan")])
def test_votes_nobody_gave_are_null(cell: Any) -> None:
    assert manifest_of({"utterance": "a", "votes": cell}).rows["votes"][0] is None


@pytest.mark.parametrize(
    "cell",
    ["Q:1", "A:x", "A:-1", "A", [1, 2], [-1] * 9, [1.5] * 9, [None] * 9, 5, {"A": 3}],
)
def test_votes_that_cannot_be_read_raise(cell: Any) -> None:
    with pytest.raises(
        ProblemsError, match=r"votes of 1 rows cannot be read, such as .* \(a\.wav\)"
    ):
        manifest_of({"utterance": "a.wav", "votes": cell})


def test_all_problems_are_reported_together() -> None:
    with pytest.raises(ProblemsError) as caught:
        make_manifest(
            [
                {"utterance": "a.wav", "label": "Q", "split": "train", "duration_s": -1},
                {"utterance": "a.wav", "label": "n", "arousal": "high", "turn": 1.5},
                {"utterance": "", "votes": "A:x"},
            ],
            MSP_PODCAST,
            Path(),
            subsets={"train": ["a.wav"], "mine": ["z.wav", "a.wav"], "all": []},
            where="labels.csv",
        )
    assert str(caught.value).startswith("10 problems in labels.csv: (1) ")
    assert caught.value.problems == (
        "arousal of 1 rows is not a number, such as 'high'",
        "votes of 1 rows cannot be read, such as 'A:x' (nan), expected counts like 'A:3 N:1' over "
        "A C D F H N S U O, or a list of 9 counts",
        "1 rows have no utterance",
        "1 utterances appear more than once: 'a.wav'; keep one row of each",
        "2 rows have an unknown label, such as 'Q (a.wav)', 'n (a.wav)', expected one of "
        "A C D F H N S U O X or an empty cell",
        "turn of 1 rows is not a whole number",
        "1 rows have a negative duration_s",
        "the subset 'train' has the name of a split; rename it",
        "the subset 'mine' names 1 utterances that are in no row: 'z.wav'",
        "the subset 'all' has the name of a split; rename it",
    )


def test_missing_utterance_column_raises_with_near_match() -> None:
    expected = r"'utterance' is missing, got \['utterances'\]\. Did you mean 'utterance"
    with pytest.raises(ProblemsError, match=expected):
        manifest_of({"utterances": "a.wav"})


def test_select_split_subset_all_and_lists() -> None:
    manifest = manifest_of(*ROWS, subsets={"mine": ["e.wav", "a.wav"]})
    assert manifest.splits == ["train", "development", "test3"]
    assert chosen(manifest, "development") == "bcd"
    assert chosen(manifest, "mine") == "ae"  # the manifest's order, not the subset's
    assert chosen(manifest, "all") == "abcde"
    assert chosen(manifest, ["test3", "mine", "train"]) == "ae"


def test_select_by_label() -> None:
    manifest = manifest_of(*ROWS)
    assert chosen(manifest, "development:O,X") == "cd"
    assert chosen(manifest, "all:N,A") == "ab"
    assert chosen(manifest, ["train", "development:X"]) == "ac"


def test_select_numbers_rows_from_zero() -> None:
    assert manifest_of(*ROWS).select("development").index.tolist() == [0, 1, 2]


def test_select_unknown_name_raises_with_splits_and_subsets() -> None:
    manifest = manifest_of(*ROWS, subsets={"mine": ["a.wav"]})
    expected = "Unknown split or subset 'dev'.* Known: all, development, mine, test3, train"
    with pytest.raises(UnknownNameError, match=expected):
        manifest.select("dev")


def test_select_unknown_label_raises() -> None:
    expected = "'all:A,Q' asks for the unknown label 'Q'; the corpus has A C D F H N S U O X"
    with pytest.raises(BadValueError, match=expected):
        manifest_of(*ROWS).select("all:A,Q")


def test_select_nothing_raises() -> None:
    expected = "'train:S' has no rows. Splits: train, development, test3; subsets: none"
    with pytest.raises(BadValueError, match=expected):
        manifest_of(*ROWS).select("train:S")


def test_digest_ignores_where_the_audio_lies() -> None:
    ours = manifest_of(*ROWS)
    moved = [{**row, "audio": f"../elsewhere/{row['utterance']}"} for row in ROWS]
    assert make_manifest(moved, MSP_PODCAST, Path("/other")).digest == ours.digest


def test_digest_changes_with_rows_classes_and_subsets() -> None:
    rows = [{"utterance": "a.wav", "label": "N"}, {"utterance": "b.wav", "votes": "A:1"}]
    swapped = EmotionSet((*MSP_PODCAST.codes[::-1],), MSP_PODCAST.names[::-1], ("O", "X"))
    others = [
        manifest_of(rows[0], {**rows[1], "votes": "A:2"}),
        manifest_of({**rows[0], "label": "S"}, rows[1]),
        manifest_of(*reversed(rows)),
        manifest_of(*rows, subsets={"mine": ["a.wav"]}),
        make_manifest(rows, swapped, Path()),
    ]
    digests = {manifest.digest for manifest in [manifest_of(*rows), *others]}
    assert len(digests) == 6


@pytest.mark.parametrize(
    "word", ["nan", "NaN", "None", "NA", "n/a", "NULL", "-1", "-1.0", "Unknown", " ", "", None, -1]
)
def test_speaker_that_is_unknown_in_any_spelling_is_null(tmp_path, word):
    """All clips of `nan` were one speaker."""
    rows = [{"utterance": "u", "speaker": word, "recording": word}]
    row = make_manifest(rows, MSP_PODCAST, tmp_path).rows.iloc[0]
    assert row[["speaker", "recording"]].isna().all()


def test_speaker_number_is_the_same_with_and_without_a_fraction(tmp_path):
    speakers = ["12", "12.0", 12, 12.0, "012", "12.5", "s12.0"]
    rows = [{"utterance": f"u{idx}", "speaker": name} for idx, name in enumerate(speakers)]
    found = make_manifest(rows, MSP_PODCAST, tmp_path).rows["speaker"].tolist()
    assert found == ["12", "12", "12", "12", "012", "12.5", "s12.0"]


def test_split_named_all_raises(tmp_path):
    """`all` selected every row, and the split could not be reached."""
    rows = [{"utterance": "u", "split": "all"}, {"utterance": "v", "split": "train"}]
    with pytest.raises(ProblemsError, match="a split is named 'all', which selects every row"):
        make_manifest(rows, MSP_PODCAST, tmp_path)


@pytest.mark.parametrize(
    ("stored", "listed"), [("\u00e4.wav", "a\u0308.wav"), ("a\u0308.wav", "\u00e4.wav")]
)
def test_audio_is_found_in_the_other_normal_form(tmp_path, stored, listed):
    (tmp_path / stored).touch()
    manifest = make_manifest([{"utterance": "u", "audio": listed}], MSP_PODCAST, tmp_path)
    assert manifest.audio_path(listed) == tmp_path / stored
    elsewhere = replace(manifest, audio_root=tmp_path)
    assert elsewhere.audio_path(f"deep/{listed}") == tmp_path / stored
