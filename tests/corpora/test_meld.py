"""Files as published, with invented lines: the series' own belong to others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from abhinaya.corpora import prepare_corpus
from abhinaya.corpora.base import PrepareOptions
from abhinaya.corpora.meld import FACTS, N_PUBLISHED, prepare
from abhinaya.data.manifest import read_manifest
from abhinaya.data.transcripts import read_transcripts
from abhinaya.errors import MissingFileError, ProblemsError

OPTIONS = PrepareOptions()

HEADER = (
    "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,"
    "StartTime,EndTime"
)
# \x92 is what the files of train and dev have for the apostrophe, in UTF-8.
TRAIN = (
    '1,"Well, that\x92s the tram.",Joey,neutral,neutral,0,0,8,21,"00:16:16,059","00:16:21,731"',
    '2,Hooray!,All,joy,positive,0,1,8,21,"00:16:21,940","00:16:23,442"',
    '4,"She said ""no""\x85",Rachel,sadness,negative,1,0,9,23,"0:12:43,012","0:12:44,074"',
)
DEV = ('1,Get out!,Joey,anger,negative,0,0,4,7,"00:20:57,256","00:21:00,049"',)
TEST = ('1,You\u2019re late.,Mrs. Plum,disgust,negative,0,0,3,19,"00:14:38,127","00:14:40,378"',)


def write(folder: Path, name: str, *lines: str, encoding: str = "utf-8") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line}\r\n" for line in lines)
    (folder / f"{name}_sent_emo.csv").write_bytes(text.encode(encoding))


@pytest.fixture
def meld(tmp_path: Path) -> Path:
    folder = tmp_path / "meld"
    for name, lines in (("train", TRAIN), ("dev", DEV), ("test", TEST)):
        write(folder, name, HEADER, *lines)
    return folder


def cells(rows: pd.DataFrame, name: str) -> list[Any]:
    return [None if pd.isna(cell) else cell for cell in rows[name]]


def reasons(source: Path) -> dict[str, str]:
    """What is wrong, without the count of what is not listed: these files are small."""
    problems = prepare(source, OPTIONS).problems
    return {p.utterance: p.reason for p in problems if " are listed" not in p.reason}


def test_rows_tell_who_said_what_where(meld: Path) -> None:
    rows = prepare(meld, OPTIONS).manifest.rows
    assert cells(rows, "utterance") == [
        "train_dia0_utt0",
        "train_dia0_utt1",
        "train_dia1_utt0",
        "development_dia0_utt0",
        "test_dia0_utt0",
    ]
    assert cells(rows, "split") == ["train"] * 3 + ["development", "test"]
    assert cells(rows, "label") == ["neutral", "joy", "sadness", "anger", "disgust"]
    # The same name in two splits is the same person.
    assert cells(rows, "speaker") == ["Joey", None, "Rachel", "Joey", "Mrs. Plum"]
    assert cells(rows, "recording") == [
        "train_dia0",
        "train_dia0",
        "train_dia1",
        "development_dia0",
        "test_dia0",
    ]
    assert cells(rows, "turn") == [0, 1, 0, 0, 0]
    assert set(rows["language"]) == {"en"}
    assert cells(rows, "character")[1] == "All"
    assert cells(rows, "sentiment")[:2] == ["neutral", "positive"]
    assert cells(rows, "season")[2] == "9"
    assert cells(rows, "episode")[2] == "23"
    assert cells(rows, "start_time")[2] == "0:12:43,012"
    assert cells(rows, "end_time")[2] == "0:12:44,074"
    assert rows["audio"].isna().all()
    assert rows["duration_s"].isna().all()


def test_signs_of_windows_1252_become_what_was_meant(meld: Path) -> None:
    transcripts = prepare(meld, OPTIONS).transcripts
    assert {row["source"] for row in transcripts} == {"human"}
    assert {row["utterance"]: row["text"] for row in transcripts} == {
        "train_dia0_utt0": "Well, that\u2019s the tram.",
        "train_dia0_utt1": "Hooray!",
        "train_dia1_utt0": 'She said "no"…',
        "development_dia0_utt0": "Get out!",
        "test_dia0_utt0": "You\u2019re late.",
    }


def test_file_in_windows_1252_is_read_and_reported(meld: Path) -> None:
    write(meld, "test", HEADER, *TEST, encoding="cp1252")
    prepared = prepare(meld, OPTIONS)
    assert prepared.transcripts[-1]["text"] == "You\u2019re late."
    assert reasons(meld) == {
        "test_sent_emo.csv": "the file is not UTF-8; it was read as Windows-1252"
    }


@pytest.mark.parametrize(
    "name",
    [
        "All",
        "both",
        "Everyone",
        "The Waiter",
        "A Waiter",
        "Woman",
        "Fireman #1",
        "Ross and Joey",
        "Ross, Joey",
        "Ross/Joey",
        "Ross & Joey",
    ],
)
def test_voice_that_is_no_person_with_a_name_has_no_speaker(meld: Path, name: str) -> None:
    write(meld, "dev", HEADER, f'1,Hi.,"{name}",joy,positive,0,0,4,7,0,0')
    rows = prepare(meld, OPTIONS).manifest.select("development")
    assert cells(rows, "speaker") == [None]
    assert cells(rows, "character") == [name]


@pytest.mark.parametrize("name", ["Andrea", "Allesandro", "Theodore", "Guy Fawkes", "Dr. Green"])
def test_person_with_a_name_is_a_speaker(meld: Path, name: str) -> None:
    write(meld, "dev", HEADER, f"1,Hi.,{name} ,joy,positive,0,0,4,7,0,0")
    assert cells(prepare(meld, OPTIONS).manifest.select("development"), "speaker") == [name]


def test_second_row_of_one_place_is_left_out_and_reported(meld: Path) -> None:
    write(meld, "dev", HEADER, *DEV, DEV[0].replace("Get out!", "Stay!"))
    prepared = prepare(meld, OPTIONS)
    assert len(prepared.manifest.select("development")) == 1
    texts = {row["utterance"]: row["text"] for row in prepared.transcripts}
    assert texts["development_dia0_utt0"] == "Get out!"
    assert reasons(meld) == {"development_dia0_utt0": "listed again; the first row counts"}


def test_unknown_emotion_and_empty_utterance_are_kept_and_reported(meld: Path) -> None:
    write(
        meld,
        "dev",
        HEADER,
        "1,Hm.,Joey,hunger,neutral,0,0,4,7,0,0",
        "2, ,Joey, Joy,neutral,0,1,4,7,0,0",
        "3,Hm.,Joey,,neutral,0,2,4,7,0,0",
    )
    prepared = prepare(meld, OPTIONS)
    assert cells(prepared.manifest.select("development"), "label") == [None, "joy", None]
    assert prepared.transcripts[4]["text"] == ""
    known = "anger, disgust, fear, joy, neutral, sadness, surprise"
    assert reasons(meld) == {
        "development_dia0_utt0": f"the emotion 'hunger' is none of {known}; no label",
        "development_dia0_utt1": "the utterance is empty",
        "development_dia0_utt2": f"the emotion '' is none of {known}; no label",
    }


def test_missing_file_and_rows_are_reported(meld: Path) -> None:
    (meld / "dev_sent_emo.csv").unlink()
    prepared = prepare(meld, OPTIONS)
    assert prepared.manifest.splits == ["train", "test"]
    assert [(p.utterance, p.reason) for p in prepared.problems] == [
        ("dev_sent_emo.csv", "there is no such file; the split development has no rows"),
        ("train_sent_emo.csv", "3 of 9989 utterances are listed"),
        ("test_sent_emo.csv", "1 of 2610 utterances are listed"),
    ]


def test_published_numbers_are_no_problem(meld: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split, number in {"train": 3, "development": 1, "test": 1}.items():
        monkeypatch.setitem(N_PUBLISHED, split, number)
    assert prepare(meld, OPTIONS).problems == []


@pytest.mark.parametrize("folder", ["data/MELD", "MELD.Raw"])
def test_files_are_found_below_a_checkout_and_an_unpacked_archive(
    tmp_path: Path, folder: str
) -> None:
    write(tmp_path / folder, "test", HEADER, *TEST)
    assert len(prepare(tmp_path, OPTIONS).manifest.rows) == 1


def test_folder_of_something_else_raises(tmp_path: Path) -> None:
    (tmp_path / "train.csv").touch()
    with pytest.raises(
        MissingFileError, match=r"is not MELD: .*dev_sent_emo\.csv.* It holds train\.csv\."
    ):
        prepare(tmp_path, OPTIONS)
    with pytest.raises(MissingFileError, match="It holds nothing: it is no folder"):
        prepare(tmp_path / "train.csv", OPTIONS)


def test_all_that_makes_files_unusable_is_reported_together(meld: Path) -> None:
    write(meld, "train", "Utterance,Speaker,Emotion,Dialogue_ID")
    write(
        meld,
        "dev",
        HEADER,
        *DEV,
        '2,"Get out!",Joey,anger',
        "",
        "3,Get out!,Joey,anger,negative,zero,0,4,7,0,0",
    )
    write(meld, "test", HEADER)
    with pytest.raises(ProblemsError) as caught:
        prepare(meld, OPTIONS)
    columns = ["Utterance", "Speaker", "Emotion", "Dialogue_ID"]
    assert caught.value.problems == (
        f"train_sent_emo.csv lacks the column 'Utterance_ID', got {columns}",
        "1 rows of dev_sent_emo.csv do not have 11 cells like the header: line 3",
        "1 rows of dev_sent_emo.csv have a Dialogue_ID or Utterance_ID that is no whole number: "
        "line 5",
        "test_sent_emo.csv has no rows",
    )


def test_empty_file_raises(meld: Path) -> None:
    (meld / "test_sent_emo.csv").write_bytes(b"")
    with pytest.raises(ProblemsError, match=r"lacks the column 'Utterance', got \[\]"):
        prepare(meld, OPTIONS)


def test_prepared_corpus_reads_back(meld: Path, tmp_path: Path) -> None:
    prepare_corpus("meld", meld, tmp_path / "out")
    manifest = read_manifest(tmp_path / "out" / "manifest.parquet")
    assert manifest.emotions == FACTS.emotions
    assert manifest.facts["licence"].startswith("GPL-3.0")
    assert "1810.02508" in manifest.facts["citation"]
    texts = read_transcripts(tmp_path / "out" / "transcripts.parquet", "human")
    assert set(texts) == set(manifest.rows["utterance"])


def test_sound_taken_out_of_the_films_is_read(meld: Path, write_wav: Any) -> None:
    """Dialogues count from 0 in every split: the folder says which one it is."""
    write_wav(meld / "train" / "train_splits" / "dia0_utt1.wav")
    write_wav(meld / "output_repeated_splits_test" / "dia0_utt0.flac")
    write_wav(meld / "output_repeated_splits_test" / "final_videos_testdia0_utt0.wav")
    rows = prepare(meld, OPTIONS).manifest.rows.set_index("utterance")
    assert rows.loc["train_dia0_utt1", "audio"] == "train/train_splits/dia0_utt1.wav"
    assert rows.loc["test_dia0_utt0", "audio"] == "output_repeated_splits_test/dia0_utt0.flac"
    found = reasons(meld)
    assert found["development_dia0_utt0"] == "there is no sound of it"
    assert "in no row of test_sent_emo.csv" in found["final_videos_testdia0_utt0.wav"]


def test_films_without_sound_are_reported_and_the_texts_are_read(meld: Path) -> None:
    (meld / "train_splits").mkdir()
    (meld / "train_splits" / "dia0_utt0.mp4").write_text("film")
    assert reasons(meld)["meld"].startswith("1 films, but no sound: the texts alone are read")
    assert prepare(meld, OPTIONS).manifest.rows["audio"].isna().all()
    assert len(prepare(meld, PrepareOptions(check_audio=False)).problems) == 3
