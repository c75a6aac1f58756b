from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from abhinaya.corpora.base import PrepareOptions
from abhinaya.corpora.folder import prepare
from abhinaya.errors import BadValueError, MissingFileError, ProblemsError

OPTIONS = PrepareOptions()


def save(folder: Path, text: str, name: str = "labels.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def cells(rows: pd.DataFrame, name: str) -> list[Any]:
    return [None if pd.isna(cell) else cell for cell in rows[name]]


def test_columns_are_taken_over_and_text_becomes_the_transcript(tmp_path: Path) -> None:
    table = save(
        tmp_path,
        "file,label,speaker,split,gender,arousal,votes,text,mood\n"
        "wav/a.wav,joy,1,train,female,2.5,anger:1 joy:3,Hällo,ok\n"
        "wav/b.wav,anger,Unknown,test,unknown,,, ,\n"
        "wav/c.wav,,,test,,,,,\n",
    )
    prepared = prepare(table, OPTIONS)
    rows = prepared.manifest.rows
    assert prepared.manifest.root == tmp_path
    assert cells(rows, "utterance") == ["a.wav", "b.wav", "c.wav"]
    assert cells(rows, "audio") == ["wav/a.wav", "wav/b.wav", "wav/c.wav"]
    assert cells(rows, "label") == ["joy", "anger", None]
    assert cells(rows, "speaker") == ["1", None, None]
    assert cells(rows, "gender") == ["female", None, None]
    assert cells(rows, "split") == ["train", "test", "test"]
    assert cells(rows, "arousal") == [2.5, None, None]
    # Order: anger, joy, O.
    assert rows["votes"][0].tolist() == [1, 3, 0]
    assert cells(rows, "mood")[0] == "ok"
    assert "text" not in rows
    assert prepared.transcripts == [
        {"utterance": "a.wav", "source": "human", "text": "Hällo"},
        {"utterance": "b.wav", "source": "human", "text": ""},
        {"utterance": "c.wav", "source": "human", "text": ""},
    ]


def test_classes_are_the_labels_sorted(tmp_path: Path) -> None:
    save(tmp_path, "file,label\na.wav,joy\nb.wav, anger\nc.wav,joy\nd.wav,\n")
    emotions = prepare(tmp_path, OPTIONS).manifest.emotions
    assert emotions.codes == ("anger", "joy")


def test_classes_txt_sets_the_order(tmp_path: Path) -> None:
    save(tmp_path, "file,label\na.wav,joy\n")
    save(tmp_path, "joy\n\n anger \n", "classes.txt")
    assert prepare(tmp_path, OPTIONS).manifest.emotions.codes == ("joy", "anger")


def test_emotions_json_sets_names_and_labels_outside(tmp_path: Path) -> None:
    save(tmp_path, "file,label\na.wav,joy\nb.wav,none\n")
    save(tmp_path, '{"codes": ["joy", "rage"], "outside": ["none"]}', "emotions.json")
    manifest = prepare(tmp_path, OPTIONS).manifest
    assert manifest.emotions.codes == ("joy", "rage")
    assert manifest.emotions.outside == ("none",)


def test_broken_emotions_json_raises(tmp_path: Path) -> None:
    save(tmp_path, "file,label\na.wav,joy\n")
    save(tmp_path, "[", "emotions.json")
    with pytest.raises(BadValueError, match=r"emotions\.json is not an emotion set"):
        prepare(tmp_path, OPTIONS)


def test_label_that_is_no_class_raises(tmp_path: Path) -> None:
    save(tmp_path, "file,label\na.wav,joy\nb.wav,hope\n")
    save(tmp_path, "joy\nanger\n", "classes.txt")
    expected = r"unknown label, such as 'hope \(b\.wav\)', expected one of joy anger or an empty"
    with pytest.raises(ProblemsError, match=expected):
        prepare(tmp_path, OPTIONS)


def test_one_label_alone_raises(tmp_path: Path) -> None:
    save(tmp_path, "file,label\na.wav,joy\nb.wav,\n")
    expected = r"has 1 different labels, \['joy'\], expected two or more.*classes\.txt beside"
    with pytest.raises(BadValueError, match=expected):
        prepare(tmp_path, OPTIONS)


def test_column_utterance_tells_files_of_one_name_apart(tmp_path: Path) -> None:
    save(tmp_path, "file,label,utterance\n1/a.wav,joy,1-a\n2/a.wav,anger,2-a\n")
    assert cells(prepare(tmp_path, OPTIONS).manifest.rows, "utterance") == ["1-a", "2-a"]


def test_files_of_one_name_keep_their_folder_where_they_clash(tmp_path: Path) -> None:
    save(tmp_path, "file,label\n1/a.wav,joy\n2\\a.wav,anger\n2/b.wav,joy\n")
    names = cells(prepare(tmp_path, OPTIONS).manifest.rows, "utterance")
    assert names == ["1/a.wav", "2/a.wav", "b.wav"]


def test_one_file_listed_twice_raises_also_in_another_normal_form(tmp_path: Path) -> None:
    """macOS writes the umlaut as two signs."""
    save(tmp_path, "file,label\nw/\u00e4.wav,joy\nw/a\u0308.wav,anger\n")
    with pytest.raises(ProblemsError, match=r"1 utterances appear more than once: 'w/\u00e4\.wav'"):
        prepare(tmp_path, OPTIONS)


def test_columns_of_other_names_are_read_on_request(tmp_path: Path) -> None:
    save(tmp_path, "Path,emotion\na.wav,joy\nb.wav,anger\n")
    columns = {"file": "Path", "label": "emotion"}
    prepared = prepare(tmp_path, PrepareOptions(columns=columns))
    assert cells(prepared.manifest.rows, "label") == ["joy", "anger"]
    with pytest.raises(ProblemsError, match=r"--columns file=Path.*--columns label=emotion"):
        prepare(tmp_path, OPTIONS)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"speaker": "Speker"}, r"no column 'Speker'.*Did you mean 'Speaker'"),
        ({"file": "Speaker"}, r"the column 'file' stands there 2 times"),
    ],
)
def test_columns_that_do_not_fit_raise(
    tmp_path: Path, columns: dict[str, str], expected: str
) -> None:
    save(tmp_path, "file,label,Speaker\na.wav,joy,1\nb.wav,anger,2\n")
    with pytest.raises(BadValueError, match=expected):
        prepare(tmp_path, PrepareOptions(columns=columns))


