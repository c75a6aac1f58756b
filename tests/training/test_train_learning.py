"""Tiny members learn sixteen clips by heart."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from abhinaya.data.manifest import Manifest

Train = Callable[..., Path]

LONG = (
    "data.train=sixteen",
    "data.validation=sixteen",
    "audio.train_crop=centre",
    "head.dropout=0",
    "head.hidden=32",
    "spec_augment=false",
    "training.warmup_steps=5",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        # What stands on top of an encoder that is not trained.
        (
            "freeze=encoder",
            "layer_weights=true",
            "standardize=true",
            "pooling=attentive-statistics",
            "training.num_train_epochs=40",
        ),
        # All of it.
        ("freeze=nothing", "training.learning_rate=0.003", "training.num_train_epochs=100"),
    ],
    ids=["frozen", "trained"],
)
def test_member_learns_sixteen_clips_by_heart(
    train: Train, manifest: Manifest, wavlm_without_dropout: str, overrides: tuple[str, ...]
) -> None:
    rows = manifest.select("train:A,C,D,F,H,N,S,U").groupby("label").head(2)
    assert len(rows) == 16
    subsets = {**manifest.subsets, "sixteen": tuple(rows["utterance"])}
    run = train(
        f"base={wavlm_without_dropout}",
        *LONG,
        *overrides,
        manifest=replace(manifest, subsets=subsets),
    )
    with (run / "log.csv").open(newline="", encoding="utf-8") as file:
        log = list(csv.DictReader(file))
    losses = [float(row["loss"]) for row in log if row["loss"]]
    # log 8 = 2.08 is what guessing costs.
    assert losses[0] > 1.5
    assert losses[-1] < 0.3
    assert max(float(row["eval_accuracy"]) for row in log if row["eval_accuracy"]) == 1.0
