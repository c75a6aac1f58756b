"""Keyword arguments that are the settings of a stage, as its command's options are."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from abhinaya.config import check_config
from abhinaya.pipeline.stages.settings import Settings

__all__ = ["read_options", "takes_options"]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Settings = TypeVar("_Settings", bound=Settings)


def takes_options(kind: type[Settings]) -> Callable[[_Function], _Function]:
    """Show a function's `**options` as the fields of settings, in its help and in notebooks."""

    def mark(function: _Function) -> _Function:
        described: Any = function
        signature = inspect.signature(function)
        given = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        options = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.get_default(call_default_factory=True),
                annotation=field.annotation,
            )
            for name, field in kind.model_fields.items()
        ]
        described.__signature__ = signature.replace(parameters=[*given, *options])
        lines = [
            f"    {name}: {' '.join((field.description or '').split())}"
            for name, field in kind.model_fields.items()
        ]
        described.__doc__ = "\n".join([str(function.__doc__).rstrip(), "\nOptions:", *lines])
        return function

    return mark


def read_options(kind: type[_Settings], options: dict[str, Any], function: str) -> _Settings:
    """Return the checked settings of a call.

    Raises:
        ProblemsError: with all that is wrong, near matches of unknown names included.
    """
    return check_config(options, kind, f"abhinaya.{function}()")
