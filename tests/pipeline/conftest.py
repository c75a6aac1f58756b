"""A chain of two tiny members on a tiny synthetic corpus, run once and copied for each test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pretended_training import pretended_trainings

from abhinaya.cli.processes import quiet_libraries
from abhinaya.demo.checkpoints.encoders import write_wavlm, write_whisper
from abhinaya.demo.corpus.release import write_corpus
from abhinaya.pipeline.config import load_pipeline
from abhinaya.pipeline.report import Report
from abhinaya.pipeline.run import run_pipeline

__all__ = ["pretended_trainings"]

RunChain = Callable[..., list[str]]

TRAINING = {"global_batch_size": 8, "num_train_epochs": 2, "learning_rate": 0.01, "use_cpu": True}
COMMON = {"seed": 3, "data": {}, "head": {"hidden": 8}, "pooling": "mean", "training": TRAINING}


@pytest.fixture(scope="session")
def material_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus as published, and the models."""
    folder = tmp_path_factory.mktemp("material")
    write_corpus(folder, n_clips=64, n_speakers=8)
    write_wavlm(folder / "wavlm", n_layers=1, n_features=16, n_conv_features=8)
    write_whisper(folder / "whisper", chunk_s=1, n_layers=1, n_features=16)
    return folder


@pytest.fixture(scope="session")
def write_chain(material_dir: Path) -> Callable[[Path], None]:
    """A function that writes `chain.yaml` and the members' files into a folder."""

    def write(folder: Path) -> None:
        members: dict[str, dict[str, Any]] = {
            "wave": {
                **COMMON,
                "member": "wavlm",
                "base": "source/wavlm",
                "audio": {"max_audio_s": 0.4},
            },
            "mel": {
                **COMMON,
                "member": "whisper-encoder",
                "base": "source/whisper",
                "audio": {"max_audio_s": 1, "train_crop": "first"},
                "pointwise": [],
                "cache": {"dir": "out/features"},
            },
        }
        chain = {
            "name": "tiny",
            "out": "out",
            "prepare": {
                "corpus": "msp-podcast",
                "source": "source/release",
                "out": "out/corpus",
                "balanced_per_class": 1,
            },
            "members": {name: {"config": f"{name}.yaml"} for name in members},
            "predict": {"development": ["development", "balanced"], "test": "test3"},
            "vote": {"tiebreaker": ["mel"]},
            "score": [
                {"selection": "development"},
                {"selection": "test", "truth": "source/test3_truth.csv"},
            ],
            "submit": {
                "selection": "test",
                "names": "out/corpus/manifest.parquet",
                "select": "test3",
            },
        }
        folder.mkdir(parents=True, exist_ok=True)
        # Copied, so that all paths are relative and a copy of the folder works as well.
        shutil.copytree(material_dir, folder / "source")
        for name, content in {**members, "chain": chain}.items():
            text = yaml.safe_dump(content, sort_keys=False)
            (folder / f"{name}.yaml").write_text(text, encoding="utf-8")

    return write


@pytest.fixture(scope="session")
def run_chain() -> RunChain:
    """A function that runs `chain.yaml` of the working directory and gives the reports' titles."""
    quiet_libraries()

    def run(*overrides: str, **options: Any) -> list[str]:
        reports: list[Report] = []
        run_pipeline(load_pipeline("chain.yaml", overrides), reports.append, **options)
        assert all(len(row) == len(report.columns) for report in reports for row in report.rows)
        return [report.title for report in reports]

    return run


@pytest.fixture(scope="session")
def finished_dir(
    tmp_path_factory: pytest.TempPathFactory,
    write_chain: Callable[[Path], None],
    run_chain: RunChain,
) -> Path:
    """The working directory of a chain that ran to its end: only look at it."""
    folder = tmp_path_factory.mktemp("finished")
    write_chain(folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        run_chain()
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def finished(finished_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to change, as the working directory."""
    folder = tmp_path / "work"
    shutil.copytree(finished_dir, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def fresh(
    write_chain: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The chain before its first run, as the working directory."""
    folder = tmp_path / "fresh"
    write_chain(folder)
    monkeypatch.chdir(folder)
    return folder
