"""Configs of the member `wavlm`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from abhinaya.config import is_unset
from abhinaya.nn.classifier_config import ClassifierConfig

__all__ = ["WavLMConfig"]


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
    mask_time: float | None = Field(default=None, gt=0, lt=1, exclude_if=is_unset)
    """Share of the frames that `spec_augment` masks; None takes the encoder's own."""

    @model_validator(mode="after")
    def _check_frozen(self) -> Self:
        if self.mask_time is not None and not self.spec_augment:
            raise ValueError(
                f"mask_time is {self.mask_time:g} but spec_augment is false, so nothing is masked. "
                "Set spec_augment to true, or remove mask_time"
            )
        for key in ("standardize", "average_frames"):
            if getattr(self, key) and self.freeze != "encoder":
                raise ValueError(
                    f"{key} is true but freeze is {self.freeze!r}; it is meant for an encoder that "
                    f"is not trained. Set freeze to encoder, or {key} to false"
                )
        return self
