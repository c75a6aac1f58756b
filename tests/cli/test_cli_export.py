from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from exported_runs import write_run, write_tiny_whisper

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import make_manifest, write_manifest
from abhinaya.errors import MissingPackageError
from abhinaya.export import graph


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_tiny_whisper(tmp_path / "base")
    return write_run(tmp_path / "run", "whisper-encoder", tmp_path / "base", pointwise=[])


def write_config(run: Path, **changes: object) -> Path:
    """The config that the run was trained with, changed."""
    content = {
        "member": "whisper-encoder",
        "name": "tiny",
        "run_dir": str(run),
        "base": str(run.parent / "base"),
        "audio": {"max_audio_s": 2.0},
        "head": {"hidden": 8},
        "pointwise": [],
        "training": {"global_batch_size": 4},
    }
    file = run.parent / "own.yaml"
    file.write_text(json.dumps(content | changes))
    return file


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"base", "run", "own.yaml"}


@pytest.mark.slow
def test_int8_of_a_config_is_written_and_predicts(run_cli, run, tmp_path):
    out = tmp_path / "it's: 8"  # not plain YAML
    result = run_cli("export", write_config(run), "--quantize", "int8", "--out", out, "--json")
    assert result.code == 0, result.err
    (row,) = json.loads(result.out)
    assert (row["run"], row["member"], row["quantization"]) == ("tiny", "whisper-encoder", "int8")
    assert row["classes"] == 8
    assert {path.name for path in out.iterdir()} == {"model.onnx", "export.json", "config.yaml"}

    noise = 0.1 * np.random.default_rng(0).random(9_000)
    soundfile.write(tmp_path / "a.wav", noise, 16_000)
    manifest = tmp_path / "manifest.parquet"
    write_manifest(
        make_manifest([{"utterance": "a.wav", "audio": "a.wav"}], MSP_PODCAST, tmp_path), manifest
    )
    for source in (out, out / "config.yaml"):
        table = tmp_path / f"{source.name}.csv"
        result = run_cli(
            "predict", source, "--manifest", manifest, "--select", "all", "--out", table
        )
        assert result.code == 0, result.err
        assert table.read_text().splitlines()[1].startswith("a.wav,")


def test_out_that_exists_is_left_alone(run_cli, run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    result = run_cli("export", run, "--out", tmp_path / "out")
    assert result.code == 1
    assert "exists, and an export overwrites nothing. Remove it, or choose" in result.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_unknown_quantization_is_a_wrong_command_line(run_cli, run, tmp_path):
    result = run_cli("export", run, "--out", tmp_path / "out", "--quantize", "int4")
    assert result.code == 2
    assert "'int4' is not one of 'none', 'int8'" in result.err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("checkpoint-9", "There is no checkpoint 'checkpoint-9', neither as a folder nor in"),
        ("empty", "is no checkpoint: config.yaml, classes.json, metrics.json, facts.json,"),
    ],
)
def test_wrong_checkpoint_is_named(run_cli, run, tmp_path, name, message):
    (run / "empty").mkdir()
    result = run_cli("export", run, "--out", tmp_path / "out", "--checkpoint", name)
    assert result.code == 1
    assert message in result.err
    assert left_in(tmp_path) == set()


def test_weights_of_another_model_raise(run_cli, run, tmp_path):
    result = run_cli("export", run, "head.hidden=0", "--out", tmp_path / "out")
    assert result.code == 1
    assert "do not fit" in result.err or "did not load" in result.err
    assert left_in(tmp_path) == set()


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"head": {"hidden": 4}, "pooling": "mean"}, "pooling, head"),
        ({"member": "wavlm", "pointwise": None}, "member"),
    ],
)
def test_config_of_another_model_than_its_checkpoint_raises(run_cli, run, tmp_path, changes, keys):
    file = write_config(run, **changes)
    content = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    result = run_cli("export", file, "--out", tmp_path / "out", "--checkpoint", "best")
    assert result.code == 1
    assert f"differ in {keys}, so this config did not train it" in result.err


@pytest.mark.parametrize("name", ["llama-8b-lora", "salmonn-13b", "llama-70b-zero-shot"])
def test_member_with_a_language_model_is_refused_in_one_line(run_cli, tmp_path, name):
    result = run_cli("export", f"members/{name}.yaml", "--out", tmp_path / "out")
    assert result.code == 1
    assert "cannot be exported: a graph of ONNX holds an encoder of speech" in result.err
    assert len(result.err.splitlines()) == 1


def test_neither_run_nor_config_is_named(run_cli, tmp_path):
    result = run_cli("export", "nowhere.yaml", "--out", tmp_path / "out")
    assert result.code == 1
    assert "nowhere.yaml" in result.err


def test_killed_export_leaves_nothing(run_cli, run, tmp_path, monkeypatch):
    def break_off(model, file):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(graph, "write_graph", break_off)
    assert run_cli("export", run, "--out", tmp_path / "out").code == 130
    assert left_in(tmp_path) == set()


def test_model_larger_than_a_file_of_onnx_is_refused(run_cli, run, tmp_path, monkeypatch):
    from abhinaya.export import export

    monkeypatch.setattr(export, "_MAX_BYTES", 1)
    result = run_cli("export", run, "--out", tmp_path / "out")
    assert result.code == 1
    assert "GiB of weights, but one ONNX file holds less than 2 GiB" in result.err


def test_missing_package_names_the_extra(run_cli, run, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = run_cli("export", run, "--out", tmp_path / "out")
    assert result.code == 1
    assert result.err == f"Error: {MissingPackageError('onnx', 'Exporting to ONNX', 'export')}\n"
