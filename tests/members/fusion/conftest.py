"""Tiny encoders, and configs of fusions of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from member_recipes import tiny_encoders

from abhinaya.config import merge
from abhinaya.member_config import check_member_config
from members.fusion.config import FusionConfig

MakeConfig = Callable[..., FusionConfig]


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `wavlm`, `whisper` and `roberta`."""
    folder = tmp_path_factory.mktemp("bases")
    tiny_encoders(folder)
    return folder


@pytest.fixture
def make_config(bases: Path, tmp_path: Path) -> MakeConfig:
    """A function that gives the config of a fusion, changed by nested keys."""

    def make(**changes: Any) -> FusionConfig:
        content = {
            "member": "fusion",
            "name": "tiny",
            "run_dir": str(tmp_path / "run"),
            "data": {"manifest": "manifest.parquet", "transcripts": "human"},
            "encoders": {
                "wavlm": {"base": str(bases / "wavlm")},
                "whisper": {"base": str(bases / "whisper")},
            },
            "text": {"base": str(bases / "roberta")},
            "legs": {"width": 8, "feed_forward": 8},
            "audio": {"max_audio_s": 2.0},
            "training": {"global_batch_size": 4},
        }
        config = check_member_config(merge(content, changes), "the test")
        assert isinstance(config, FusionConfig)
        return config

    return make
