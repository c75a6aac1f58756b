"""Config of a member that fine-tunes a backbone under a classification head."""

from __future__ import annotations

import ast
import builtins
import functools
import importlib.util
import math
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from abhinaya.config import Config, TrainedConfig, is_unset
from abhinaya.data.augmentation import AugmentConfig
from abhinaya.data.sound_folders import find_sounds
from abhinaya.errors import did_you_mean
from abhinaya.nn.losses.config import SOFT_LOSSES, LossConfig
from abhinaya.nn.recipe.attributes import AttributesConfig
from abhinaya.nn.recipe.balance import BalanceConfig, check_balance
from abhinaya.nn.recipe.mixing import MixingConfig
from abhinaya.nn.recipe.speakers import SpeakerScaling
from abhinaya.nn.recipe.targets import TargetsConfig

__all__ = [
    "AudioConfig",
    "CacheConfig",
    "ClassifierConfig",
    "ClassifierInferenceConfig",
    "HeadConfig",
    "InferenceConfig",
    "TrainingConfig",
    "argument_kinds",
]

Precision = Literal["float32", "bf16", "fp16"]


class AudioConfig(Config):
    """How much of a clip the model hears."""

    max_audio_s: PositiveFloat = 10.0
    """Longest segment in seconds that the model sees at once."""
    train_crop: Literal["random", "first", "centre", "full"] | PositiveInt = "random"
    """Where the segment is cut in training; `random` is drawn anew in each epoch by (seed, epoch,
    utterance), and so is, for a number n, one of n evenly spaced segments. These can be cached."""
    eval_crop: Literal["first", "centre", "full"] | PositiveInt = "centre"
    """The same for validation and prediction; a number n takes n evenly spaced segments of a longer
    clip and averages their logits. `full` hears the whole clip whatever its length."""
    normalize: bool = False
    """Scale each segment to zero mean and unit variance first."""
    augment: AugmentConfig | None = Field(default=None, exclude_if=is_unset)
    """Change each segment in training, anew in each epoch by (seed, epoch, utterance)."""


class HeadConfig(Config):
    """The classifier on the pooled features: linear, norm, activation, dropout, linear."""

    hidden: int = Field(default=1024, ge=0, le=65_536)
    """Width between the two linear layers; 0 for a single linear layer."""
    norm: Literal["layer", "none"] = "layer"
    """Behind the first linear layer."""
    activation: Literal["relu", "gelu"] = Field(
        default="relu", exclude_if=lambda value: value == "relu"
    )
    """Behind the norm."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Share of features dropped before the last linear layer."""
    learning_rate: PositiveFloat | None = Field(default=None, exclude_if=is_unset)
    """Of pooling and heads, which begin at random; None takes `training.learning_rate`."""


class InferenceConfig(Config):
    """How predictions are computed; none of it changes a result by more than rounding."""

    batch_size: PositiveInt = 16
    """Clips or texts at once."""
    precision: Precision = "float32"
    """Number type of the computation."""
    num_workers: int = Field(default=0, ge=0)
    """Processes that read audio beside the main one."""


class ClassifierInferenceConfig(InferenceConfig):
    """The same for a classifier; only `logit_adjustment` changes what is predicted."""

    logit_adjustment: float | None = Field(default=None, ge=0, exclude_if=is_unset)
    """Predict as if the class prior of the training rows, to this power, were not learned: 1 frees
    logits from it, whatever the loss has freed them from. None leaves them as they are."""


class CacheConfig(Config):
    """Where the output of a frozen encoder is kept, so that epochs over it cost seconds."""

    dir: Path
    """Folder of the store; several runs may share one."""
    max_gb: PositiveFloat = 50.0
    """Largest size of the store; the entries used least recently go first."""
    dtype: Literal["float32", "float16"] = "float32"
    """float32 gives the very numbers of a fresh pass; float16 halves the size."""


class TrainingConfig(BaseModel):
    """`global_batch_size`, and transformers' TrainingArguments by their own names."""

    model_config = ConfigDict(frozen=True, extra="allow")

    global_batch_size: PositiveInt
    """Utterances per optimizer step over all processes."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The keys meant for TrainingArguments, with values of its types."""
        return dict(self.model_extra or {})

    @model_validator(mode="wrap")
    @classmethod
    def _check_arguments(cls, data: Any, check_fields: Any) -> Self:
        # Around the check of our own key, so that mistakes of both kinds are reported together.
        given = data if isinstance(data, dict) else {}
        values, problems = _read_arguments({k: v for k, v in given.items() if k not in _OURS})
        details: list[InitErrorDetails] = []
        if problems:
            error = PydanticCustomError("value_error", "{text}", {"text": "; ".join(problems)})
            details.append(InitErrorDetails(type=error, loc=(), input=data))
        try:
            checked: Self = check_fields({**given, **values} if given else data)
        except ValidationError as err:
            details += [
                InitErrorDetails(
                    type=line["type"], loc=line["loc"], input=line["input"], ctx=line.get("ctx", {})
                )
                for line in err.errors()
            ]
        if details:
            raise ValidationError.from_exception_data(cls.__name__, details)
        return checked


