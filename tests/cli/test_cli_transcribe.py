from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_whisper import end_early, write_tiny
from warm_python import warm_python

import abhinaya
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import make_manifest, write_manifest
from abhinaya.data.transcripts import read_transcript_rows, read_transcripts

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model with the published window of 30 s."""
    return write_tiny(tmp_path_factory.mktemp("tiny"), end_early, n_layers=1)


@pytest.fixture
def manifest_file(tmp_path):
    """Five noises; one lasts 40 s, one is silence, and the file of one is gone."""
    rng = np.random.default_rng(0)
    rows = []
    for name, duration_s in (("a", 1.0), ("b", 40.0), ("c", 1.5), ("silent", 2.0), ("gone", 1.0)):
        file = f"{name}.wav"
        noise = 0.1 * rng.standard_normal(int(duration_s * RATE_HZ)) * (name != "silent")
        if name != "gone":
            soundfile.write(tmp_path / file, noise, RATE_HZ)
        rows.append({"utterance": file, "audio": file, "split": "dev", "duration_s": duration_s})
    path = tmp_path / "corpus" / "manifest.parquet"
    path.parent.mkdir()
    write_manifest(make_manifest(rows, MSP_PODCAST, path.parent), path)
    return path


def test_transcribe_writes_the_table_and_says_what_it_did(run_cli, manifest_file, tiny, tmp_path):
    result = run_cli(
        "transcribe",
        manifest_file,
        "--model",
        tiny.hub,
        "--source",
        "mine",
        "--language",
        "en",
        "--audio-root",
        tmp_path,
        "--batch-size",
        2,
        "--temperature",
        0,
        "--json",
    )
    assert result.code == 0, result.err
    [shown] = json.loads(result.out)
    assert (shown["source"], shown["rows"], shown["new"], shown["failed"]) == ("mine", 5, 4, 1)
    table = manifest_file.parent / "transcripts.parquet"
    texts = read_transcripts(table, "mine")
    assert texts["gone.wav"] is None
    assert [texts[f"{name}.wav"] is not None for name in ("a", "b", "c", "silent")] == [True] * 4
    rows = {row["utterance"]: row for row in read_transcript_rows(table)}
    assert rows["b.wav"]["n_windows"] == 2
    assert f"{table.parent / 'transcripts.mine.problems.csv'} says why" in result.err
    assert "gone.wav does not exist" in (table.parent / "transcripts.mine.problems.csv").read_text()


def test_default_name_is_the_models(run_cli, manifest_file, tiny, tmp_path):
    result = run_cli(
        "transcribe",
        manifest_file,
        "--model",
        tiny.openai,
        "--audio-root",
        tmp_path,
        "--select",
        "dev",
        "--temperature",
        0,
        "--no-timestamps",
        "--beam-size",
        2,
        "--fp32",
    )
    assert result.code == 0, result.err
    assert "whisper-tiny" in result.out
    [row, *_] = read_transcript_rows(manifest_file.parent / "transcripts.parquet")
    assert "language=detect temperatures=0 beams=2 timestamps=no seed=0" in row["made_with"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model", "largev3"], "Error: Unknown file, folder or official model 'largev3'. Did"),
        (["--temperature", "0.5", "--temperature", "0.1"], "Error: The temperatures are"),
        (["--select", "test"], "Error: Unknown split or subset 'test'"),
        ([], "Error: The official model 'large-v3' is not at "),
    ],
)
def test_wrong_input_exits_1_with_the_reason(
    run_cli, manifest_file, tmp_path, monkeypatch, args, message
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = run_cli("transcribe", manifest_file, *args)
    assert (result.code, result.out) == (1, "")
    assert message in result.err
    assert "Traceback" not in result.err


@pytest.mark.slow
def test_two_processes_write_the_table_of_one_once(run_cli, manifest_file, tiny, tmp_path):
    args = [
        "transcribe",
        str(manifest_file),
        "--model",
        str(tiny.openai),
        "--batch-size",
        "1",
        "--audio-root",
        str(tmp_path),
        "--temperature",
        "0",
        "--json",
    ]
    assert run_cli(*args).code == 0
    table = manifest_file.parent / "transcripts.parquet"
    expected = table.read_bytes()
    table.unlink()
    done = subprocess.run(
        [
            warm_python(),
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            "-m",
            "abhinaya",
            *args,
        ],
        env=os.environ
        | {"PYTHONPATH": str(Path(abhinaya.__file__).parents[1]), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"new": 4') == 1
    # The main process counts its own share alone: three of the five batches of one clip.
    shown = [line for line in done.stderr.splitlines() if line.startswith("transcribing")]
    assert shown[-1] == "transcribing whisper-tiny: 3 of 3"
    assert table.read_bytes() == expected
    assert not (table.parent / ".transcripts.parquet.parts").exists()