@pytest.mark.parametrize("sign", [";", "\t"])
def test_other_separators_are_named(tmp_path: Path, sign: str) -> None:
    save(tmp_path, f"file{sign}label\na.wav{sign}joy\n")
    with pytest.raises(ProblemsError, match=r"semicolons or tabs .* save the table with commas"):
        prepare(tmp_path, OPTIONS)


def test_missing_columns_raise_with_near_match(tmp_path: Path) -> None:
    save(tmp_path, "files,emotion\na.wav,joy\n")
    expected = (
        r"2 problems in .*'file' is missing, got files, emotion\. Did you mean 'files'.*'label'"
    )
    with pytest.raises(ProblemsError, match=expected):
        prepare(tmp_path, OPTIONS)


def test_single_csv_of_any_name_is_found(tmp_path: Path) -> None:
    save(tmp_path, "file,label\na.wav,joy\nb.wav,anger\n", "mine.csv")
    assert len(prepare(tmp_path, OPTIONS).manifest.rows) == 2


def test_labels_csv_is_taken_among_several(tmp_path: Path) -> None:
    save(tmp_path, "file,label\na.wav,joy\nb.wav,anger\n")
    save(tmp_path, "x\n", "other.csv")
    assert len(prepare(tmp_path, OPTIONS).manifest.rows) == 2


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], r"There is no CSV file in .*; it holds nothing\. Give the CSV"),
        (["a.csv", "b.csv"], r"2 CSV files and none is labels\.csv in .*; it holds a\.csv, b\.csv"),
    ],
)
def test_no_clear_table_raises(tmp_path: Path, names: list[str], expected: str) -> None:
    for name in names:
        save(tmp_path, "file,label\n", name)
    with pytest.raises(MissingFileError, match=expected):
        prepare(tmp_path, OPTIONS)


@pytest.mark.parametrize("other", ["Angry", " ANGRY ", "a\u0301ngry"])
def test_two_spellings_of_one_class_raise(tmp_path: Path, other: str) -> None:
    """`Angry` and `angry` became two classes."""
    first = "\u00e1ngry" if "\u0301" in other else "angry"
    save(tmp_path, f"file,label\na.wav,{first}\nb.wav,{other}\nc.wav,sad\n")
    with pytest.raises(
        BadValueError, match=r"spells one class .*(?i:ngry).*(?i:ngry).*one of them"
    ):
        prepare(tmp_path, OPTIONS)
