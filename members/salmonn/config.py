"""Configs of the SALMONN members."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from abhinaya.config import Config, MemberConfig
from abhinaya.nn.classifier_config import AudioConfig, ClassifierConfig

__all__ = ["LoraConfig", "PromptPool", "SalmonnConfig", "SalmonnSources", "StoredPrompts"]

Weights = Literal["float32", "bf16", "fp16", "int8", "nf4"]


class LoraConfig(Config):
    """What the SALMONN checkpoint does not tell of its low-rank adapters; it tells the rest."""

    alpha: PositiveFloat = 32.0
    """The adapters' output is multiplied by alpha / rank."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Before the adapters, in training."""


class PromptPool(Config):
    """Prompts in SALMONN's own format, a JSON file of tasks and their texts."""

    file: Path
    """The JSON file."""
    task: str = "emotion_recognition"
    """Its key; the texts below it are the prompts."""


class StoredPrompts(Config):
    """What prompts said when they were read, so that an edited file changes no trained run."""

    prompt: tuple[str, ...]
    """What `prompt` named; other names are read anew."""
    prompt_pool: PromptPool | None
    turns: tuple[tuple[tuple[str, str], ...], ...]
    """Role and text of each turn, prompt by prompt."""
    names: tuple[str, ...]
    """The name of each."""


class SalmonnSources(MemberConfig):
    """Where the parts of a SALMONN lie, and how they are put together."""

    base: str
    """Folder or hub id of Vicuna."""
    whisper: str
    """Whisper whose encoder hears the speech; SALMONN's is `openai/whisper-large-v2`."""
    beats: Path
    """Official checkpoint file of BEATs; SALMONN's is iter3+, fine-tuned on AudioSet, cpt2."""
    salmonn: Path
    """`salmonn_v1.pth` (13B) or `salmonn_7b_v0.pth`: Q-Former, projection, adapters."""
    qformer: str | None = None
    """Folder with the config.json of the BERT that the Q-Former was made of, for what weights do
    not tell (heads, epsilon); None for BERT's own: heads of 64 features, epsilon 1e-12."""
    window_s: PositiveFloat = 0.333333
    """Seconds of sound that become one speech token (times the number of queries)."""
    stride_s: PositiveFloat | None = None
    """Seconds from one window to the next; None for windows side by side."""
    lora: LoraConfig = LoraConfig()
    llm_weights: Weights = "bf16"
    """Number type of the frozen language model; `int8` and `nf4` need bitsandbytes."""
    whisper_weights: Literal["float32", "bf16", "fp16"] = "float32"
    """Number type of Whisper's encoder. BEATs always computes in float32."""
    trim_padding: bool = False
    """Encode only the windows that hold sound, instead of the 30 s that Whisper was trained on:
    much cheaper for short clips, but another computation with other results."""
    audio: AudioConfig = AudioConfig()
    prompt: tuple[str, ...]
    """Names of shipped prompts, or .md files; the first one is used unless they are sampled."""
    prompt_pool: PromptPool | None = None
    """User turns in place of that of `prompt`, which then is one; for instance SALMONN's own."""
    stored_prompts: StoredPrompts | None = None
    """Written by training and prediction: the texts behind `prompt` and `prompt_pool`."""
    prompt_template: str = "USER: {}\nASSISTANT:"
    """What stands around the user's turn; Vicuna's by default."""
    max_text_tokens: PositiveInt = 300
    """Tokens that are kept of the text behind the prompt, the transcript in it included."""
    compat: Literal["none", "published"] = "none"
    """`published` repeats the public code: padding is pooled, BEATs hears the padding of the batch,
    prompts of unequal length are padded in the middle, texts that begin with a blank get another,
    and answers are searched for in a vocabulary with a [PAD]. Results then depend on the batch."""

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_prompt_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("is empty; name at least one prompt")
        return value

    @field_validator("prompt_template")
    @classmethod
    def _check_template(cls, value: str) -> str:
        if value.count("{}") != 1:
            raise ValueError("must have {} exactly once, where the user's turn goes")
        return value

    @model_validator(mode="after")
    def _check_pool(self) -> Self:
        if self.prompt_pool is not None and len(self.prompt) > 1:
            raise ValueError(
                f"prompt names {len(self.prompt)} prompts, but prompt_pool brings the user turns. "
                "Name the one prompt whose assistant turn goes with them, or remove prompt_pool"
            )
        return self

    @property
    def depends_on_batch(self) -> bool:
        """True for `compat: published`."""
        return self.compat == "published"

    @model_validator(mode="after")
    def _check_published(self) -> Self:
        keys = [key for key in ("cache", "trim_padding") if getattr(self, key, None)]
        if self.compat == "published" and keys:
            raise ValueError(
                f"{' and '.join(keys)} cannot be set where compat is 'published', because "
                "there the encoders' output depends on the batch. Remove it (or "
                "cache_encoders), or set compat to none"
            )
        return self


class SalmonnConfig(SalmonnSources, ClassifierConfig):
    """SALMONN as a classifier: the keys of its parts beside those of every classifier."""

    classifier: Path | None = None
    """A trained classifier in the layout of Abhinaya's public code: what it holds overrides
    `salmonn`. With it the member predicts without training."""
    prompt_sampling: Literal["fixed", "random"] = "fixed"
    """`random` draws a prompt by (seed, epoch, utterance) in training; evaluation takes the first
    one in any case."""
    cache_encoders: bool = Field(default=False, strict=True)
    """Short for a `cache` in the folder `encoder-cache` beside the run directory."""

    @model_validator(mode="before")
    @classmethod
    def _fill_cache(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("cache_encoders") is not True:
            return data
        # Once it is spelled out, `cache` alone counts: a stored config can drop or move it.
        data = data | {"cache_encoders": False}
        run_dir = data.get("run_dir")
        if data.get("cache") or not isinstance(run_dir, str | Path):
            return data  # a run_dir that is missing or wrong is reported
        return data | {"cache": {"dir": str(Path(run_dir).parent / "encoder-cache")}}

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        if self.prompt_sampling == "random":
            if len(self.prompt) == 1 and self.prompt_pool is None:
                raise ValueError(
                    "prompt_sampling is random but there is one prompt. Name several under prompt, "
                    "give a prompt_pool, or set prompt_sampling to fixed"
                )
        return self
