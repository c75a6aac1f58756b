from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from abhinaya.corpora import prepare_corpus
from abhinaya.corpora.base import Prepared, PrepareOptions
from abhinaya.corpora.msp_podcast import is_test3, place_in_recording, prepare
from abhinaya.data.manifest import read_manifest
from abhinaya.errors import BadValueError, MissingFileError, ProblemsError

OPTIONS = PrepareOptions()
NO_AUDIO = PrepareOptions(check_audio=False)
CONSENSUS = "Labels/labels_consensus.csv"
HEADER = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set\n"

WriteRelease = Callable[..., Path]


def column(prepared: Prepared, name: str) -> list[Any]:
    return [None if pd.isna(cell) else cell for cell in prepared.manifest.rows[name]]


def reasons(prepared: Prepared) -> dict[str, str]:
    assert len({p.utterance for p in prepared.problems}) == len(prepared.problems)
    return {problem.utterance: problem.reason for problem in prepared.problems}


def test_release_as_published(write_release: WriteRelease) -> None:
    prepared = prepare(write_release(), OPTIONS)
    assert column(prepared, "utterance") == [
        "MSP-PODCAST_0001_0008.wav",
        "MSP-PODCAST_0001_0019.wav",
        "MSP-PODCAST_0002_0003_01.wav",
        "MSP-PODCAST_test3_0001.wav",
    ]
    assert column(prepared, "audio")[0] == "Audios/MSP-PODCAST_0001_0008.wav"
    assert column(prepared, "split") == ["train", "train", "development", "test3"]
    assert column(prepared, "label") == ["N", "A", "X", None]
    assert column(prepared, "speaker") == ["127", None, "8", None]
    assert column(prepared, "gender") == ["male", None, "female", None]
    assert column(prepared, "language") == ["en"] * 4
    assert column(prepared, "recording") == ["0001", "0001", "0002", None]
    assert column(prepared, "turn") == [8, 19, 3, None]
    assert column(prepared, "arousal") == [4.0, 6.25, 4.0, None]
    assert column(prepared, "valence") == [3.5, 2.0, 4.0, None]
    assert column(prepared, "dominance") == [4.2, 5.0, 4.0, None]
    votes = prepared.manifest.rows["votes"]
    # Order: A C D F H N S U, then O.
    assert votes[0].tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0]
    assert votes[1].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert votes[3] is None
    assert prepared.manifest.facts["corpus"] == "msp-podcast"
    # Development has no clip of any class, so there is no balanced subset.
    assert reasons(prepared) == {
        "balanced": "no subset, because class A has no clips in development"
    }


def test_transcripts_are_human_and_an_empty_one_is_silence(write_release: WriteRelease) -> None:
    prepared = prepare(write_release(), OPTIONS)
    assert prepared.transcripts == [
        {"utterance": "MSP-PODCAST_0001_0008.wav", "source": "human", "text": "well yes"},
        {"utterance": "MSP-PODCAST_0001_0019.wav", "source": "human", "text": ""},
        {"utterance": "MSP-PODCAST_0002_0003_01.wav", "source": "human", "text": "no"},
    ]


@pytest.mark.parametrize("folder", ["", "Transcripts/"])
def test_zipped_transcripts_are_the_same(write_release: WriteRelease, folder: str) -> None:
    release = write_release()
    expected = prepare(release, OPTIONS).transcripts
    texts = sorted((release / "Transcripts").iterdir())
    with zipfile.ZipFile(release / "all.zip", "w") as archive:
        archive.writestr("__MACOSX/._MSP-PODCAST_0001_0008.txt", b"\xff")
        for text in texts:
            archive.write(text, f"Transcripts/{text.name}")
            text.unlink()
    (release / "all.zip").rename(release / f"{folder}Transcripts.zip")
    assert prepare(release, OPTIONS).transcripts == expected


def test_broken_zip_raises(write_release: WriteRelease) -> None:
    release = write_release()
    for text in (release / "Transcripts").iterdir():
        text.unlink()
    (release / "Transcripts.zip").write_text("no archive")
    with pytest.raises(
        BadValueError, match=r"Transcripts\.zip' cannot be read as ZIP: .* unpack it"
    ):
        prepare(release, OPTIONS)


