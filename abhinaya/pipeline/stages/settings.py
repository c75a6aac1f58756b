"""What the settings of all stages share: they are options of a command and keys of a YAML block."""

from __future__ import annotations

import types
import typing
from typing import Any

from pydantic import ConfigDict, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from abhinaya.config import Config

__all__ = ["Settings", "bare_type", "flag_of"]


class Settings(Config):
    """Base of the settings of a stage.

    A field is an option of the same name, with its default, range and choices; the text below it is
    the option's help. A field without a default is a positional argument. `json_schema_extra` may
    give the `metavar`, and the `flag` where the option is not written as the field is.
    """

    model_config = ConfigDict(use_attribute_docstrings=True, populate_by_name=True)

    @field_validator("*", mode="before")
    @classmethod
    def _one_value_is_a_list(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        kind = bare_type(cls.model_fields[info.field_name])
        is_one = isinstance(value, str | int | float)
        return (value,) if is_one and typing.get_origin(kind) is tuple else value

    def arguments(self) -> list[str]:
        """Return the options of a command line that give these settings again."""
        found: list[str] = []
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if value == field.default or field.is_required():
                continue
            yes, _, no = flag_of(name, field).partition("/")
            if isinstance(value, bool):
                found.append(yes if value else no)
            elif isinstance(value, dict):
                found += [part for key in value for part in (yes, f"{key}={value[key]}")]
            else:
                values = value if isinstance(value, tuple) else (value,)
                found += [part for one in values for part in (yes, str(one))]
        return found


def bare_type(field: FieldInfo) -> Any:
    """Return the type of a field without its `| None`."""
    if typing.get_origin(field.annotation) in (typing.Union, types.UnionType):
        (kind,) = (arg for arg in typing.get_args(field.annotation) if arg is not type(None))
        return kind
    return field.annotation


def flag_of(name: str, field: FieldInfo) -> str:
    """Return how the option of a field is written, such as `--by-speaker`."""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "flag" in extra:
        return str(extra["flag"])
    flag = f"--{name.replace('_', '-')}"
    return f"{flag}/--no-{flag[2:]}" if field.default is True else flag
