from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from abhinaya.data.manifest import read_manifest
from abhinaya.data.transcripts import read_transcripts
from abhinaya.demo.corpus.release import write_corpus


@pytest.fixture
def write_noise():
    def write(path: Path, seed: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.random.default_rng(seed).uniform(-0.1, 0.1, 1_600), 16_000)

    return write


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


def test_corpus_of_the_field_in_four_classes_and_a_fold_of_emobox(run_cli, tmp_path, write_noise):
    # Emotions 02 to 05 are calm, happy, sad, angry; actor 12 is a woman.
    for idx, code in enumerate(("02", "03", "04", "05")):
        write_noise(tmp_path / "source" / f"03-01-{code}-01-01-01-12.wav", seed=idx)
    entries = {
        f"ravdess-{code}": {"wav": f"downloads/ravdess/Actor_12/03-01-{code}-01-01-01-12.wav"}
        for code in ("03", "04", "05")
    }
    (tmp_path / "ravdess_test_fold_2.json").write_text(json.dumps(entries))
    arguments = ["prepare", "ravdess", tmp_path / "source", "--classes", "4"]
    arguments += ["--folds", tmp_path, "--fold", 2, "--out", tmp_path / "out"]
    result = run_cli(*arguments)
    assert result.code == 0, result.err
    assert "1 calm left out; 1 happy are H; 1 sad are S; 1 angry are A" in result.out
    manifest = read_manifest(tmp_path / "out" / "manifest.parquet")
    assert manifest.rows["label"].tolist() == ["H", "S", "A"]
    assert manifest.splits == ["test"]

    again = ["relabel", tmp_path / "out" / "manifest.parquet", "--classes", "poleval2025"]
    result = run_cli(*again, "--out", tmp_path / "words", "--json")
    assert result.code == 0, result.err
    assert [row["becomes"] for row in json.loads(result.out)] == ["anger", "happiness", "sadness"]


def test_export_dataset_tells_its_splits_and_prepare_reads_it(run_cli, tmp_path, write_noise):
    for idx, code in enumerate(("03", "05")):
        write_noise(tmp_path / "source" / f"03-01-{code}-01-01-01-12.wav", seed=idx)
    run_cli("prepare", "ravdess", tmp_path / "source", "--out", tmp_path / "out")
    arguments = ["export-dataset", tmp_path / "out" / "manifest.parquet"]
    result = run_cli(*arguments, "--out", tmp_path / "data", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out) == [{"split": "all", "rows": 2}]
    arguments = [
        "prepare",
        "dataset",
        tmp_path / "data",
        "--split",
        "all",
        "--out",
        tmp_path / "again",
    ]
    assert run_cli(*arguments).code == 0
    rows = read_manifest(tmp_path / "again" / "manifest.parquet").rows
    assert rows["label"].tolist() == ["happy", "angry"]


def test_option_of_another_corpus_is_refused(run_cli, tmp_path):
    (tmp_path / "source").mkdir()
    arguments = ["prepare", "ravdess", tmp_path / "source", "--out", tmp_path / "out"]
    result = run_cli(*arguments, "--split", "train")
    assert result.code == 1
    assert "split is for the corpus hub or dataset, not for ravdess." in result.err
