from __future__ import annotations

from killed_training import kill_in_step
from still_members import configs
from training_runs import (
    make_config,
    manifest,
    manifest_file,
    train,
    trained,
    wavlm,
    wavlm_without_dropout,
    whisper,
)

__all__ = [
    "configs",
    "kill_in_step",
    "make_config",
    "manifest",
    "manifest_file",
    "train",
    "trained",
    "wavlm",
    "wavlm_without_dropout",
    "whisper",
]
