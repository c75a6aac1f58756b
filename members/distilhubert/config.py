"""Configs of the member `distilhubert`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from abhinaya.config import merge
from abhinaya.nn.classifier_config import ClassifierConfig

__all__ = ["DistilHubertConfig"]

_DEFAULTS = {
    "base": "ntu-spml/distilhubert",
    "loss": {"name": "adaptive-focal"},
    "audio": {
        "augment": {
            "speed": {"probability": 0.25, "range": [0.9, 1.1]},
            "shift": {"probability": 0.25, "range": [-0.1, 0.1]},
            "gain": {"probability": 0.5, "range": [-6, 6]},
            "noise": {"probability": 0.3, "range": [15, 40]},
            "time_mask": {"probability": 0.25, "range": [0.05, 0.5]},
        }
    },
}


class DistilHubertConfig(ClassifierConfig):
    """The keys of `wavlm` that a model of two layers needs, and defaults of its own.

    The study of DistilHuBERT on phones (arXiv:2512.23435) names an adaptive focal loss and
    stochastic augmentation without saying which; these are our choice.
    """

    freeze: Literal["convolutions", "encoder", "nothing"] = "convolutions"
    """What is not trained: the convolutional extractor, the whole encoder, or nothing."""
    layer_weights: bool = False
    """Learn a softmax-weighted sum of all hidden states; otherwise the last one is used."""
    spec_augment: bool = False
    """Mask spans of frames in training, as much as the encoder's own config says."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        return merge(_DEFAULTS, data) if isinstance(data, dict) else data