def test_transcript_that_is_not_utf8_is_read_and_reported(write_release: WriteRelease) -> None:
    release = write_release()
    # 0x92 is the typographic apostrophe of Windows-1252.
    (release / "Transcripts" / "MSP-PODCAST_0001_0008.txt").write_bytes(b"it\x92s")
    prepared = prepare(release, OPTIONS)
    assert prepared.transcripts[0]["text"] == "it\u2019s"
    expected = "the transcript is not UTF-8; it was read as Windows-1252"
    assert reasons(prepared)["MSP-PODCAST_0001_0008.wav"] == expected


def test_transcripts_that_lack_or_belong_to_no_clip_are_counted(
    write_release: WriteRelease,
) -> None:
    release = write_release({"Transcripts/MSP-PODCAST_9999_0001.txt": "hello"})
    (release / "Transcripts" / "MSP-PODCAST_0001_0008.txt").unlink()
    prepared = prepare(release, OPTIONS)
    found = [p.reason for p in prepared.problems if p.utterance == "Transcripts"]
    assert found == [
        "1 labelled clips have no human transcript: 'MSP-PODCAST_0001_0008.wav'",
        "1 transcripts belong to no clip; left out: 'MSP-PODCAST_9999_0001.wav'",
    ]


@pytest.mark.parametrize(
    "name", ["Labels/labels_concensus.csv", "Labels/Labels/labels_consensus.csv"]
)
def test_other_places_and_spellings_of_the_labels(write_release: WriteRelease, name: str) -> None:
    expected = prepare(write_release(), OPTIONS).manifest
    text = (expected.root / CONSENSUS).read_text()
    (expected.root / CONSENSUS).unlink()
    detailed = (expected.root / "Labels/labels_detailed.csv").read_text()
    release = write_release(
        {CONSENSUS: None, name: text, "Labels/Labels/labels_detailed.csv": detailed}
    )
    assert prepare(release, OPTIONS).manifest.digest == expected.digest


@pytest.mark.parametrize("stem", ["labels_consensus", "labels_concensus"])
def test_json_labels_are_the_same(write_release: WriteRelease, stem: str) -> None:
    expected = prepare(write_release(), OPTIONS).manifest
    table = pd.read_csv(expected.root / CONSENSUS, index_col="FileName").to_dict("index")
    (expected.root / CONSENSUS).unlink()
    release = write_release({CONSENSUS: None, f"Labels/{stem}.json": json.dumps(table)})
    assert prepare(release, OPTIONS).manifest.digest == expected.digest


def test_old_split_name_and_old_partition_file(write_release: WriteRelease) -> None:
    clip = "MSP-PODCAST_0001_0008.wav"
    text = f"{HEADER}{clip},N,4,4,4,1,Male,Validation\n"
    partition = f"Validation; {clip}\n"
    release = write_release(
        {CONSENSUS: text, "Partitions.txt": None, "Partition.txt": partition}, audio=(clip,)
    )
    prepared = prepare(release, OPTIONS)
    assert column(prepared, "split") == ["development"]
    assert "Partitions.txt" not in reasons(prepared)


def test_splits_come_from_the_partition_file_where_labels_have_none(
    write_release: WriteRelease,
) -> None:
    text = "FileName,EmoClass\nMSP-PODCAST_0001_0008.wav,N\nMSP-PODCAST_0001_0019.wav,A\n"
    partition = "Test1; MSP-PODCAST_0001_0008.wav\n"
    prepared = prepare(
        write_release({CONSENSUS: text, "Partitions.txt": partition}, audio=()), NO_AUDIO
    )
    assert column(prepared, "split") == ["test1", None]
    found = [p.reason for p in prepared.problems if p.utterance == "Partitions.txt"]
    assert found == [
        "1 labelled clips are not in the partition file: 'MSP-PODCAST_0001_0019.wav'",
        "1 clips are in no split: 'MSP-PODCAST_0001_0019.wav'",
    ]


