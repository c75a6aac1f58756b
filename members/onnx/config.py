"""Config of the member `onnx`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, PositiveInt

from abhinaya.config import Config, MemberConfig
from abhinaya.export.folder import INFO

__all__ = ["OnnxConfig", "OnnxInferenceConfig"]


class OnnxInferenceConfig(Config):
    """How predictions are computed; none of it changes a result by more than rounding."""

    batch_size: PositiveInt = 16
    """Clips at once. `int8` rounds by what stands beside, so there each segment runs alone."""
    num_workers: int = Field(default=0, ge=0)
    """Processes that read audio beside the main one."""


class OnnxConfig(MemberConfig):
    """Which export labels; how it hears a clip stands in the export."""

    base: str
    """Folder that `abhinaya export` wrote."""
    inference: OnnxInferenceConfig = OnnxInferenceConfig()

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """What tells a chain that the export is another: it has the hash of the model."""
        return (Path(self.base) / INFO,)
