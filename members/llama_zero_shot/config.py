"""Config of a chat model that is asked, and not trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from abhinaya.config import Config, MemberConfig, is_unset
from abhinaya.prompting.rendering import FillingConfig

__all__ = [
    "Decoding",
    "LlamaZeroShotConfig",
    "OpenAIConfig",
    "Price",
    "TransformersConfig",
    "VllmConfig",
]


class Decoding(Config):
    """How an answer comes about. All of it is part of what an answer is kept under."""

    constrained: bool = True
    """The model can say nothing but one of the class names. Free answers are searched for a class;
    so are those of a server that does not know how to constrain."""
    temperature: NonNegativeFloat = 0.0
    """0 takes the likeliest; above it answers are drawn, with seeds from the run's."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw from the likeliest tokens that together have this probability."""
    top_k: PositiveInt | None = None
    """Null for all tokens. Not every server knows it."""
    max_tokens: PositiveInt = 16
    """Longest answer."""
    n_samples: PositiveInt = 1
    """Answers to each question; from two on their shares are the class probabilities."""
    logprobs: int = Field(default=20, ge=0)
    """How many tokens a server tells for each place of an answer, for class probabilities; 20 is
    the most that servers usually allow, 0 asks for none. Drawn answers get none."""

    @property
    def wants_logprobs(self) -> bool:
        """Whether class probabilities come from those of tokens."""
        return self.logprobs > 0 and self.temperature == 0

    @model_validator(mode="after")
    def _check_samples(self) -> Self:
        if self.n_samples > 1 and self.temperature == 0:
            raise ValueError(
                f"n_samples is {self.n_samples}, but at temperature 0 all answers are the same. "
                "Set temperature above 0, such as 0.7, or n_samples to 1"
            )
        return self


class Price(Config):
    """What a service takes for a million tokens."""

    input: NonNegativeFloat
    """For what is asked."""
    output: NonNegativeFloat
    """For what is answered."""
    currency: str = "USD"
    """Of both."""


class OpenAIConfig(Config):
    """A server with OpenAI's chat interface; none of it changes an answer."""

    url: str = "http://127.0.0.1:8000/v1"
    """Where the interface begins, mostly something that ends in /v1; `vllm serve` listens here."""
    api_key_env: str | None = None
    """Environment variable that holds the key; None for a server that wants none."""
    concurrency: PositiveInt = 64
    """Requests at once, in each process of a launch."""
    timeout_s: PositiveFloat = 120.0
    """Longest wait for one answer."""
    patience_s: NonNegativeFloat = 600.0
    """How long a server may answer nothing at all, because it is restarted or over its limit."""
    n_tries: PositiveInt = 5
    """How often one question may fail while the server answers others; then it abstains."""
    backoff_s: PositiveFloat = 0.5
    """First wait for a server that fails beyond the tries of openai's client, or sends no answer;
    it doubles up to half a minute."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{value!r} is no address such as http://127.0.0.1:8000/v1")
        if parts.username is not None or parts.query:
            raise ValueError(
                "an address is stored with the run, so it must not hold a password or key. Put the "
                "key into an environment variable and name it in api_key_env"
            )
        return value

    @field_validator("api_key_env")
    @classmethod
    def _check_name(cls, value: str | None) -> str | None:
        # A key in its place would be stored with the run; so the message does not repeat it.
        if value is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", value):
            raise ValueError(
                "expected the upper-case name of an environment variable, such as OPENAI_API_KEY, "
                "not the key itself"
            )
        return value


class VllmConfig(Config):
    """vLLM, as a server that is started to ask it and stopped afterwards, or in this process."""

    server: bool = Field(default=True, exclude_if=bool)
    """A server of its own, in processes of its own; false loads vLLM into this process."""
    python: Path | None = Field(default=None, exclude_if=is_unset)
    """The server's Python, in the environment that has vLLM; None for the one that runs now."""
    arguments: tuple[str, ...] = Field(default=(), exclude_if=lambda value: not value)
    """Further arguments of `vllm serve`, as they are."""
    start_timeout_s: PositiveFloat = Field(default=1800.0, exclude_if=lambda value: value == 1800)
    """Longest wait for the server to have loaded the model."""
    tensor_parallel: PositiveInt | None = 1
    """GPUs that share each layer; None for all of this machine that `pipeline_parallel` leaves,
    which is what a server takes where nothing is said."""
    pipeline_parallel: PositiveInt = 1
    """Groups of them that share the layers."""
    dtype: str = "auto"
    """Number type of the weights, by vLLM's name."""
    quantization: str | None = None
    """Such as `fp8` or `bitsandbytes`; None for what the files say."""
    max_model_len: PositiveInt | None = None
    """Most tokens of prompt and answer; None for all that the model can."""
    gpu_memory: float = Field(default=0.9, gt=0, le=1)
    """Share of a GPU's memory that vLLM takes."""
    enforce_eager: bool = False
    """Start faster, run slower."""
    batch_size: PositiveInt = 256
    """Questions that are handed over, and kept, together, in this process."""


class TransformersConfig(Config):
    """A model of transformers in this process."""

    weights: Literal["float32", "bf16", "fp16", "int8", "nf4"] = "bf16"
    """Number type of the weights; `int8` and `nf4` need bitsandbytes."""
    batch_size: PositiveInt = 8
    """Questions at once. `int8` rounds by what stands beside, so there it is 1 in any case."""


class LlamaZeroShotConfig(MemberConfig):
    """Which chat model is asked what, and by which engine."""

    engine: Literal["openai", "vllm", "transformers"] = "openai"
    """A server that runs, vLLM, or transformers in this process."""
    base: str
    """The model: as the server calls it, or a folder or hub id."""
    prompt: str
    """Name of a shipped prompt, or a .md file."""
    filling: FillingConfig = FillingConfig()
    decoding: Decoding = Decoding()
    openai: OpenAIConfig = OpenAIConfig()
    vllm: VllmConfig = VllmConfig()
    transformers: TransformersConfig = TransformersConfig()
    answers: Path | None = None
    """Folder in which every answer is kept, so that nothing is asked twice; several runs may share
    it. Null for a folder `answers` beside the table."""
    price: Price | None = None
    """Told in the table beside the numbers of tokens."""

    @model_validator(mode="before")
    @classmethod
    def _give_server_all_devices(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("engine") != "vllm":
            return data
        vllm = data.get("vllm") or {}
        if not isinstance(vllm, dict) or not vllm.get("server", True):
            return data
        return {**data, "vllm": {"tensor_parallel": None, **vllm}}

    @property
    def server(self) -> Literal["running", "own"] | None:
        """What does the work of predicting: a server that runs, one of its own, or the process."""
        if self.engine == "vllm" and self.vllm.server:
            return "own"
        return "running" if self.engine == "openai" else None

    @model_validator(mode="after")
    def _check_engine(self) -> Self:
        if self.engine == "transformers" and self.decoding.constrained:
            if self.decoding.temperature > 0:
                raise ValueError(
                    f"decoding.temperature is {self.decoding.temperature:g}, but with engine "
                    "transformers and decoding.constrained nothing is drawn: every class word is "
                    "scored. Set decoding.temperature to 0, or decoding.constrained to false"
                )
        return self
