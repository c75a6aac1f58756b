from __future__ import annotations

import json
from pathlib import Path

import pytest

from abhinaya.data.manifest import read_manifest
from abhinaya.data.transcripts import read_transcripts
from abhinaya.demo.corpus.release import write_corpus


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), n_clips=32, n_speakers=8).release


def test_prepare_writes_a_manifest_and_prints_its_selections(run_cli, release, tmp_path):
    result = run_cli(
        "prepare", "msp-podcast", release, "--out", tmp_path, "--balanced-per-class", 1
    )
    assert result.code == 0, result.err
    title, header, *rows = result.out.splitlines()
    assert str(tmp_path) in title
    assert "0 problems" in title
    assert header.split()[:4] == ["selection", "rows", "hours", "speakers"]
    assert [row.split()[0] for row in rows] == [
        "train",
        "development",
        "test1",
        "test3",
        "balanced",
    ]
    manifest = read_manifest(tmp_path / "manifest.parquet")
    assert len(manifest.rows) == 32
    assert (manifest.rows["duration_s"] > 0.9).all()
    assert (tmp_path / "problems.csv").read_text() == "utterance,reason\n"


def test_prepare_as_json_is_one_document(run_cli, release, tmp_path):
    result = run_cli(
        "prepare",
        "msp-podcast",
        release,
        "--out",
        tmp_path,
        "--json",
        "--balanced-per-class",
        1,
    )
    rows = json.loads(result.out)
    assert [row["rows"] for row in rows] == [8, 8, 8, 8, 8]
    # A clip of every class in every split but the one without labels.
    assert [row["A"] for row in rows] == [1, 1, 1, 0, 1]


def test_prepare_without_audio_opens_no_sound(run_cli, release, tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise AssertionError("a sound was opened")

    monkeypatch.setattr("soundfile.SoundFile.__init__", fail)
    result = run_cli("prepare", "msp-podcast", release, "--out", tmp_path, "--no-audio")
    assert result.code == 0, result.err
    assert read_manifest(tmp_path / "manifest.parquet").rows["duration_s"].isna().all()


def test_prepare_adds_transcripts_of_a_recognizer(run_cli, release, tmp_path):
    texts = release.parent / "recognised.csv"
    args = ("--no-audio", "--balanced-per-class", 1, "--transcripts", f"my-asr={texts}")
    result = run_cli("prepare", "msp-podcast", release, "--out", tmp_path, *args)
    assert result.code == 0, result.err
    assert len(read_transcripts(tmp_path / "transcripts.parquet", "my-asr")) == 32


@pytest.mark.parametrize("entry", ["recognised.csv", "=recognised.csv", "my-asr="])
def test_prepare_transcripts_without_name_or_file_exit_1(run_cli, release, tmp_path, entry):
    result = run_cli("prepare", "msp-podcast", release, "--out", tmp_path, "--transcripts", entry)
    assert result.code == 1
    assert "must be NAME=FILE, each name once" in result.err


@pytest.mark.slow
def test_prepare_another_seed_draws_other_balanced_clips(run_cli, tmp_path):
    release = write_corpus(tmp_path, n_clips=128, n_speakers=8).release
    drawn = []
    for seed in (0, 0, 1):
        out = tmp_path / f"out{len(drawn)}"
        args = ("--out", out, "--balanced-per-class", 1, "--seed", seed, "--no-audio")
        assert run_cli("prepare", "msp-podcast", release, *args).code == 0
        drawn.append(read_manifest(out / "manifest.parquet").subsets["balanced"])
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("corpus", "source", "message"),
    [
        ("msp-podcst", "release", "Unknown corpus 'msp-podcst'. Did you mean 'msp-podcast'?"),
        ("msp-podcast", "nowhere", "There is no 'nowhere' to prepare msp-podcast from."),
    ],
)
def test_prepare_wrong_input_exits_1(run_cli, tmp_path, corpus, source, message):
    result = run_cli("prepare", corpus, source, "--out", tmp_path / "out")
    assert result.code == 1
    assert message in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [["--balanced-per-class", 0], ["--seed", -1]])
def test_prepare_number_out_of_range_exits_2(run_cli, release, tmp_path, option):
    result = run_cli("prepare", "msp-podcast", release, "--out", tmp_path / "out", *option)
    assert result.code == 2
    assert "Usage: abhinaya prepare" in result.err


def test_prepare_shows_a_corpus_without_splits(run_cli, tmp_path):
    """The table had one row per split, so without any it had none."""
    (tmp_path / "labels.csv").write_text("file,label,speaker\na.wav,L,1\nb.wav,W,2\nc.wav,L,2\n")
    result = run_cli("prepare", "folder", tmp_path, "--out", tmp_path / "out", "--no-audio")
    assert result.code == 0, result.err
    # selection, rows, hours, speakers, L, W, no label
    assert result.out.splitlines()[-1].split() == ["all", "3", "0.0000", "2", "2", "1", "0"]
