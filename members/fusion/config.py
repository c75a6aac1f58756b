"""Config of the member `fusion`."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from abhinaya.config import Config
from abhinaya.nn.classifier_config import ClassifierConfig

__all__ = ["TEXT", "EncoderConfig", "FusionConfig", "Layer", "LegsConfig", "TextConfig"]

TEXT = "text"
"""Name of the leg that reads."""

Layer = Literal["last", "mean", "weighted"] | NonNegativeInt
"""Which hidden states are used: the last, the mean of all, a learned softmax-weighted sum of all,
or that of a number: 0 is the input of the first block, n the output of the n-th."""


class EncoderConfig(Config):
    """One encoder of speech."""

    base: str | None = None
    """Folder or hub id of WavLM, HuBERT, wav2vec 2.0 or Whisper; None takes that of the member."""
    layer: Layer = "last"
    """Which hidden state is read: the last, a number, their mean, or their weighted sum."""
    freeze: Literal["encoder", "convolutions", "nothing"] = "encoder"
    """What of it is not trained: all, its convolutional extractor (not of Whisper), or nothing."""


class TextConfig(Config):
    """The encoder of the transcript."""

    base: str
    """Folder or hub id of RoBERTa, BERT, ModernBERT or their kin."""
    layer: Layer = "last"
    """Which hidden state is read, as of the encoders."""
    freeze: Literal["encoder", "nothing"] = "encoder"
    """What of it is not trained: all, or nothing."""
    max_tokens: PositiveInt = 128
    """Tokens that are kept of a transcript, special ones included; longer ones lose their end."""


class LegsConfig(Config):
    """The small transformer on each encoder; all numbers but `n_layers` and `n_heads` are ours."""

    width: PositiveInt = 256
    """Features of a leg."""
    n_layers: PositiveInt = 2
    """Transformer layers of a leg."""
    n_heads: PositiveInt = 1
    """Attention heads; they must divide the width."""
    feed_forward: PositiveInt = 512
    """Width inside the feed-forward part of a layer."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """In the transformer layers."""

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.width % self.n_heads:
            raise ValueError(
                f"n_heads is {self.n_heads}, which does not divide the width {self.width}"
            )
        return self


class FusionConfig(ClassifierConfig):
    """What is specific to the fusion of several encoders."""

    base: str = ""
    """For encoders that name none of their own."""
    encoders: dict[str, EncoderConfig] = Field(default_factory=dict)
    """Encoders of speech by names of your choice; None takes one out."""
    text: TextConfig | None = None
    """The encoder of the transcript; None hears only."""
    fusion: Literal["deep", "cross-attention"] = "deep"
    """How the legs meet: see `members/fusion/fuse.py`."""
    legs: LegsConfig = LegsConfig()
    pooling: Literal["mean"] = "mean"
    """Each leg takes the mean over its real frames."""

    @field_validator("encoders", mode="before")
    @classmethod
    def _without_absent_ones(cls, value: Any) -> Any:
        return (
            {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value
        )

    @field_validator("encoders")
    @classmethod
    def _check_names(cls, value: dict[str, EncoderConfig]) -> dict[str, EncoderConfig]:
        wrong = [name for name in value if not re.fullmatch(r"[\w-]+", name) or name == TEXT]
        if wrong:
            raise ValueError(
                f"the name {wrong[0]!r} does not suit; take letters, digits, - and _, but not "
                f"{TEXT!r}"
            )
        # The model must not depend on an order that no digest tells.
        return dict(sorted(value.items()))

    @property
    def n_legs(self) -> int:
        """How many encoders there are."""
        return len(self.encoders) + (self.text is not None)

    def base_of(self, name: str) -> str:
        """Return where the weights of an encoder of speech lie."""
        return self.encoders[name].base or self.base

    @model_validator(mode="after")
    def _check_legs(self) -> Self:
        if not self.n_legs:
            raise ValueError(
                "encoders is empty and text is not set; name at least one encoder, such as "
                "encoders: {whisper: {base: openai/whisper-large-v3}}"
            )
        if self.fusion == "cross-attention" and self.n_legs < 2:
            raise ValueError(
                "fusion is 'cross-attention', but there is one encoder only; name another one, or "
                "set fusion to deep"
            )
        seen: dict[tuple[str, Layer], str] = {}
        for name, encoder in self.encoders.items():
            base = self.base_of(name)
            if not base:
                raise ValueError(f"encoders.{name}.base is missing, and so is base")
            same = seen.setdefault((base, encoder.layer), name)
            if same != name:
                raise ValueError(
                    f"encoders.{same} and encoders.{name} are the same layer of {base!r}; remove "
                    "one of them, or choose another layer"
                )
        return self

    @model_validator(mode="after")
    def _check_no_speaker_scaling(self) -> Self:
        if self.speaker_scaling is not None:
            raise ValueError(
                "speaker_scaling scales the features of members with one encoder; remove it"
            )
        return self

    @model_validator(mode="after")
    def _check_trained(self) -> Self:
        given: dict[str, EncoderConfig | TextConfig] = {
            f"encoders.{name}": encoder for name, encoder in self.encoders.items()
        }
        if self.text is not None:
            given[TEXT] = self.text
        for key, encoder in given.items():
            if encoder.freeze == "encoder":
                continue
            if isinstance(encoder.layer, int):
                raise ValueError(
                    f"{key}.layer is {encoder.layer}, but the encoder is trained, and the blocks "
                    f"above would learn nothing; set {key}.layer to last, mean or weighted, or "
                    f"{key}.freeze to encoder"
                )
            if self.cache is not None:
                raise ValueError(
                    f"cache keeps what is computed once, but {key}.freeze is {encoder.freeze!r}; "
                    "set it to encoder, or remove cache"
                )
        return self
