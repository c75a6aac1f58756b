from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from abhinaya.corpora.audio_audit import measure_audio
from abhinaya.corpora.base import PrepareOptions
from abhinaya.corpora.emodb import FACTS, N_PUBLISHED, prepare
from abhinaya.errors import MissingFileError, ProblemsError

OPTIONS = PrepareOptions()

WriteWav = Callable[..., None]


@pytest.fixture
def emodb(material: Path) -> Path:
    folder = material / "data" / "emodb"
    if not folder.is_dir():
        pytest.skip("EmoDB is not among the material")
    return folder


@pytest.mark.parametrize("folder", ["wav", "flac", "."])
def test_everything_is_read_from_file_names(
    tmp_path: Path, write_wav: WriteWav, folder: str
) -> None:
    # One of each letter: W L E A F N T.
    names = ["03a01Wa", "08a02La", "09b10Eb", "11a04Ac", "12b01Fa", "15b02Nd", "16a07Ta"]
    for name in names:
        write_wav(tmp_path / folder / f"{name}.wav")
    rows = prepare(tmp_path, OPTIONS).manifest.rows
    labels = ["anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness"]
    assert rows["utterance"].tolist() == [f"{name}.wav" for name in names]
    assert rows["audio"][0] == (Path(folder) / "03a01Wa.wav").as_posix()
    assert rows["label"].tolist() == labels
    assert rows["speaker"].tolist() == ["03", "08", "09", "11", "12", "15", "16"]
    genders = ["male", "female", "female", "male", "male", "male", "female"]
    assert rows["gender"].tolist() == genders
    assert rows["split"].tolist() == ["train"] * 4 + ["test"] * 3
    assert rows["text_code"].tolist() == ["a01", "a02", "b10", "a04", "b01", "b02", "a07"]
    assert rows["version"].tolist() == ["a", "a", "b", "c", "a", "d", "a"]
    assert set(rows["language"]) == {"de"}


def test_transcript_is_the_sentence_of_the_name(tmp_path: Path, write_wav: WriteWav) -> None:
    write_wav(tmp_path / "wav" / "10b01Fa.wav")
    assert prepare(tmp_path, OPTIONS).transcripts == [
        {
            "utterance": "10b01Fa.wav",
            "source": "human",
            "text": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
        }
    ]


def test_other_names_and_missing_files_are_problems(tmp_path: Path, write_wav: WriteWav) -> None:
    # Speaker 04, sentence a03 and letter X do not exist.
    for name in ("03a01Fa", "04a01Fa", "03a03Fa", "03a01Xa"):
        write_wav(tmp_path / "wav" / f"{name}.wav")
    prepared = prepare(tmp_path, OPTIONS)
    assert prepared.manifest.rows["utterance"].tolist() == ["03a01Fa.wav"]
    assert list(prepared.manifest.subsets) == ["speakers-train"]  # the others would have no rows
    reason = "the name is not like '03a01Fa.wav'; left out"
    assert [(p.utterance, p.reason) for p in prepared.problems] == [
        ("03a01Xa.wav", reason),
        ("03a03Fa.wav", reason),
        ("04a01Fa.wav", reason),
        ("emodb", "1 of 535 utterances are listed"),
    ]


def test_metadata_lists_the_files_and_adds_perception(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text(
        "file,emotion,human_recognition_pct,human_naturalness_pct\n"
        "flac/03a01Fa.flac,happiness,90.00,75.00\nflac/03a01Nc.flac,neutral,,\n"
    )
    rows = prepare(tmp_path, PrepareOptions(check_audio=False)).manifest.rows
    assert rows["audio"].tolist() == ["flac/03a01Fa.flac", "flac/03a01Nc.flac"]
    assert rows["human_recognition_pct"][0] == 90.0
    assert rows["human_naturalness_pct"][0] == 75.0
    assert pd.isna(rows["human_recognition_pct"][1])


def test_metadata_that_contradict_the_name_raise(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text(
        "file,speaker,emotion\nwav/03a01Fa.wav,03,disgust\nwav/08a01Wa.wav,09,anger\n"
    )
    with pytest.raises(ProblemsError) as caught:
        prepare(tmp_path, OPTIONS)
    assert caught.value.problems == (
        "metadata.csv gives 03a01Fa.wav the emotion 'disgust', but its name says 'happiness'",
        "metadata.csv gives 08a01Wa.wav the speaker '09', but its name says '08'",
    )


def test_metadata_without_files_raise(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("name,emotion\n")
    with pytest.raises(ProblemsError, match="column 'file' is missing, got name, emotion"):
        prepare(tmp_path, OPTIONS)


def test_folder_of_something_else_raises(tmp_path: Path) -> None:
    (tmp_path / "song.wav").touch()
    with pytest.raises(MissingFileError, match=r"is not EmoDB: .* It holds song\.wav"):
        prepare(tmp_path, OPTIONS)


def test_classes_are_english_words_in_alphabetical_order() -> None:
    assert FACTS.emotions is not None
    assert list(FACTS.emotions.codes) == sorted(FACTS.emotions.codes)


def test_whole_corpus_agrees_with_its_own_table(emodb: Path) -> None:
    """The table was made by others; only its list of files and its percentages are used."""
    prepared = prepare(emodb, OPTIONS)
    rows = prepared.manifest.rows
    table = pd.read_csv(emodb / "metadata.csv", dtype=str)
    assert len(rows) == len(table) == N_PUBLISHED
    assert prepared.problems == []
    assert rows["label"].tolist() == table["emotion"].tolist()
    for column in ("speaker", "gender", "text_code", "version", "language"):
        assert rows[column].tolist() == table[column].tolist(), column
    assert rows["age"].astype(str).tolist() == table["age"].tolist()
    texts = [row["text"] for row in prepared.transcripts]
    assert texts == table["text_de"].tolist()
    # As published, in alphabetical order: anger, boredom, ..., sadness.
    counts = rows["label"].value_counts().sort_index()
    assert counts.tolist() == [127, 81, 46, 69, 71, 79, 62]


def test_whole_corpus_has_speaker_independent_subsets(emodb: Path) -> None:
    manifest = prepare(emodb, OPTIONS).manifest
    speakers = {
        name: set(manifest.select(name)["speaker"])
        for name in ("train", "test", *sorted(manifest.subsets))
    }
    assert speakers == {
        "train": {"03", "08", "09", "10", "11", "13"},
        "test": {"12", "14", "15", "16"},
        "speakers-train": {"03", "08", "09", "10", "11", "13"},
        "speakers-validation": {"12", "14"},
        "speakers-test": {"15", "16"},
    }
    assert sum(len(manifest.select(name)) for name in manifest.subsets) == N_PUBLISHED


def test_whole_corpus_has_the_durations_of_its_table(emodb: Path) -> None:
    manifest, problems = measure_audio(prepare(emodb, OPTIONS).manifest)
    expected = pd.read_csv(emodb / "metadata.csv")["duration"]
    # The table is rounded to four decimals.
    assert manifest.rows["duration_s"].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-4)
    assert problems == []
