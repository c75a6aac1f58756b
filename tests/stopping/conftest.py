from __future__ import annotations

from training_runs import (
    make_config,
    manifest,
    manifest_file,
    train,
    trained,
    wavlm,
    wavlm_without_dropout,
)

__all__ = [
    "make_config",
    "manifest",
    "manifest_file",
    "train",
    "trained",
    "wavlm",
    "wavlm_without_dropout",
]
