from __future__ import annotations

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
    "make_config",
    "manifest",
    "manifest_file",
    "train",
    "trained",
    "wavlm",
    "wavlm_without_dropout",
    "whisper",
]
