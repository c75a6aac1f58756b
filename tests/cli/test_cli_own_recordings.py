"""`abhinaya train CONFIG data.source=FOLDER`: from one's own WAVs to labels."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile

from abhinaya.config import load_yaml
from abhinaya.data.manifest import read_manifest
from abhinaya.data.predictions import read_table
from abhinaya.demo.checkpoints.encoders import write_wavlm
from abhinaya.files import sole_writer
from abhinaya.member_config import load_member_config

CONFIG = """
member: wavlm
name: mine
run_dir: run
base: base
data: {validation: balanced}
audio: {max_audio_s: 0.5}
pooling: mean
head: {hidden: 8}
training: {global_batch_size: 8, num_train_epochs: 1, use_cpu: true}
"""


def write_noise(path: Path, seed: int, rate: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.1 * np.random.default_rng(seed).standard_normal(8_000)
    soundfile.write(path, noise, rate)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    write_wavlm(folder, n_layers=1, n_features=16, n_conv_features=8)
    return folder


@pytest.fixture
def mine(tmp_path, monkeypatch, base):
    """Folders `mine/angry` and `mine/sad` of five clips each, and a config."""
    monkeypatch.chdir(tmp_path)
    for idx in range(10):
        write_noise(Path("mine", ("angry", "sad")[idx % 2], f"{idx}.wav"), idx)
    Path("config.yaml").write_text(CONFIG.replace("base: base", f"base: {base}"))
    return Path("mine")


def test_a_folder_is_trained_on_and_scored_by_the_commands_that_are_said(run_cli, mine, caplog):
    result = run_cli("train", "config.yaml", "data.source=mine")
    assert result.code == 0, result.err
    assert "mine: 10 recordings of angry, sad (" in caplog.text
    assert "split by file, because no speaker is known: scores flatter" in caplog.text
    assert "data.validation is development: there is no subset 'balanced'" in caplog.text
    _, _, said = result.out.partition("Next: ")
    commands = [shlex.split(line)[1:] for line in said.splitlines()]
    assert [command[0] for command in commands] == ["predict", "score", "predict"]
    for command in commands[:2]:
        done = run_cli(*command)
        assert done.code == 0, done.err
    assert "sad" in done.out
    done = run_cli(*commands[2][:2], "mine/angry")
    assert done.code == 0, done.err
    assert "mine on 5 recordings" in done.out
    assert len(read_table(Path("run-test.parquet"))) == 2

    # What the run keeps is a manifest like any other; again, nothing is to do.
    stored = load_yaml(Path("run/best/config.yaml"))["data"]
    assert stored["manifest"] == "run-corpus/manifest.parquet"
    assert "source" not in stored
    before = Path("run/best/model.safetensors").stat().st_mtime_ns
    Path("mine").rename("moved")
    again = run_cli("train", "config.yaml", "data.source=moved")
    assert again.code == 0, again.err
    assert Path("run/best/model.safetensors").stat().st_mtime_ns == before
    manifest = read_manifest(Path("run-corpus/manifest.parquet"))
    assert manifest.audio_path(manifest.rows["audio"][0]).is_file()

    write_noise(Path("moved/angry/0.wav"), 99)
    changed = run_cli("train", "config.yaml", "data.source=moved")
    assert changed.code == 1
    assert "'moved' has changed since 'run-corpus/manifest.parquet' was made" in changed.err
    assert "Name another run_dir, or delete 'run' and 'run-corpus'" in changed.err
    assert read_manifest(Path("run-corpus/manifest.parquet")).digest == manifest.digest
    assert not list(Path().glob(".*"))


def test_a_folder_with_a_table_keeps_its_split(run_cli, mine, caplog):
    rows = [f"{'angry' if n % 2 == 0 else 'sad'}/{n}.wav" for n in range(10)]
    lines = [f"{row},{row[:3]},{'dev' if n > 6 else 'train'}" for n, row in enumerate(rows)]
    Path("mine/labels.csv").write_text("\n".join(["file,label,split", *lines]))
    result = run_cli("train", "config.yaml", "data.source=mine")
    assert result.code == 0, result.err
    assert "data.validation is dev:" in caplog.text
    assert "split by" not in caplog.text
    assert "--select dev" in result.out


def test_a_folder_may_change_before_anything_is_learnt(run_cli, mine):
    # A whole class is missing from the training rows.
    Path("mine/labels.csv").write_text("file,label,split\nangry/0.wav,a,train\nsad/1.wav,s,dev\n")
    assert run_cli("train", "config.yaml", "data.source=mine", "loss.class_weights=inverse").code
    Path("mine/labels.csv").unlink()
    result = run_cli("train", "config.yaml", "data.source=mine", "loss.class_weights=inverse")
    assert result.code == 0, result.err


def test_source_on_the_command_line_takes_the_place_of_the_configs_manifest(mine):
    content = load_yaml(Path("config.yaml"))
    Path("other.yaml").write_text(
        json.dumps({**content, "data": {"manifest": "elsewhere.parquet"}})
    )
    config = load_member_config("other.yaml", ["data.source=mine"])
    assert config.data.source == Path("mine")
    assert config.data.manifest == Path(f"{content['run_dir']}-corpus/manifest.parquet")
    Path("other.yaml").write_text(json.dumps({**content, "data": {"source": "mine"}}))
    config = load_member_config("other.yaml", ["data.manifest=elsewhere.parquet"])
    assert (config.data.source, config.data.manifest) == (None, Path("elsewhere.parquet"))


def test_wrong_sources_are_explained(run_cli, mine):
    train = ("train", "config.yaml")
    assert run_cli("prepare", "folder", "mine", "--out", "prepared").code == 0
    given = "data.manifest=prepared/manifest.parquet"
    cases = [
        ((*train, "data.source=none"), "There is no 'none' to prepare folder from"),
        ((*train, "data.source=mine", given), "both a manifest and a source, expected one"),
        ((*train, given), "Unknown split or subset 'balanced'. Known: all. The corpus has no"),
        (
            ("predict", "none", "--select", "test", "--out", "t.csv"),
            "'none' is no trained run",
        ),
    ]
    for args, message in cases:
        result = run_cli(*args)
        assert result.code == 1, args
        assert message in result.err
    with sole_writer(Path("run"), "run_dir"):
        result = run_cli(*train, "data.source=mine")
    assert result.code == 1
    assert "'run' is being written by process" in result.err
    assert not Path("run-corpus").exists()
    assert not list(Path().glob(".*"))


def test_a_corpus_without_the_subset_says_what_it_has(run_cli, mine):
    rows = "\n".join(f"angry/{n}.wav,a,{'dev' if n else 'train'}" for n in (0, 2, 4))
    Path("mine/labels.csv").write_text(f"file,label,split\n{rows}\nsad/1.wav,s,train\n")
    assert run_cli("prepare", "folder", "mine", "--out", "prepared").code == 0
    result = run_cli("train", "config.yaml", "data.manifest=prepared/manifest.parquet")
    assert result.code == 1
    assert "Unknown split or subset 'balanced'. Known: all, dev, train. " in result.err
    assert "data.validation=dev." in result.err


def test_a_run_whose_corpus_is_gone_says_so(run_cli, mine):
    best = Path("run/best")
    best.mkdir(parents=True)
    (best / "config.yaml").write_text("member: wavlm\ndata: {manifest: gone.parquet}\n")
    result = run_cli("predict", "run", "--select", "test", "--out", "t.csv")
    assert result.code == 1
    assert "'run' was trained on 'gone.parquet', which is not there. Go to the folder" in result.err
