"""The config of `salmonn-zero-shot`, whose model takes seconds to import."""

from __future__ import annotations

from abhinaya.config import Config
from abhinaya.nn.classifier_config import AudioConfig, InferenceConfig
from members.salmonn.config import SalmonnSources

__all__ = ["Decoding", "SalmonnZeroShotConfig"]


class Decoding(Config):
    """How an answer is generated: beam search, without sampling."""

    n_beams: int = 4
    """1 takes the likeliest token each time."""
    max_new_tokens: int = 10
    """Longest answer."""


class SalmonnZeroShotConfig(SalmonnSources):
    """SALMONN as it was published, and how it is asked."""

    audio: AudioConfig = AudioConfig(max_audio_s=30.0, eval_crop="first")
    decoding: Decoding = Decoding()
    inference: InferenceConfig = InferenceConfig(batch_size=4)
