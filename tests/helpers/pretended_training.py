"""A corpus without sound, and a training that takes no time: its run is as good as its config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from abhinaya.data.labels import EmotionSet
from abhinaya.data.manifest import Manifest, make_manifest, write_manifest
from abhinaya.data.predictions import PredictionTable, read_table, write_table
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.pipeline.trials import variants

__all__ = ["Trainings", "pretended_trainings", "write_member"]

FOUR = EmotionSet(("A", "H", "N", "S"), ("angry", "happy", "neutral", "sad"))
N_ROWS = 60


def write_member(folder: Path, **settings: Any) -> Path:
    """The config of a member, and a manifest of 60 rows to score, 8 to train on and one of X."""
    splits = ["train"] * 8 + ["development"] * N_ROWS
    rows = [
        {
            "utterance": f"u{idx}.wav",
            "split": split,
            "label": "AHNS"[idx % 4],
            "speaker": f"s{idx % 6}",
        }
        for idx, split in enumerate(splits)
    ]
    rows.append({"utterance": "x.wav", "split": "development"})
    manifest = folder / "manifest.parquet"
    write_manifest(make_manifest(rows, FOUR, folder), manifest)
    content = {
        "member": "wavlm",
        "base": "nowhere",
        "data": {"manifest": str(manifest)},
        "loss": {"name": "focal", "gamma": 1},
        "head": {"hidden": 4, "dropout": 0.25},
        "training": {"global_batch_size": 4},
        **settings,
    }
    path = folder / "member.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


class Trainings:
    """What was trained, and how many rows a config gets wrong: settable."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.n_wrong: Callable[[ClassifierConfig], float] = lambda config: (
            10 * abs((config.loss.gamma or 0) - 1) + 20 * config.head.dropout
        )
        self.before: Callable[[str], None] = lambda name: None

    def __call__(
        self, config: ClassifierConfig, manifest: Manifest, selection: tuple[str, ...], out: Path
    ) -> PredictionTable:
        if out.is_file():
            return read_table(out)
        name = f"{out.parent.name}/{out.stem}"
        self.before(name)
        rows = manifest.select(selection)
        labels = manifest.emotions.encode(rows["label"])
        labels[labels < 0] = 0
        rng = np.random.default_rng(config.seed)
        n_wrong = round(self.n_wrong(config)) + config.seed % 2
        wrong = rng.permutation(N_ROWS)[:n_wrong]
        labels[wrong] = (labels[wrong] + 1) % 4
        table = PredictionTable(config.name, manifest.emotions, tuple(rows["utterance"]), labels)
        write_table(table, out)
        self.done.append(name)
        return table


@pytest.fixture
def pretended_trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    """In place of every training of a trial."""
    trainings = Trainings()
    monkeypatch.setattr(variants, "train_and_predict", trainings)
    return trainings
