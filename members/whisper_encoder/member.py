"""The member `whisper-encoder`: from its config to backbone and model inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from abhinaya.data.audio import SAMPLE_RATE_HZ
from abhinaya.errors import BadValueError
from abhinaya.member import InputBuilder, Utterance
from abhinaya.nn.backbone import Backbone, freeze
from abhinaya.nn.lora import add_lora
from abhinaya.nn.whisper import SAMPLES_PER_FRAME, load_encoder, load_feature_extractor, log_mel
from abhinaya.training.classifier_member import ClassifierMember
from members.whisper_encoder.config import WhisperEncoderConfig
from members.whisper_encoder.model import LogMelFrontEnd, WhisperBackbone, upper_half

if TYPE_CHECKING:
    from transformers import WhisperFeatureExtractor

__all__ = ["MEMBER", "LogMelInputs", "WhisperEncoderMember"]


class LogMelInputs:
    """Log-mel spectrograms of the model's whole window, and how much of it is real.

    Args:
        extractor: from `load_feature_extractor`; its `n_samples` is the window.
    """

    needs_audio = True
    needs_text = False

    def __init__(self, extractor: WhisperFeatureExtractor) -> None:
        self.extractor = extractor

    @property
    def window_s(self) -> float:
        """Seconds that the model hears at once."""
        return float(self.extractor.n_samples / SAMPLE_RATE_HZ)

    def encode(self, utterance: Utterance) -> dict[str, Any]:
        """Return `input_features`, shape (n_mels, F), and `n_frames`, those that are real.

        Raises:
            BadValueError: if the waveform is missing or longer than the window.
        """
        waveform = utterance.waveform
        if waveform is None:
            raise BadValueError(
                f"{utterance.name!r} comes without a waveform, which Whisper's encoder needs. "
                "Read its audio first."
            )
        if len(waveform) > self.extractor.n_samples:
            raise BadValueError(
                f"{utterance.name!r} has {len(waveform) / SAMPLE_RATE_HZ:g} s, but the model hears "
                f"{self.window_s:g} s at once. Set audio.max_audio_s to {self.window_s:g} and the "
                "crops to anything but full."
            )
        n_frames = max(1, -(-len(waveform) // SAMPLES_PER_FRAME))
        return {"input_features": log_mel(self.extractor, waveform), "n_frames": n_frames}

    def collate(self, encoded: list[dict[str, Any]]) -> dict[str, Any]:
        """Return `input_features`, shape (B, n_mels, F), and `n_frames`, shape (B,)."""
        features = np.stack([inputs["input_features"] for inputs in encoded])
        return {
            "input_features": torch.from_numpy(features),
            "n_frames": torch.tensor([inputs["n_frames"] for inputs in encoded]),
        }


class WhisperEncoderMember(ClassifierMember):
    """Whisper's encoder under a classification head."""

    config_class = WhisperEncoderConfig

    def build_backbone(self, config: WhisperEncoderConfig) -> Backbone:
        """Load the encoder that `config.base` names, frozen and adapted as the config says."""
        encoder = load_encoder(config.base)
        if config.freeze == "encoder":
            freeze(encoder)
        if config.lora is not None:
            add_lora(
                encoder,
                rank=config.lora.rank,
                alpha=config.lora.alpha,
                dropout=config.lora.dropout,
                target_modules=upper_half(encoder),
            )
        return WhisperBackbone(
            encoder,
            layer_weights=config.layer_weights,
            standardize=config.standardize,
            average_frames=config.average_frames,
            pointwise=config.pointwise,
            pointwise_dropout=config.pointwise_dropout,
        )

    def build_inputs(self, config: WhisperEncoderConfig) -> InputBuilder:
        """Return log-mel spectrograms of the model's window.

        Raises:
            BadValueError: if the config lets through longer clips than the model hears.
        """
        inputs = LogMelInputs(load_feature_extractor(config.base))
        if config.audio.max_audio_s > inputs.window_s:
            raise BadValueError(
                f"audio.max_audio_s is {config.audio.max_audio_s:g}, but {config.base!r} hears "
                f"{inputs.window_s:g} s at once. Set it to {inputs.window_s:g} or less."
            )
        return inputs

    def build_front_end(self, config: WhisperEncoderConfig) -> LogMelFrontEnd:
        """Return what makes log-mel spectrograms inside an exported graph."""
        return LogMelFrontEnd(load_feature_extractor(config.base))


MEMBER = WhisperEncoderMember()
