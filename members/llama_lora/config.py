"""Config of the member `llama-8b-lora`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from abhinaya.config import Config
from abhinaya.nn.classifier_config import ClassifierConfig

__all__ = ["LlamaLoraConfig", "LoraConfig"]


class LoraConfig(Config):
    """Low-rank adapters in the language model, which itself stays frozen."""

    rank: PositiveInt = 8
    """Rank of the adapters."""
    alpha: PositiveFloat = 32.0
    """The adapters' output is multiplied by alpha / rank."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Before the adapters, in training."""
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    """Ends of the names of the layers that get adapters, as the language model calls them."""

    @field_validator("target_modules", mode="before")
    @classmethod
    def _one_name_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("target_modules")
    @classmethod
    def _check_targets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("is empty; name at least one layer, such as q_proj")
        return value


class LlamaLoraConfig(ClassifierConfig):
    """What is specific to a language model that reads the transcript. `audio` is not used."""

    weights: Literal["float32", "bf16", "fp16", "int8", "nf4"] = "bf16"
    """Number type of the frozen language model; `int8` and `nf4` need bitsandbytes."""
    lora: LoraConfig = LoraConfig()
    suffix: str = "</s>"
    """Text put behind every transcript."""
    max_tokens: PositiveInt = 128
    """Tokens that are kept of transcript and suffix; what is longer loses its end."""
    special_tokens: bool = Field(default=False, strict=True)
    """Add the tokenizer's own special tokens, which for LLaMA is one for the beginning."""
    classifier: Path | None = None
    """A trained classifier in the layout of Abhinaya's public code. With it the member predicts
    without training; a training starts with its adapters."""