_OURS = ("global_batch_size",)

_SET_BY_US = {
    "activation_checkpointing_kwargs": "every layer is recomputed, without re-entrance",
    "auto_find_batch_size": "it would change how many rows make a step; set "
    "per_device_train_batch_size to what fits",
    "data_seed": "it is the config's seed",
    "gradient_accumulation_steps": "it follows from global_batch_size",
    "gradient_checkpointing_kwargs": "every layer is recomputed, without re-entrance",
    "greater_is_better": "the best checkpoint is the one of highest macro_f1",
    "label_names": "it belongs to the model",
    "load_best_model_at_end": "it follows from data.validation",
    "metric_for_best_model": "the best checkpoint is the one of highest macro_f1",
    "output_dir": "it is run_dir",
    "remove_unused_columns": "the data has no columns",
    "seed": "it is the config's seed",
    "train_sampling_strategy": "batches are always grouped by length",
}


# How weights are split over devices is no matter of the config: each launch trains the same run.
_NOT_YET = {
    "deepspeed": "members are not trained with DeepSpeed by their config, but by the launch",
    "fsdp": "members are not trained with FSDP by their config, but by the launch",
    "fsdp_config": "members are not trained with FSDP by their config, but by the launch",
    "parallelism_config": "members are not trained in parts over several devices",
}


