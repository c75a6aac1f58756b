"""The member `wavlm`: from the config to backbone and model inputs."""

from __future__ import annotations

from typing import Any

import torch

from abhinaya.data.audio import pad_waveforms
from abhinaya.export.graph import WaveformFrontEnd
from abhinaya.member import InputBuilder, Utterance
from abhinaya.nn.backbone import Backbone
from abhinaya.training.classifier_member import ClassifierMember
from members.wavlm.config import WavLMConfig
from members.wavlm.model import WavLMBackbone

__all__ = ["MEMBER", "WavLM", "WaveformInputs"]


class WaveformInputs:
    """Waveforms as they are, padded to the longest of a batch."""

    needs_audio = True
    needs_text = False

    def encode(self, utterance: Utterance) -> dict[str, Any]:
        """Return `waveform`, shape (S,)."""
        return {"waveform": utterance.waveform}

    def collate(self, encoded: list[dict[str, Any]]) -> dict[str, Any]:
        """Return `waveforms` and `mask`, both of shape (B, S)."""
        waveforms, mask = pad_waveforms([inputs["waveform"] for inputs in encoded])
        return {"waveforms": torch.from_numpy(waveforms), "mask": torch.from_numpy(mask)}


class WavLM(ClassifierMember):
    """WavLM, HuBERT or wav2vec 2.0 under a classification head."""

    config_class = WavLMConfig

    def build_backbone(self, config: WavLMConfig) -> Backbone:
        """Return the encoder that `config.base` names, frozen and mixed as the config says."""
        return WavLMBackbone.from_pretrained(
            config.base,
            freeze=config.freeze,
            layer_weights=config.layer_weights,
            standardize=config.standardize,
            average_frames=config.average_frames,
            spec_augment=config.spec_augment,
            mask_time=config.mask_time,
        )

    def build_inputs(self, config: WavLMConfig) -> InputBuilder:
        """Return padded waveforms."""
        return WaveformInputs()

    def build_front_end(self, config: WavLMConfig) -> WaveformFrontEnd:
        """Return what an exported graph does with waveforms before the encoder: nothing."""
        return WaveformFrontEnd()


MEMBER = WavLM()
