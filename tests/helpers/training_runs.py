"""A tiny synthetic corpus, tiny checkpoints, and trainings that several tests look at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from abhinaya.config import apply_overrides
from abhinaya.corpora import prepare_corpus
from abhinaya.data.manifest import Manifest
from abhinaya.demo.checkpoints.encoders import write_wavlm, write_whisper
from abhinaya.demo.corpus.release import write_corpus
from abhinaya.member_config import check_member_config
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.registry import load_member

MakeConfig = Callable[..., ClassifierConfig]
Train = Callable[..., Path]


@pytest.fixture(scope="session")
def manifest_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """37 clips to train on, three of them O or X; 11 for validation, two of them O or X."""
    folder = tmp_path_factory.mktemp("corpus")
    release = write_corpus(folder, n_clips=64, n_speakers=8).release
    prepare_corpus("msp-podcast", release, folder / "prepared")
    return folder / "prepared" / "manifest.parquet"


@pytest.fixture(scope="session")
def manifest(manifest_file: Path) -> Manifest:
    from abhinaya.data.manifest import read_manifest

    return read_manifest(manifest_file)


@pytest.fixture(scope="session")
def wavlm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One block of 16 features; like the real ones it has dropout."""
    folder = tmp_path_factory.mktemp("wavlm")
    write_wavlm(folder, n_layers=1, n_features=16, n_conv_features=8)
    return str(folder)


@pytest.fixture(scope="session")
def wavlm_without_dropout(wavlm: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same weights, but nothing of it is random in training."""
    folder = tmp_path_factory.mktemp("still") / "wavlm"
    shutil.copytree(wavlm, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {key: 0.0 for key in config if "drop" in key}
    config["apply_spec_augment"] = False
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture(scope="session")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two blocks of 16 features that hear one second."""
    folder = tmp_path_factory.mktemp("whisper")
    write_whisper(folder, chunk_s=1, n_layers=2, n_features=16)
    return str(folder)


@pytest.fixture(scope="session")
def make_config(manifest_file: Path, wavlm: str) -> MakeConfig:
    """A function that gives the config of a tiny WavLM in `run_dir`, changed by overrides."""

    def make(run_dir: Path, *overrides: str) -> ClassifierConfig:
        content: dict[str, Any] = {
            "member": "wavlm",
            "name": "tiny",
            "run_dir": str(run_dir),
            "seed": 3,
            "data": {"manifest": str(manifest_file)},
            "base": wavlm,
            "audio": {"max_audio_s": 0.4},
            "pooling": "mean",
            "head": {"hidden": 8},
            # Some machines have an accelerator; the numbers of these tests are those of a CPU.
            "training": {
                "global_batch_size": 8,
                "num_train_epochs": 2,
                "learning_rate": 0.01,
                "use_cpu": True,
            },
        }
        config = check_member_config(apply_overrides(content, overrides), "the test")
        assert isinstance(config, ClassifierConfig)
        return config

    return make


@pytest.fixture(scope="session")
def train(
    make_config: MakeConfig, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> Train:
    """A function that trains and returns the run directory, a new one unless it is given."""

    def run(*overrides: str, run_dir: Path | None = None, manifest: Manifest = manifest) -> Path:
        config = make_config(run_dir or tmp_path_factory.mktemp("runs") / "run", *overrides)
        return load_member(config.member).train(config, manifest)

    return run


@pytest.fixture(scope="session")
def trained(train: Train) -> Train:
    """The same, but equal overrides are trained once per session: only look at what you get."""
    return cache(lambda *overrides: train(*overrides))
