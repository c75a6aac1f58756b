"""Trainings that mix clips and vectors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kills import KilledError

from abhinaya.config import dump_yaml
from abhinaya.data.manifest import Manifest
from abhinaya.errors import BadValueError
from abhinaya.training.train import training_digest

Train = Callable[..., Path]

MIXING = (
    "loss.name=kl-divergence",
    "mixing.clips={probability: 0.7, max_silence_s: 0.1}",
    "mixing.manifold={probability: 0.6}",
)
SETTINGS = (
    *MIXING,
    "training.per_device_train_batch_size=4",
    "training.save_strategy=steps",
    "training.save_steps=2",
    "training.save_total_limit=9",
)


def weights(run: Path) -> bytes:
    return (run / "best" / "model.safetensors").read_bytes()


def test_runs_without_mixing_keep_their_digest(
    make_config: Callable[..., Any], manifest: Manifest
) -> None:
    config = make_config(Path("run"))
    assert "mixing" not in dump_yaml(config)
    manifold = make_config(Path("run"), "mixing.manifold={}")
    assert training_digest(config, manifest) != training_digest(manifold, manifest)


@pytest.mark.slow
def test_mixed_training_resumes_to_the_same_bytes_with_other_workers(
    train: Train, tmp_path: Path, kill_in_step: Callable[[int], None], caplog: Any
) -> None:
    caplog.set_level(logging.WARNING, logger="abhinaya")
    whole = train(*SETTINGS)
    assert "mixing.manifold mixes the 4 rows that one device sees at once" in caplog.text
    kill_in_step(8)
    with pytest.raises(KilledError):
        train(*SETTINGS, run_dir=tmp_path / "run")
    kill_in_step(0)
    resumed = train(*SETTINGS, "training.dataloader_num_workers=1", run_dir=tmp_path / "run")
    assert weights(resumed) == weights(whole)
    assert weights(train(*SETTINGS, MIXING[1].replace("0.7", "0"))) != weights(whole)
    assert weights(train(*SETTINGS, MIXING[2].replace("0.6", "0"))) != weights(whole)


def test_single_rows_cannot_be_mixed(train: Train, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(BadValueError, match=r"each device of 'tiny' has one row at once\. Set"):
        train("mixing.manifold={}", "training.per_device_train_batch_size=1", run_dir=run)
    assert not run.exists()


def test_one_class_of_clips_leaves_no_folder_behind(train: Train, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(BadValueError, match=r"usable training rows have 1 of them"):
        train(*MIXING, "data.train=train:N", run_dir=run)
    assert not run.exists()