def test_split_set_holds_against_the_partition_file(write_release: WriteRelease) -> None:
    partition = (
        "Test1; MSP-PODCAST_0001_0008.wav\nTrain; MSP-PODCAST_0001_0019.wav\n"
        "Development; MSP-PODCAST_0002_0003_01.wav\n"
    )
    prepared = prepare(write_release({"Partitions.txt": partition}), OPTIONS)
    assert column(prepared, "split")[0] == "train"
    expected = "Split_Set says train, the partition file says test1; train was used"
    assert reasons(prepared)["MSP-PODCAST_0001_0008.wav"] == expected


def test_unlabelled_clips_need_a_split(write_release: WriteRelease) -> None:
    listed, stray, hidden = (
        "MSP-PODCAST_0005_0001.wav",
        "MSP-PODCAST_0006_0001.wav",
        "MSP-PODCAST_test3_0002.wav",
    )
    release = write_release(
        {"Partition.txt": None, "Partitions.txt": f"Test2; {listed}\nTest3; {hidden}\n"},
        audio=(stray,),
    )
    prepared = prepare(release, OPTIONS)
    assert column(prepared, "utterance")[3:] == [listed, hidden]
    assert column(prepared, "split")[3:] == ["test2", "test3"]
    assert column(prepared, "label")[3:] == [None, None]
    found = reasons(
        Prepared(prepared.manifest, problems=[p for p in prepared.problems if "MSP" in p.utterance])
    )
    assert found == {
        listed: "in split test2 of the partition file, but in no label file; kept without label",
        stray: f"in Audios/{stray}, but in no label file and no partition; left out",
    }


def test_audio_in_subfolders_is_found_by_name(write_release: WriteRelease, tmp_path: Path) -> None:
    release = write_release()
    (release / "Audios" / "Audios").mkdir()
    clip = "MSP-PODCAST_0001_0008.wav"
    (release / "Audios" / clip).rename(release / "Audios" / "Audios" / clip)
    assert column(prepare(release, OPTIONS), "audio")[0] == f"Audios/Audios/{clip}"


def test_no_audio_needs_no_audio_folder(write_release: WriteRelease) -> None:
    prepared = prepare(write_release(audio=()), NO_AUDIO)
    assert column(prepared, "audio")[0] == "Audios/MSP-PODCAST_0001_0008.wav"
    assert len(prepared.manifest.rows) == 3


def test_no_audio_folder_raises(write_release: WriteRelease) -> None:
    expected = (
        r"release' has no folder Audios or Audio\. It holds Labels/, Partitions\.txt, "
        r"Transcripts/\. Put the audio there, or pass --no-audio"
    )
    with pytest.raises(MissingFileError, match=expected):
        prepare(write_release(audio=()), OPTIONS)


