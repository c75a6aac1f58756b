"""Config of the member `gen-ser`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from abhinaya.config import Config
from abhinaya.nn.classifier_config import ClassifierConfig, HeadConfig
from abhinaya.nn.losses.config import LossConfig

__all__ = ["BridgeConfig", "EstimatorConfig", "GenSerConfig", "SamplerConfig"]


class BridgeConfig(Config):
    """The path from a class encoding (time 0) to the features (time 1); all numbers are ours."""

    slope: PositiveFloat = 10.0
    """k of the logistic schedule of the mean."""
    sigma_max: NonNegativeFloat = 0.5
    """Scale of the noise; its deviation is highest in the middle, half of this number."""
    t_min: float = Field(default=0.03, gt=0, lt=1)
    """End of sampling, and of the times that are trained."""
    t_max: float = Field(default=0.97, gt=0, lt=1)
    """Beginning of sampling, and of the times that are trained."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.t_min >= self.t_max:
            raise ValueError(
                f"t_min is {self.t_min:g}, expected less than t_max, which is {self.t_max:g}"
            )
        return self


class EstimatorConfig(Config):
    """The network that estimates the class encoding."""

    n_layers: PositiveInt = 4
    """Transformer layers."""
    n_heads: PositiveInt = 16
    """Attention heads; they must divide the width of the backbone."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """After attention and feed-forward of each layer; ours."""


class SamplerConfig(Config):
    """How prediction goes from the features to a class encoding."""

    method: Literal["exact", "euler"] = "exact"
    """`euler` is the published step; `exact` solves the same equation for the current estimate."""
    steps: PositiveInt = 10
    """Steps from the features to the encoding."""
    start: Literal["features", "noisy"] = "features"
    """Start from the features as published, or with the noise of `bridge.t_max` on top of them. It
    is drawn by (seed, utterance), so that it never depends on a batch or an order."""


class GenSerConfig(ClassifierConfig):
    """What is specific to Gen-SER. It has no pooling, head or loss to choose."""

    backbone: Literal["hubert", "whisper"] = "hubert"
    """What `base` holds: HuBERT, WavLM or wav2vec 2.0, or Whisper's encoder. It is frozen."""
    standardize: bool = True
    """Scale each feature of each layer by its mean and deviation over the training rows, so that
    features and class encodings are of comparable size; ours."""
    pooling: Literal["mean"] = "mean"
    """The mean over time."""
    bridge: BridgeConfig = BridgeConfig()
    estimator: EstimatorConfig = EstimatorConfig()
    sampler: SamplerConfig = SamplerConfig()
    temperature: PositiveFloat | None = None
    """Cosines are divided by it before the softmax; None fits it on the validation rows."""

    @model_validator(mode="after")
    def _check_used(self) -> Self:
        if self.temperature is None and self.data.validation is None:
            raise ValueError(
                "temperature is fitted on data.validation, which is None. Choose validation rows, "
                "or set temperature to a number such as 0.1"
            )
        if self.head != HeadConfig():
            raise ValueError("head: gen-ser has no such head to set. Remove it")
        if self.mixing is not None:
            raise ValueError("mixing: gen-ser has no loss on averaged targets. Remove it")
        if self.loss != LossConfig():
            raise ValueError("loss: gen-ser trains on the distance to the encoding. Remove it")
        if self.attributes is not None:
            raise ValueError("attributes: gen-ser estimates class encodings alone. Remove it")
        return self
