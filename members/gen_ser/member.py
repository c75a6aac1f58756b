"""The member `gen-ser`: from its config to backbone, model and inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from abhinaya.config import check_config
from abhinaya.data.audio import utterance_rng
from abhinaya.member import InputBuilder, Utterance
from abhinaya.nn.backbone import Backbone
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.registry import load_member
from abhinaya.training.classifier_member import ClassifierMember
from members.gen_ser.config import GenSerConfig
from members.gen_ser.model import TransportBackbone, TransportClassifier

if TYPE_CHECKING:
    from abhinaya.nn.classifier import EmotionClassifier

__all__ = ["MEMBER", "GenSer", "SeededInputs"]

_READ_BY = {"hubert": "wavlm", "whisper": "whisper-encoder"}
"""The member that reads a kind of backbone."""

_BEFORE_TRAINING = -1
"""In place of an epoch, for what is drawn in prediction."""


class SeededInputs:
    """Another member's inputs, and a seed for the noise of each utterance.

    A seed depends on the run's seed, the utterance and, in training, the epoch; on nothing else.

    Args:
        speech: makes the encoder's inputs.
        seed: of the run.
    """

    needs_audio = True
    needs_text = False

    def __init__(self, speech: InputBuilder, seed: int) -> None:
        self.speech = speech
        self.seed = seed

    def encode(self, utterance: Utterance) -> dict[str, Any]:
        """Return `speech`, what the encoder hears, and `seed`."""
        return {"speech": self.speech.encode(utterance), **self.encode_context(utterance)}

    def collate(self, encoded: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the encoder's batch, and `seeds`, shape (B,)."""
        batch = self.speech.collate([inputs["speech"] for inputs in encoded])
        return batch | self.collate_context(encoded)

    def encode_context(self, utterance: Utterance) -> dict[str, Any]:
        """Return `seed`."""
        epoch = _BEFORE_TRAINING if utterance.epoch is None else utterance.epoch
        return {"seed": int(utterance_rng(self.seed, epoch, utterance.name).integers(2**63))}

    def collate_context(self, encoded: list[dict[str, Any]]) -> dict[str, Any]:
        """Return `seeds`, shape (B,)."""
        return {"seeds": torch.tensor([inputs["seed"] for inputs in encoded])}


class GenSer(ClassifierMember):
    """Gen-SER over a frozen encoder that another member reads."""

    config_class = GenSerConfig

    def build_backbone(self, config: GenSerConfig) -> Backbone:
        """Load the encoder that `config.base` names, frozen."""
        reader, settings = _reader(config)
        speech = reader.build_backbone(settings)
        encoder: Any = speech.encoder
        n_layers = encoder.config.num_hidden_layers + 1
        return TransportBackbone(speech, n_layers, standardize=config.standardize)

    def build_inputs(self, config: GenSerConfig) -> InputBuilder:
        """Return the encoder's inputs, with seeds."""
        reader, settings = _reader(config)
        return SeededInputs(reader.build_inputs(settings), config.seed)

    def build_on(
        self,
        backbone: Backbone,
        config: GenSerConfig,
        n_classes: int,
        class_counts: Sequence[int] | None = None,
    ) -> EmotionClassifier:
        """Build the estimator; its loss needs no counts."""
        del class_counts
        return TransportClassifier(backbone, config, n_classes)


def _reader(config: GenSerConfig) -> tuple[ClassifierMember, ClassifierConfig]:
    """Return the member that reads `base`, and its config: all layers, averaged over time."""
    name = _READ_BY[config.backbone]
    reader = cast("ClassifierMember", load_member(name))
    content = config.model_dump(mode="json", include=set(ClassifierConfig.model_fields)) | {
        "member": name,
        "freeze": "encoder",
        "layer_weights": True,
        "average_frames": True,
        **({"pointwise": ()} if config.backbone == "whisper" else {}),
    }
    return reader, check_config(content, reader.config_class, config.name)


MEMBER = GenSer()
