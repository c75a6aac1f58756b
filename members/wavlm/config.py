"""Configs of the members `wavlm` and `distilhubert`."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import model_validator

from abhinaya.config import merge
from abhinaya.nn.classifier_config import ClassifierConfig

__all__ = ["DistilHubertConfig", "WavLMConfig"]

_FOR_PHONES = {
    "base": "ntu-spml/distilhubert",
    "spec_augment": False,  # as its config.json has it
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


class WavLMConfig(ClassifierConfig):
    """What is specific to WavLM, HuBERT and wav2vec 2.0 as the backbone."""

    freeze: Literal["convolutions", "encoder", "nothing"] = "convolutions"
    """What is not trained: the convolutional extractor, the whole encoder, or nothing."""
    layer_weights: bool = False
    """Learn a softmax-weighted sum of all hidden states; otherwise the last one is used."""
    standardize: bool = False
    """Scale each feature of the hidden states by its mean and deviation over training frames."""
    average_frames: bool = False
    """Average the hidden states over time before anything is learned from them."""
    spec_augment: bool = True
    """Mask spans of frames in training, as the encoder's own config says."""

    @model_validator(mode="after")
    def _check_frozen(self) -> Self:
        for key in ("standardize", "average_frames"):
            if getattr(self, key) and self.freeze != "encoder":
                raise ValueError(
                    f"{key} is true but freeze is {self.freeze!r}; it is meant for an encoder that "
                    f"is not trained. Set freeze to encoder, or {key} to false"
                )
        return self


class DistilHubertConfig(WavLMConfig):
    """The same keys, of which some have other defaults.

    The study of DistilHuBERT on phones (arXiv:2512.23435) names an adaptive focal loss and
    stochastic augmentation without saying which; these are our choice.
    """

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        return merge(_FOR_PHONES, data) if isinstance(data, dict) else data