def test_folder_that_is_no_release_raises(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(MissingFileError) as caught:
        prepare(tmp_path, OPTIONS)
    message = str(caught.value)
    assert "is not a release of MSP-Podcast" in message
    assert "Labels/labels_consensus.csv" in message
    assert "It holds notes.txt. Give the folder that holds Labels/ and Audios/." in message


def test_wrong_rows_are_reported_together(write_release: WriteRelease) -> None:
    rows = (
        "a.wav,N,4,4,4,1,Male,Trian\n"
        "b.wav,n,4,4,4,1,Male,Train\n"
        "c.wav,A,four,4,4,1,Male,Train\n"
        "c.wav,A,4,4,4,1,Male,Train\n"
    )
    with pytest.raises(ProblemsError) as caught:
        prepare(write_release({CONSENSUS: HEADER + rows}), OPTIONS)
    assert caught.value.problems == (
        "1 rows have an unknown Split_Set, such as 'Trian (a.wav)', expected one of train, "
        "development, validation, test1, test2, test3 in any case",
        "arousal of 1 rows is not a number, such as 'four'",
        "1 utterances appear more than once: 'c.wav'; keep one row of each",
        "1 rows have an unknown label, such as 'n (b.wav)', expected one of A C D F H N S U O X "
        "or an empty cell",
    )
    assert "labels_consensus.csv" in str(caught.value)


def test_what_is_absent_is_reported(write_release: WriteRelease) -> None:
    release = write_release({"Partitions.txt": None, "Labels/labels_detailed.csv": None})
    for text in (release / "Transcripts").iterdir():
        text.unlink()
    prepared = prepare(release, OPTIONS)
    found = reasons(prepared)
    assert found["Partitions.txt"].startswith("there is neither Partitions.txt nor Partition.txt")
    assert found["labels_detailed.csv"].startswith("there is neither labels_detailed.csv nor")
    assert found["Transcripts"].startswith("there are neither texts in Transcripts/ nor")
    assert prepared.transcripts == []
    assert prepared.manifest.rows["votes"].isna().all()


def test_votes_and_labels_of_different_clips_are_counted(write_release: WriteRelease) -> None:
    detailed = "FileName,worker,EmoClass_Major\nMSP-PODCAST_0001_0008.wav,W1,Sad\nz.wav,W1,Sad\n"
    prepared = prepare(write_release({"Labels/labels_detailed.csv": detailed}), OPTIONS)
    found = [p.reason for p in prepared.problems if p.utterance == "labels_detailed.csv"]
    assert found == [
        "2 labelled clips have no votes: 'MSP-PODCAST_0001_0019.wav', "
        "'MSP-PODCAST_0002_0003_01.wav'",
        "1 clips have votes but no consensus label: 'z.wav'",
    ]


def test_balanced_subset_is_drawn_from_development(write_release: WriteRelease) -> None:
    rows = [
        f"MSP-PODCAST_0001_{idx:04d}.wav,{label},4,4,4,1,Male,{split}"
        for idx, (label, split) in enumerate(
            [(code, "Development") for code in "ACDFHNSUX" * 3] + [("A", "Train")]
        )
    ]
    release = write_release({CONSENSUS: HEADER + "\n".join(rows)}, audio=())
    options = PrepareOptions(check_audio=False, balanced_per_class=2)
    manifest = prepare(release, options).manifest
    chosen = manifest.select("balanced")
    assert chosen["label"].value_counts().to_dict() == dict.fromkeys("ACDFHNSU", 2)
    assert set(chosen["split"]) == {"development"}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("MSP-PODCAST_0023_0108.wav", ("0023", 108)),
        ("MSP-PODCAST_0023_0108_0002.wav", ("0023", 108)),
        ("MSP-PODCAST_test3_0001.wav", (None, None)),
        ("MSP-PODCAST_0023.wav", (None, None)),
        ("clip.wav", (None, None)),
    ],
)
def test_place_in_recording(name: str, place: tuple[str | None, int | None]) -> None:
    assert place_in_recording(name) == place


def test_is_test3_by_name_alone() -> None:
    assert is_test3("MSP-PODCAST_test3_0001.wav")
    assert not is_test3("MSP-PODCAST_0001_0001.wav")


def test_prepare_keeps_secondary_emotions_where_asked_to(
    write_release: WriteRelease, tmp_path: Path
) -> None:
    """Manifests without it are as they were, and so are their digests."""
    detailed = (
        "FileName,worker,EmoClass_Major,EmoClass_Second\n"
        'MSP-PODCAST_0001_0008.wav,W1,Neutral,"Neutral,Concerned"\n'
    )
    release = write_release({"Labels/labels_detailed.csv": detailed})
    plain = prepare(release, PrepareOptions())
    assert "secondary" not in plain.manifest.rows
    prepared = prepare_corpus(
        "msp-podcast", release, tmp_path / "out", PrepareOptions(secondary=True)
    )
    found = read_manifest(tmp_path / "out" / "manifest.parquet").rows["secondary"]
    assert found.iloc[0] == "Concerned:1 Neutral:1"
    assert found.iloc[1:].isna().all()
    assert prepared.manifest.digest != plain.manifest.digest
    with pytest.raises(BadValueError, match="secondary is for the corpus msp-podcast, not for fol"):
        prepare_corpus("folder", release, tmp_path / "f", PrepareOptions(secondary=True))
