"""Configs: YAML checked by pydantic, with `key=value` overrides, all mistakes reported together."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
)

from abhinaya.errors import MissingFileError, ProblemsError, did_you_mean
from abhinaya.files import digest_of

__all__ = [
    "Config",
    "DataConfig",
    "MemberConfig",
    "Selection",
    "TrainedConfig",
    "TranscriptSources",
    "apply_overrides",
    "check_config",
    "config_digest",
    "dump_yaml",
    "load_yaml",
    "merge",
]

_ConfigT = TypeVar("_ConfigT", bound=BaseModel)

Selection = tuple[str, ...]
"""Names of splits or subsets; `NAME:O,X` keeps only those labels."""


class Config(BaseModel):
    """Base of all configs: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TranscriptSources(Config):
    """Which transcripts are read where, by their source in `transcripts.parquet`."""

    train: str = "human"
    """Source for training and validation."""
    predict: str
    """Source for prediction, such as `whisper-large-v3`: challenge tests have no human ones."""


class DataConfig(Config):
    """The corpus and which of its rows are used for what."""

    manifest: Path
    """Manifest made by `abhinaya prepare`."""
    audio_root: Path | None = None
    """Where the audio lies now, if not where the manifest was made."""
    train: Selection = ("train",)
    """Rows to train on."""
    validation: Selection | None = ("development",)
    """Rows that choose the best checkpoint; null keeps the last one."""
    transcripts: TranscriptSources | None = None
    """Sources of the text, for members that read text."""
    max_train_words: PositiveInt | None = None
    """Leave out training rows whose transcript has more words; null keeps all."""

    @field_validator("train", "validation", mode="before")
    @classmethod
    def _one_name_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class MemberConfig(Config):
    """What every member's config has."""

    member: str
    """Name in the registry."""
    name: str = Field(pattern=r"^[\w.-]+$")
    """Name of this run; it names the prediction tables."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of initial weights, data order, crops and dropout."""
    data: DataConfig


class TrainedConfig(MemberConfig):
    """What a member has that must be trained before it predicts."""

    run_dir: Path
    """Folder that training writes to."""


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-5 is a number and `no` a word, as in YAML 1.2 and as everybody means it.

    A key that stands twice in one mapping is an error; PyYAML would keep the last one silently.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        scalars = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key_node in scalars:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key {key_node.value!r} stands there twice",
                    key_node.start_mark,
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":bool")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        MissingFileError: if the file is not there.
        ProblemsError: if it is not YAML, or no mapping.
    """
    if not path.is_file():
        raise MissingFileError(f"There is no config {str(path)!r}. Give the path of a YAML file.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        reason = " ".join(str(err).split())
        raise ProblemsError(str(path), [f"it is not YAML: {reason}"]) from err
    if not isinstance(content, dict):
        raise ProblemsError(
            str(path), [f"it holds a {type(content).__name__}, expected keys with values"]
        )
    return content


def dump_yaml(config: BaseModel) -> str:
    """A config as YAML that `load_yaml` and `check_config` turn into the same config again."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def apply_overrides(content: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of nested mappings with `some.key=value` overrides; values are read as YAML.

    Raises:
        ProblemsError: if an override has no `=`, its value is not YAML, or it goes through a leaf.
    """
    result = _copy(content)
    problems = []
    for override in overrides:
        dotted, separator, text = override.partition("=")
        keys = dotted.split(".")
        if not separator or not all(keys):
            problems.append(f"the override {override!r} is not of the form some.key=value")
            continue
        try:
            value = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError:
            problems.append(f"the value of the override {override!r} is not YAML")
            continue
        place = result
        for depth, key in enumerate(keys[:-1], start=1):
            inner = place.get(key)
            if inner is None:
                inner = place[key] = {}
            if not isinstance(inner, dict):
                problems.append(
                    f"the override {override!r} goes through {'.'.join(keys[:depth])}, "
                    f"which is {inner!r} and has no keys"
                )
                break
            place = inner
        else:
            place[keys[-1]] = value
    if problems:
        raise ProblemsError("the command line", problems)
    return result


def merge(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested mappings with other nested mappings laid over it, leaf by leaf."""
    result = _copy(content)
    for key, value in changes.items():
        below = result.get(key)
        if isinstance(below, dict) and isinstance(value, Mapping):
            result[key] = merge(below, value)
        else:
            result[key] = _copy(value) if isinstance(value, Mapping) else value
    return result


def check_config(content: Mapping[str, Any], kind: type[_ConfigT], where: str) -> _ConfigT:
    """The config of a mapping.

    Args:
        content: keys and values as read from YAML.
        kind: the config's class.
        where: the file, for messages.

    Raises:
        ProblemsError: with all mistakes of the mapping: unknown keys with the nearest known one,
            missing keys, values of the wrong type or range.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as err:
        problems = [_sentence(error, kind) for error in err.errors()]
        raise ProblemsError(where, problems) from err


def config_digest(config: BaseModel, *, without: Sequence[str] = ()) -> str:
    """Hash of a config's values, some dotted keys left out."""
    content = config.model_dump(mode="json")
    for dotted in without:
        place: Any = content
        *outer, last = dotted.split(".")
        for key in outer:
            place = place.get(key) or {}
        place.pop(last, None)
    return digest_of(content)


def _copy(content: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in content.items()}


def _sentence(error: Any, kind: type[BaseModel]) -> str:
    """One mistake in words: the dotted key, what it is, what was expected."""
    keys = [part for part in error["loc"] if isinstance(part, int | str)]
    if error["type"] not in ("extra_forbidden", "missing"):  # these end in a key, whatever it is
        # For a union pydantic appends the tried type to the place; only real keys help the reader.
        keys = [part for part in keys if isinstance(part, int) or re.fullmatch(r"\w+", part)]
    dotted = ".".join(str(part) for part in keys)
    if error["type"] == "extra_forbidden":
        return f"{dotted} is unknown" + _near_key(keys, kind)
    if error["type"] == "missing":
        return f"{dotted} is missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{dotted}: {message}" if dotted else message
    message = message.replace("Input should be", "expected").rstrip(".")
    return f"{dotted} is {error['input']!r}, {message[0].lower()}{message[1:]}"


def _near_key(keys: Sequence[int | str], kind: type[BaseModel]) -> str:
    model: type[BaseModel] | None = kind
    for key in keys[:-1]:
        if model is not None and isinstance(key, str):
            found = model.model_fields.get(key)
            model = _model_in(found.annotation) if found is not None else None
    if model is None:
        return ""
    near = did_you_mean(str(keys[-1]), model.model_fields)
    prefix = "".join(f"{key}." for key in keys[:-1])
    return near.replace(" Did you mean '", f", did you mean {prefix}").replace("'?", "?")


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The config class in an annotation such as `Inner` or `Inner | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for option in typing.get_args(annotation):
            found = _model_in(option)
            if found is not None:
                return found
    return None
