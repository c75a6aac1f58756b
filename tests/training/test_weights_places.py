"""Where weights are found: from the config's folder, whatever the working directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from abhinaya.config import dump_yaml
from abhinaya.data.manifest import Manifest
from abhinaya.data.predictions import PredictionTable
from abhinaya.member import PredictRequest
from abhinaya.member_config import load_member_config
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.registry import load_member
from abhinaya.training.soup import read_parts, write_soup

MakeConfig = Callable[..., ClassifierConfig]


@pytest.fixture
def project(tmp_path: Path, wavlm: str, make_config: MakeConfig) -> Path:
    """A folder with `configs/tiny.yaml`, whose base is `../weights/wavlm`."""
    folder = tmp_path / "project"
    shutil.copytree(wavlm, folder / "weights" / "wavlm")
    config = make_config(
        folder / "runs" / "tiny",
        "base=../weights/wavlm",
        "training.max_steps=1",
        "data.validation=null",
        "freeze=encoder",
    )
    (folder / "configs").mkdir()
    (folder / "configs" / "tiny.yaml").write_text(dump_yaml(config))
    return folder


def predict(run: Path, manifest: Manifest, out: Path) -> PredictionTable:
    return load_member("wavlm").predict(run, PredictRequest(manifest, ("development",), out))


def test_relative_base_is_found_from_anywhere_and_after_a_move(
    project: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was looked up from the working directory, where there may be none, or another one."""
    wrong = tmp_path / "elsewhere" / "work"
    (wrong.parent / "weights" / "wavlm").mkdir(parents=True)
    wrong.mkdir()
    (wrong.parent / "weights" / "wavlm" / "config.json").write_text("another model")
    monkeypatch.chdir(wrong)
    config = load_member_config(project / "configs" / "tiny.yaml")
    run = load_member("wavlm").train(config, manifest)
    first = predict(run, manifest, tmp_path / "first.parquet")
    monkeypatch.chdir(tmp_path)
    again = predict(run, manifest, tmp_path / "again.parquet")
    # Run and base are moved together; only the old place of the base is stored.
    project.rename(tmp_path / "moved")
    run = tmp_path / "moved" / "runs" / "tiny"
    moved = predict(run, manifest, tmp_path / "moved.parquet")
    assert moved.meta["digest"] == again.meta["digest"] == first.meta["digest"]
    shutil.copytree(run, run.with_name("copy"))
    parts = read_parts([run, run.with_name("copy")])
    out = tmp_path / "soups" / "mix"
    write_soup(parts, [0, 1], out, digest="d")
    soup = predict(out, manifest, tmp_path / "soup.parquet")
    assert soup.probs is not None
    assert moved.probs is not None
    assert soup.probs.tolist() == moved.probs.tolist()


def test_base_of_a_run_trained_in_the_working_directory_is_found_from_another(
    project: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    # A path on the command line is one of the working directory, not of the config's folder.
    config = load_member_config("configs/tiny.yaml", ["base=weights/wavlm"])
    assert getattr(config, "base", None) == "weights/wavlm"
    run = load_member("wavlm").train(config, manifest)
    here = predict(run, manifest, tmp_path / "here.parquet")
    monkeypatch.chdir(tmp_path)
    there = predict(run, manifest, tmp_path / "there.parquet")
    assert here.meta["digest"] == there.meta["digest"]
