"""Config of the member `whisper-encoder`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from abhinaya.config import Config
from abhinaya.nn.classifier_config import ClassifierConfig

__all__ = ["LoraConfig", "WhisperEncoderConfig"]


class LoraConfig(Config):
    """Low-rank adapters on the feed-forward layers of the upper half of the encoder."""

    rank: PositiveInt = 16
    """Rank of the adapters."""
    alpha: PositiveFloat = 32.0
    """The adapters' output is multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Before the adapters, in training."""


class WhisperEncoderConfig(ClassifierConfig):
    """What is specific to Whisper's encoder as the backbone."""

    freeze: Literal["encoder", "nothing"] = "encoder"
    """What is not trained: the encoder (adapters aside), or nothing."""
    lora: LoraConfig | None = None
    """Train low-rank adapters in the frozen encoder; None trains none."""
    layer_weights: bool = False
    """Learn a softmax-weighted sum of all hidden states; otherwise the last one is used."""
    standardize: bool = False
    """Scale each feature of the hidden states by its mean and deviation over training frames."""
    average_frames: bool = False
    """Average the hidden states over time before anything is learned from them."""
    pointwise: tuple[PositiveInt, ...] = (256, 256, 256)
    """Widths of the convolutions of one frame on top of the encoder; an empty list for none."""
    pointwise_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout between those convolutions."""

    @model_validator(mode="after")
    def _check_frozen(self) -> Self:
        if self.lora is not None and self.freeze != "encoder":
            raise ValueError(
                "lora is set but freeze is 'nothing'; adapters belong into a frozen encoder. Set "
                "freeze to encoder, or lora to null"
            )
        for key in ("standardize", "average_frames"):
            if getattr(self, key) and (self.freeze != "encoder" or self.lora is not None):
                raise ValueError(
                    f"{key} is true but the encoder is trained; it is meant for an encoder that is "
                    f"not trained. Set freeze to encoder and lora to null, or {key} to false"
                )
        return self
