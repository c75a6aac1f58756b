"""A corpus of ten noises, tiny checkpoints, and runs whose weights are random, not trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from abhinaya.config import apply_overrides, dump_yaml
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import Manifest, make_manifest, write_manifest
from abhinaya.data.predictions import PredictionTable
from abhinaya.demo.checkpoints.encoders import write_wavlm, write_whisper
from abhinaya.member import PredictRequest
from abhinaya.member_config import check_member_config
from abhinaya.nn.build import build_classifier
from abhinaya.nn.checkpoint import save_checkpoint
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.registry import load_member

MakeConfig = Callable[..., ClassifierConfig]
MakeRun = Callable[..., Path]
Predict = Callable[..., PredictionTable]

RATE_HZ = 16_000


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """n0.wav to n9.wav: half a second to 1.4 s of ever darker noise; the last is labelled X."""
    folder = tmp_path_factory.mktemp("noises")
    rng = np.random.default_rng(0)
    rows = []
    for idx in range(10):
        noise = rng.standard_normal(8_000 + 1_600 * idx)
        dark = np.convolve(noise, np.ones(2 * idx + 1) / (2 * idx + 1), mode="same")
        soundfile.write(folder / f"n{idx}.wav", 0.2 * dark, RATE_HZ, subtype="PCM_16")
        rows.append(
            {
                "utterance": f"n{idx}.wav",
                "audio": f"n{idx}.wav",
                "label": "ACDFHNSUAX"[idx],
                "split": "train" if idx < 6 else "development",
                "speaker": str(idx),
                "duration_s": 0.5 + 0.1 * idx,
            }
        )
    write_manifest(make_manifest(rows, MSP_PODCAST, folder), folder / "manifest.parquet")
    return folder


@pytest.fixture(scope="session")
def manifest(corpus: Path) -> Manifest:
    from abhinaya.data.manifest import read_manifest

    return read_manifest(corpus / "manifest.parquet")


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folder of the tiny base weights of each member. This Whisper hears 2 s."""
    folder = tmp_path_factory.mktemp("bases")
    write_wavlm(folder / "wavlm", n_layers=2, n_features=16, n_conv_features=8)
    write_whisper(folder / "whisper-encoder", chunk_s=2, n_layers=2, n_features=16, init_std=0.1)
    return {name: str(folder / name) for name in ("wavlm", "whisper-encoder")}


@pytest.fixture(scope="session")
def make_config(corpus: Path, bases: dict[str, str]) -> MakeConfig:
    """A function that gives the config of a tiny member, changed by overrides."""

    def make(run_dir: Path, *overrides: str, member: str = "wavlm") -> ClassifierConfig:
        content: dict[str, Any] = {
            "member": member,
            "name": "tiny",
            "run_dir": str(run_dir),
            "data": {"manifest": str(corpus / "manifest.parquet")},
            "base": bases[member],
            "audio": {"max_audio_s": 1.0, "train_crop": "first"},
            "pooling": "mean",
            "head": {"hidden": 8},
            "training": {"global_batch_size": 4, "num_train_epochs": 2, "use_cpu": True},
        }
        config = check_member_config(apply_overrides(content, overrides), "the test")
        assert isinstance(config, ClassifierConfig)
        return config

    return make


@pytest.fixture
def make_run(make_config: MakeConfig, tmp_path: Path) -> MakeRun:
    """A function that writes `best/` of a run with random weights, and returns the run."""

    def make(*overrides: str, member: str = "wavlm", seed: int = 0, name: str = "run") -> Path:
        run = tmp_path / name
        write_run(run, make_config(run, *overrides, member=member), seed)
        return run

    return make


def write_run(run: Path, config: ClassifierConfig, seed: int = 0) -> None:
    """Write `best/` of a run with random weights."""
    torch.manual_seed(seed)
    built: Any = load_member(config.member)
    model = build_classifier(built, config, len(MSP_PODCAST))
    # Untrained, all clips would sound alike: the head is made to speak up.
    model.head.last_linear.weight.data *= 10
    (run / "best").mkdir(parents=True, exist_ok=True)
    save_checkpoint(
        run / "best",
        model,
        config_yaml=dump_yaml(config),
        emotions=MSP_PODCAST,
        metrics={"macro_f1": None, "step": 0, "n_steps": 0},
        facts={"digest": "0" * 16, "absorbed_prior": [0.125] * 8},
    )


@pytest.fixture
def predict(manifest: Manifest, tmp_path: Path) -> Predict:
    """A function that predicts a selection (all of it, unless told) with a run."""

    def run(
        run_dir: Path,
        *overrides: str,
        out: Path = tmp_path / "table.parquet",
        manifest: Manifest = manifest,
        select: str = "all",
        with_embedding: bool = False,
        member: str = "wavlm",
    ) -> PredictionTable:
        request = PredictRequest(manifest, (select,), out, with_embedding, overrides)
        return load_member(member).predict(run_dir, request)

    return run
