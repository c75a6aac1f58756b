"""What training says before it starts."""

from __future__ import annotations

import logging
import os
import re

import pytest

from abhinaya.errors import BadValueError
from abhinaya.files import sole_writer


@pytest.mark.parametrize(
    ("reduction", "per_device", "is_warned"),
    [("weight-normalised", 2, True), ("mean", 2, False), ("weight-normalised", 8, False)],
)
def test_train_weights_of_a_split_batch_are_mentioned(
    train, caplog, reduction, per_device, is_warned
):
    caplog.set_level(logging.WARNING, logger="abhinaya")
    train(
        "loss.name=cross-entropy",
        "loss.class_weights=inverse",
        f"loss.reduction={reduction}",
        "training.global_batch_size=8",
        f"training.per_device_train_batch_size={per_device}",
        "training.max_steps=1",
        "training.save_strategy=steps",
        "training.save_steps=1",
    )
    assert ("each 2 rows that one device sees at once" in caplog.text) is is_warned


def test_train_tells_a_loss_whenever_it_validates(train, caplog):
    """With steps for epochs it said "loss nan"."""
    caplog.set_level(logging.INFO, logger="abhinaya")
    train("training.save_strategy=steps", "training.save_steps=2", "training.max_steps=2")
    assert re.search(r"loss \d\.\d+, validation macro-F1", caplog.text)
    caplog.clear()
    train(
        *("training.save_strategy=steps", "training.save_steps=2", "training.max_steps=2"),
        "training.logging_strategy=no",
    )
    assert "validation macro-F1" in caplog.text
    assert "nan" not in caplog.text


def test_train_with_more_workers_than_cores_takes_the_cores(train, recwarn, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    train("training.dataloader_num_workers=2", "training.max_steps=1")
    assert not [w for w in recwarn if "worker processes" in str(w.message)]


def test_train_into_a_folder_that_another_training_writes_raises(train, tmp_path):
    with (
        sole_writer(tmp_path / "run", "run_dir"),
        pytest.raises(BadValueError, match=r"run' is being written by process \d+ on .* run_dir\."),
    ):
        train("training.max_steps=1", run_dir=tmp_path / "run")
    train("training.max_steps=1", run_dir=tmp_path / "run")
