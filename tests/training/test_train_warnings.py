"""What training says before it starts."""

from __future__ import annotations

import logging

import pytest


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
