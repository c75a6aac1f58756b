"""Configs: YAML checked by pydantic, with `key=value` overrides, all mistakes reported together."""

from __future__ import annotations

import io
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from abhinaya.errors import (
    BadValueError,
    MissingFileError,
    ProblemsError,
    did_you_mean,
    kind_of,
    shorten,
)
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
    "is_unset",
    "load_yaml",
    "merge",
    "parse_yaml",
]

_ConfigT = TypeVar("_ConfigT", bound=BaseModel)

_MAX_DEPTH = 50
_MAX_VALUES = 100_000
_MAX_BITS = 256

Selection = tuple[str, ...]
"""Names of splits or subsets; `NAME:O,X` keeps only those labels."""


class Config(BaseModel):
    """Base of all configs: frozen, numbers are finite, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TranscriptSources(Config):
    """Which transcripts are read where, by their source in `transcripts.parquet`.

    One name in place of the mapping is the source for everything.
    """

    train: str = "human"
    """Source for training."""
    validation: str = "human"
    """Source for the rows that choose the best checkpoint; by default that for training."""
    predict: str
    """Source for prediction, such as `whisper-large-v3`: challenge tests have no human ones."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, value: Any) -> Any:
        if isinstance(value, str):
            return dict.fromkeys(cls.model_fields, value)
        if isinstance(value, Mapping) and isinstance(value.get("train"), str):
            return {"validation": value["train"], **value}
        return value

    @model_serializer(mode="wrap")
    def _without_what_follows(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write no `validation` where it follows `train`, as in runs of earlier versions."""
        content: dict[str, Any] = write(self)
        if self.validation == self.train:
            del content["validation"]
        return content


class DataConfig(Config):
    """The corpus and which of its rows are used for what."""

    manifest: Path
    """Manifest made by `abhinaya prepare`."""
    source: Path | None = Field(default=None, exclude_if=lambda value: value is None)
    """Instead of it, a folder of one's own recordings, which `abhinaya train` prepares."""
    audio_root: Path | None = None
    """Where the audio lies now, if not where the manifest was made."""
    train: Selection = ("train",)
    """Rows to train on."""
    validation: Selection | None = ("development",)
    """Rows that choose the best checkpoint; None keeps the last one."""
    transcripts: TranscriptSources | None = None
    """Sources of the text, for members that read text."""
    max_train_words: PositiveInt | None = None
    """Leave out training rows whose transcript has more words; None keeps all."""

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

    @property
    def server(self) -> Literal["running", "own"] | None:
        """What does the work of predicting: a server that runs, one of its own, or the process."""
        return None


class TrainedConfig(MemberConfig):
    """What a member has that must be trained before it predicts."""

    run_dir: Path
    """Folder that training writes to."""


def is_unset(value: object) -> bool:
    """Tell if a later key is None: it is then not written, so earlier runs keep their digest."""
    return value is None


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML 1.2 document, in which 1e-5 is a number and `no` a word.

    Raises:
        BadValueError: if it is not YAML, a key stands twice in one mapping, or it holds what no
            config needs: a value that contains itself, deep nesting, aliases that grow without
            bounds, other types than JSON has.
    """
    try:
        value = _yaml().load(text)
    except DuplicateKeyError as err:
        key = re.search('duplicate key "(.*?)"', err.problem)
        raise BadValueError(
            f"duplicate key {key[1] if key else ''!r} (line {err.problem_mark.line + 1})"
        ) from err
    except RecursionError as err:
        raise BadValueError(f"it is not YAML of ours: {_TOO_DEEP}") from err
    except (YAMLError, ValueError, KeyError) as err:  # of a tag's value, such as !!bool x
        raise BadValueError(f"it is not YAML: {_reason(err)}") from err
    _refuse_unfit(value)
    return value


_TOO_DEEP = f"it is nested more than {_MAX_DEPTH} levels deep, or contains itself"


def _reason(err: Exception) -> str:
    """Say in one line what ruamel.yaml, or Python under it, does not like, and where."""
    if isinstance(err, MarkedYAMLError):
        parts = [" ".join(part.split()) for part in (err.context, err.problem) if part]
        mark = err.problem_mark or err.context_mark
        return ", ".join(parts) + (f" (line {mark.line + 1})" if mark else "")
    if isinstance(err, KeyError):
        return f"{err} does not fit its tag"
    return " ".join(str(err).partition(";")[0].replace(' in "<unicode string>",', " at").split())


def _refuse_unfit(value: Any) -> None:
    """Refuse what has the form of YAML, but would break whoever reads, prints or stores it.

    Raises:
        BadValueError: if there is such a value.
    """
    found, todo = 0, [(value, 0)]
    while todo:
        item, depth = todo.pop()
        found += 1
        if depth > _MAX_DEPTH:
            raise BadValueError(f"it is not YAML of ours: {_TOO_DEEP}")
        if found > _MAX_VALUES:
            raise BadValueError(f"it holds more than {_MAX_VALUES:,} values, aliases counted")
        if isinstance(item, dict):
            todo += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            todo += [(part, depth + 1) for part in item]
        elif isinstance(item, int):
            if item.bit_length() > _MAX_BITS:
                raise BadValueError(f"it holds an integer of {item.bit_length()} bits")
        elif isinstance(item, str):
            if re.search("[\0\ud800-\udfff]", item):  # no file system takes them
                raise BadValueError(f"it holds characters that no text has: {shorten(item)}")
        elif not isinstance(item, float | None):
            raise BadValueError(f"it holds {item}, neither text nor number; put it into quotes")


def load_yaml(path: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file.

    Raises:
        MissingFileError: if the file is not there.
        ProblemsError: if it is not YAML, or no mapping.
    """
    if not path.is_file():
        raise MissingFileError(f"There is no config {str(path)!r}. Give the path of a YAML file.")
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as err:
        raise ProblemsError(
            str(path), [f"it is not YAML: {err.reason} at byte {err.start}; save it as UTF-8"]
        ) from err
    except BadValueError as err:
        raise ProblemsError(str(path), [str(err)]) from err
    if not isinstance(content, dict):
        raise ProblemsError(str(path), [f"it holds {kind_of(content)}, expected keys with values"])
    return content


def dump_yaml(config: BaseModel) -> str:
    """Return a config as YAML that `load_yaml` and `check_config` turn into the same config."""
    text = io.StringIO()
    _yaml().dump(config.model_dump(mode="json"), text)
    return text.getvalue()


def apply_overrides(content: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of nested mappings with `some.key=value` overrides; values are read as YAML.

    Raises:
        ProblemsError: if an override has no `=`, its value is not YAML, or it goes through a leaf.
    """
    result = _copy(content)
    problems = []
    for override in overrides:
        dotted, separator, text = override.partition("=")
        keys = dotted.split(".")
        shown = shorten(override)
        if not separator or not all(keys) or len(keys) > _MAX_DEPTH:
            problems.append(f"the override {shown} is not of the form some.key=value")
            continue
        try:
            value = parse_yaml(text)
        except BadValueError as err:
            reason = str(err)
            problems.append(
                f"the value of the override {shown} is not YAML"
                if reason.startswith("it is not YAML: ")
                else f"the override {shown} does not work: {reason}"
            )
            continue
        place = result
        for depth, key in enumerate(keys[:-1], start=1):
            inner = place.get(key)
            if inner is None:
                inner = place[key] = {}
            if not isinstance(inner, dict):
                problems.append(
                    f"the override {shown} goes through {'.'.join(keys[:depth])}, "
                    f"which is {shorten(inner)} and has no keys"
                )
                break
            place = inner
        else:
            place[keys[-1]] = value
    if problems:
        raise ProblemsError("the command line", problems)
    return result


def merge(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of nested mappings with other nested mappings laid over it, leaf by leaf."""
    result = _copy(content)
    for key, value in changes.items():
        below = result.get(key)
        if isinstance(below, dict) and isinstance(value, Mapping):
            result[key] = merge(below, value)
        else:
            result[key] = _copy(value) if isinstance(value, Mapping) else value
    return result


def check_config(content: Mapping[str, Any], kind: type[_ConfigT], where: str) -> _ConfigT:
    """Return the config of a mapping, checked.

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


def _yaml() -> Any:
    """Return a reader and writer of YAML 1.2; a new one, because a document may change it."""
    yaml: Any = YAML(typ="safe", pure=True)  # it declares the type of its settings as None
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    # ruamel.yaml 0.19 takes .5e1 for a word; the table of its own resolvers must be there first.
    assert yaml.resolver.versioned_resolver
    yaml.resolver.add_version_implicit_resolver(
        (1, 2), "tag:yaml.org,2002:float", re.compile(r"[-+]?\.\d+[eE]\d+$"), list("-+.")
    )
    return yaml


def _copy(content: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in content.items()}


def _sentence(error: Any, kind: type[BaseModel]) -> str:
    """Say one mistake in words: the dotted key, what it is, what was expected."""
    keys = [key for key in error["loc"] if isinstance(key, int | str)]
    if error["type"] not in ("extra_forbidden", "missing"):  # these end in a key, whatever it is
        # For a union pydantic appends the tried type to the place; only real keys help the reader.
        keys = [key for key in keys if isinstance(key, int) or re.fullmatch(r"\w+", key)]
    dotted = ".".join(str(key) for key in keys)
    if error["type"] == "extra_forbidden":
        return f"{dotted} is unknown" + _near_key(keys, kind)
    if error["type"] == "missing":
        return f"{dotted} is missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{dotted}: {message}" if dotted else message
    message = message.replace("Input should be", "expected").rstrip(".")
    return f"{dotted} is {shorten(error['input'])}, {message[0].lower()}{message[1:]}"


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
    """Return the config class in an annotation such as `Inner` or `Inner | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for option in typing.get_args(annotation):
            found = _model_in(option)
            if found is not None:
                return found
    return None
