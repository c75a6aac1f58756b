from __future__ import annotations

import json

import pytest

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import make_manifest, write_manifest
from abhinaya.data.transcripts import HUMAN, write_transcripts

ASR = "whisper-tiny"


@pytest.fixture
def manifest_file(tmp_path):
    """Four clips of two splits and of two speakers and an unknown one; d has no human text."""
    rows = [
        {"utterance": name, "split": split, "speaker": speaker, "language": "en"}
        for name, split, speaker in (
            ("a", "train", "1"),
            ("b", "train", "2"),
            ("c", "dev", "1"),
            ("d", "dev", None),
        )
    ]
    write_manifest(make_manifest(rows, MSP_PODCAST, tmp_path), tmp_path / "manifest.parquet")
    human = {"a": "I'm not the one.", "b": "Colour it twenty times!", "c": "Well."}
    machine = {"a": "I am the one", "b": "color it 20 times", "c": "swell", "d": "Oh"}
    write_transcripts(
        [
            {"utterance": name, "source": source, "text": text}
            for source, texts in ((HUMAN, human), (ASR, machine))
            for name, text in texts.items()
        ],
        tmp_path / "transcripts.parquet",
    )
    return tmp_path / "manifest.parquet"


def test_score_asr_prints_one_row(run_cli, manifest_file):
    # a: "not" is deleted, of 5 words. b: right, 4 words. c: 1 of 1 is wrong. 2 / 10.
    result = run_cli("score-asr", manifest_file, "--source", ASR, "--resamples", 100)
    assert result.code == 0, result.err
    title, heading, row = result.out.splitlines()
    assert title == "whisper-tiny against human"
    assert heading.split("  ")[0] == "rows"
    cells = row.split()
    assert cells[:4] == ["all", "3", "10", "0.2000"]
    # Substitutions, deletions, insertions, without reference, not transcribed.
    assert cells[5:] == ["1", "1", "0", "1", "0"]
    low, high = map(float, cells[4].split("-"))
    assert low <= 0.2 <= high


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("split", {"train": 1 / 9, "dev": 1.0, "all": 0.2}),
        ("speaker", {"1": 2 / 6, "2": 0.0, "unknown": None, "all": 0.2}),
    ],
)
def test_score_asr_by_groups(run_cli, manifest_file, by, expected):
    result = run_cli(
        "score-asr", manifest_file, "--source", ASR, "--by", by, "--resamples", 50, "--json"
    )
    shown = json.loads(result.out)
    assert {row["rows"]: row["wer"] for row in shown} == expected
    assert shown[-1]["n_without_reference"] == 1


def test_score_asr_of_a_selection_in_markdown(run_cli, manifest_file):
    result = run_cli(
        "score-asr",
        manifest_file,
        "--source",
        ASR,
        "--select",
        "train",
        "--resamples",
        50,
        "--format",
        "markdown",
    )
    assert "| all | 2 | 9 | 0.1111 |" in result.out


def test_language_may_be_said_where_the_manifest_does_not(run_cli, manifest_file, tmp_path):
    rows = [{"utterance": name} for name in "abcd"]
    write_manifest(make_manifest(rows, MSP_PODCAST, tmp_path), manifest_file)
    args = ("score-asr", manifest_file, "--source", ASR, "--resamples", 50, "--json")
    [unknown], [english] = (
        json.loads(run_cli(*args, *more).out) for more in ((), ("--language", "en"))
    )
    assert english["wer"] == 0.2
    # The basic normaliser knows neither spellings nor numbers nor contractions.
    assert unknown["wer"] > 0.4


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--source", "whisper-tny"], "Unknown transcript source 'whisper-tny'. Did you mean"),
        (["--source", ASR, "--against", "people"], "Unknown transcript source 'people'"),
        (["--source", ASR, "--select", "dev:O"], "has no rows"),
    ],
)
def test_wrong_input_exits_1_with_the_reason(run_cli, manifest_file, args, message):
    result = run_cli("score-asr", manifest_file, *args)
    assert result.code == 1
    assert message in result.err


def test_no_human_transcripts_exit_1(run_cli, manifest_file):
    rows = [{"utterance": "a", "source": ASR, "text": "I"}]
    write_transcripts(rows, manifest_file.parent / "transcripts.parquet")
    result = run_cli("score-asr", manifest_file, "--source", ASR)
    assert result.code == 1
    assert "Unknown transcript source 'human'" in result.err
    (manifest_file.parent / "transcripts.parquet").unlink()
    result = run_cli("score-asr", manifest_file, "--source", ASR)
    assert "There are no transcripts" in result.err
