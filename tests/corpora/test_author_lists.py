from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from abhinaya.corpora.author_lists import prepare
from abhinaya.corpora.base import Prepared, PrepareOptions
from abhinaya.errors import BadValueError, MissingFileError, ProblemsError

OPTIONS = PrepareOptions(check_audio=False)


def save(file: Path, /, **lists: Any) -> Path:
    file.write_text(json.dumps(lists))
    return file


def column(prepared: Prepared, name: str) -> list[Any]:
    return [None if pd.isna(cell) else cell for cell in prepared.manifest.rows[name]]


def test_parallel_lists_become_rows_and_transcripts(tmp_path: Path) -> None:
    source = save(
        tmp_path / "train.json",
        path=["/data1/Audios/MSP-PODCAST_0203_3051.wav", "/data1/Audios/MSP-PODCAST_0261_0244.wav"],
        label=["U", "X"],
        text=[" oh no ", ""],
        valence=[2.5, "4"],
        arousal=[1, 7],
        dominance=[3, 4],
        gender=["Female", "Unknown"],
    )
    prepared = prepare(source, OPTIONS)
    assert column(prepared, "utterance") == [
        "MSP-PODCAST_0203_3051.wav",
        "MSP-PODCAST_0261_0244.wav",
    ]
    assert column(prepared, "audio")[0] == "/data1/Audios/MSP-PODCAST_0203_3051.wav"
    assert column(prepared, "split") == ["train", "train"]
    assert column(prepared, "label") == ["U", "X"]
    assert column(prepared, "valence") == [2.5, 4.0]
    assert column(prepared, "arousal") == [1.0, 7.0]
    assert column(prepared, "dominance") == [3.0, 4.0]
    assert column(prepared, "gender") == ["female", None]
    assert column(prepared, "recording") == ["0203", "0261"]
    assert column(prepared, "turn") == [3051, 244]
    assert "text" not in prepared.manifest.rows
    assert prepared.transcripts == [
        {"utterance": "MSP-PODCAST_0203_3051.wav", "source": "human", "text": "oh no"},
        {"utterance": "MSP-PODCAST_0261_0244.wav", "source": "human", "text": ""},
    ]
    assert prepared.problems == []


def test_empty_and_missing_lists_are_null(tmp_path: Path) -> None:
    source = save(tmp_path / "test.json", path=["/x/MSP-PODCAST_test3_0001.wav"], label=[], text=[])
    prepared = prepare(source, OPTIONS)
    assert column(prepared, "label") == column(prepared, "valence") == [None]
    assert column(prepared, "split") == ["test3"]
    assert prepared.transcripts == []


def test_labels_may_be_class_indices(tmp_path: Path) -> None:
    paths = [f"/x/{idx}.wav" for idx in range(8)]
    labels = [0, 1, 2, 3, "4", "5", 6, 7]
    prepared = prepare(save(tmp_path / "train.json", path=paths, label=labels), OPTIONS)
    assert "".join(column(prepared, "label")) == "ACDFHNSU"


def test_folder_of_lists_takes_splits_from_their_names(tmp_path: Path) -> None:
    for stem in ("train", "dev", "Held_Out"):
        save(tmp_path / f"{stem}.json", path=[f"/x/{stem}.wav"], label=["N"])
    prepared = prepare(tmp_path, OPTIONS)
    found = dict(zip(column(prepared, "utterance"), column(prepared, "split"), strict=True))
    assert found == {
        "train.wav": "train",
        "dev.wav": "development",
        "Held_Out.wav": "held_out",
    }


def test_paths_of_windows_are_understood(tmp_path: Path) -> None:
    prepared = prepare(save(tmp_path / "train.json", path=["D:\\Audios\\a.wav"]), OPTIONS)
    assert column(prepared, "utterance") == ["a.wav"]


def test_unknown_lists_are_a_problem(tmp_path: Path) -> None:
    source = save(tmp_path / "train.json", path=["a.wav"], speaker=["1"], mood=[2])
    (problem,) = prepare(source, OPTIONS).problems
    assert problem.utterance == "train.json"
    assert problem.reason == "the lists speaker, mood are unknown; left out"


def test_wrong_lists_are_reported_together(tmp_path: Path) -> None:
    save(tmp_path / "a.json", path=["a.wav", "b.wav"], label=["N"], text=["x", "y", "z"])
    save(tmp_path / "b.json", label=["N"])
    (tmp_path / "c.json").write_text("[]")
    save(tmp_path / "d.json", path=["c.wav", "d.wav", "e.wav"], label=[8, "n", True])
    save(tmp_path / "e.json", path=["c.wav"])
    with pytest.raises(ProblemsError) as caught:
        prepare(tmp_path, OPTIONS)
    assert caught.value.problems == (
        "a.json has 1 entries under 'label' but 2 under 'path', expected equally many or none",
        "a.json has 3 entries under 'text' but 2 under 'path', expected equally many or none",
        "b.json has no entries under 'path', got the keys label",
        "c.json is not a dictionary of lists with the keys path, label, text, valence, arousal, "
        "dominance, gender",
        "1 utterances appear more than once: 'c.wav'; keep one row of each",
        "3 rows have an unknown label, such as '8 (c.wav)', 'n (d.wav)', 'True (e.wav)', expected "
        "one of A C D F H N S U O X or an empty cell",
    )


def test_no_usable_list_raises(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError, match=r"1 problem in .*no entries under 'path'"):
        prepare(save(tmp_path / "train.json", path=[]), OPTIONS)


def test_file_that_is_no_json_raises(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("{")
    with pytest.raises(BadValueError, match=r"train\.json' cannot be read as JSON"):
        prepare(tmp_path, OPTIONS)


def test_folder_without_lists_raises(tmp_path: Path) -> None:
    (tmp_path / "train.csv").touch()
    expected = r"no JSON list in .*; it holds train\.csv\. Give a file such as train\.json"
    with pytest.raises(MissingFileError, match=expected):
        prepare(tmp_path, OPTIONS)