def _read_arguments(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return values with the types of TrainingArguments, and what is wrong with the others."""
    kinds = argument_kinds() if given else {}
    values: dict[str, Any] = {}
    problems = []
    for key, value in given.items():
        if key in _SET_BY_US:
            problems.append(f"{key} cannot be set: {_SET_BY_US[key]}")
        elif key in _NOT_YET and value:
            problems.append(
                f"{key} cannot be set: {_NOT_YET[key]}. Remove it; each device then holds the "
                "whole model, or its part under accelerate launch --config_file "
                "configs/accelerate/fsdp2.yaml"
            )
        elif key not in kinds:
            near = did_you_mean(str(key), [*kinds, *_OURS])
            problems.append(f"{key} is unknown to TrainingArguments.{near}".rstrip("."))
        else:
            try:
                values[key] = _adapter(key, kinds[key], value).validate_python(value)
            except ValidationError as err:
                problems.append(f"{key} is {value!r}: {err.errors()[0]['msg']}")
    return values, problems + _find_impossible(values)


def _find_impossible(values: Mapping[str, Any]) -> list[str]:
    """Return one sentence for each number that no training can have, or that trains nothing."""
    problems = [
        f"{key} is {value}, expected a finite number"
        for key, value in values.items()
        if isinstance(value, float) and not math.isfinite(value)
    ]
    if values.get("learning_rate", 0) < 0:
        problems.append(f"learning_rate is {values['learning_rate']:g}, expected 0 or more")
    if values.get("max_steps", -1) == 0 or values.get("max_steps", -1) < -1:
        problems.append(
            f"max_steps is {values['max_steps']}, expected 1 or more, or -1 for num_train_epochs"
        )
    elif values.get("max_steps", -1) == -1 and values.get("num_train_epochs", 1) <= 0:
        problems.append(f"num_train_epochs is {values['num_train_epochs']:g}, expected more than 0")
    return problems


@functools.cache
def argument_kinds() -> dict[str, str]:
    """Return the fields of TrainingArguments and their annotations, as its source has them.

    Importing it takes seconds, in which a mistake elsewhere would wait to be told.
    """
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).with_name("training_args.py").read_text(encoding="utf-8")
    fields = next(
        node.body
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments"
    )
    return {
        field.target.id: ast.unparse(field.annotation)
        for field in fields
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }


def _adapter(name: str, kind: str, value: Any) -> TypeAdapter[Any]:
    """Return what checks a value; only enumerations of transformers need transformers."""
    known = {"Any": Any, "Literal": typing.Literal}
    names = {node.id for node in ast.walk(ast.parse(kind)) if isinstance(node, ast.Name)}
    if isinstance(value, str) and "str" in re.split(r" \| ", kind):
        return TypeAdapter(str)
    if all(name in known or hasattr(builtins, name) for name in names):
        return TypeAdapter(eval(kind, known))
    from transformers import TrainingArguments

    hint = typing.get_type_hints(TrainingArguments)[name]
    return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))


class ClassifierConfig(TrainedConfig):
    """Backbone, pooling, head and their training. Members add the keys of their backbone."""

    base: str
    """Folder or hub id of the pre-trained weights; they are never copied into the run."""
    audio: AudioConfig = AudioConfig()
    pooling: Literal["attentive-statistics", "attention", "mean"] = "attentive-statistics"
    """From frames to one vector: mean and deviation by learned attention, its mean alone, or the
    plain mean."""
    """How the frames or tokens become one vector."""
    head: HeadConfig = HeadConfig()
    loss: LossConfig = LossConfig()
    attributes: AttributesConfig | None = Field(default=None, exclude_if=is_unset)
    """What is learned beside the class: attributes, gender, secondary emotions."""
    balance: BalanceConfig | None = Field(default=None, exclude_if=is_unset)
    """How often classes are drawn, and when their weights apply."""
    targets: TargetsConfig | None = Field(default=None, exclude_if=is_unset)
    """What a loss on distributions compares with in training; None: the annotators' votes."""
    training: TrainingConfig
    inference: ClassifierInferenceConfig = ClassifierInferenceConfig()
    cache: CacheConfig | None = None
    """Keep the frozen encoder's output on disk; None computes it anew in every epoch."""
    speaker_scaling: SpeakerScaling | None = Field(default=None, exclude_if=is_unset)
    """See the features of `cache` from their speaker's mean and spread; `{}` takes the defaults."""
    mixing: MixingConfig | None = Field(default=None, exclude_if=is_unset)
    """Join training clips, or average the vectors of two rows."""

    @property
    def training_files(self) -> tuple[Path, ...]:
        """Files beside the manifest and its transcripts that decide what is trained.

        A table that is learned from, and sounds that augmentation adds: a folder that is not there
        has none.
        """
        table = self.targets.table if self.targets is not None else None
        folders = self.audio.augment.folders if self.audio.augment else []
        sounds = [file for folder in folders for file in find_sounds(folder)]
        return (*sounds, *([] if table is None else [table]))

    @property
    def depends_on_batch(self) -> bool:
        """Whether a row's result depends on the rows beside it, as in some published code."""
        return False

    @model_validator(mode="after")
    def _check_loss(self) -> Self:
        wrong = {
            "data.validation is not set": self.data.validation is None,
            "training.eval_on_start is true": self.training.arguments.get("eval_on_start"),
        }
        if self.loss.name == "adaptive-focal" and any(wrong.values()):
            raise ValueError(
                "the loss adaptive-focal learns from the validation rows after each epoch, but "
                f"{next(key for key in wrong if wrong[key])}; change that, or set loss.name to "
                "focal"
            )
        return self

    @model_validator(mode="after")
    def _check_balance(self) -> Self:
        if self.balance is not None:
            check_balance(self.balance, self.loss, self.training.arguments)
        return self

    @model_validator(mode="after")
    def _check_targets(self) -> Self:
        if self.targets is not None and not self.loss.uses_soft_targets:
            raise ValueError(
                "targets makes distributions over the classes, but the loss "
                f"{self.loss.name} takes one class per row; set loss.name to "
                f"{' or '.join(SOFT_LOSSES)}, or remove targets"
            )
        return self

    @model_validator(mode="after")
    def _check_cache(self) -> Self:
        if self.cache is not None and self.audio.train_crop == "random":
            raise ValueError(
                "cache keeps what is computed once, but audio.train_crop is 'random'; set it to "
                "first, centre, full or a number of segments to draw from, or remove cache"
            )
        if self.cache is not None and self.audio.augment is not None:
            raise ValueError(
                "cache keeps what is computed once, but audio.augment changes every clip in every "
                "epoch; remove one of the two"
            )
        return self

    @model_validator(mode="after")
    def _check_speaker_scaling(self) -> Self:
        if self.speaker_scaling is not None and self.cache is None:
            raise ValueError(
                "speaker_scaling scales the features of all clips of a speaker, which cache keeps; "
                "set cache, or remove speaker_scaling"
            )
        return self

    @model_validator(mode="after")
    def _check_mixing(self) -> Self:
        clips = self.mixing.clips if self.mixing else None
        if clips is not None and not self.loss.uses_soft_targets:
            raise ValueError(
                f"mixing.clips averages the targets of two clips, but the loss {self.loss.name!r} "
                "takes one class each; set loss.name to soft-cross-entropy or kl-divergence, or "
                "remove mixing.clips"
            )
        if clips is not None and self.cache is not None:
            raise ValueError(
                "cache keeps what is computed once, but mixing.clips joins other clips in every "
                "epoch; remove one of the two"
            )
        if clips is not None and clips.max_silence_s >= self.audio.max_audio_s:
            raise ValueError(
                f"mixing.clips.max_silence_s is {clips.max_silence_s:g}, which leaves no room for "
                f"sound in audio.max_audio_s ({self.audio.max_audio_s:g}); set it lower"
            )
        return self
