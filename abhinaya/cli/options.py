"""Options that several commands share, and options made of the settings of a stage."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from abhinaya.cli.shell.completion import COMPLETIONS, complete_member
from abhinaya.cli.tables import TableFormat
from abhinaya.config import apply_overrides, check_config
from abhinaya.errors import BadValueError, ProblemsError
from abhinaya.pipeline.stages.settings import Settings, bare_type, flag_of

__all__ = [
    "AsJson",
    "AudioRoot",
    "Format",
    "IncludeTrainingRows",
    "MemberConfigFile",
    "Overrides",
    "Tables",
    "Truth",
    "guards",
    "read_pairs",
    "takes_settings",
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
"""Of every command that prints a table."""

Format = Annotated[TableFormat, typer.Option("--format", help="How to print the table.")]
"""Of every command that prints a table."""

MemberConfigFile = Annotated[
    str,
    typer.Argument(
        help="YAML file, or a shipped one such as members/wavlm.yaml.",
        autocompletion=complete_member,
    ),
]
"""Of every command that trains a member from its config."""

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes of the config.")
]
"""Of every command that reads a config."""

AudioRoot = Annotated[
    Path | None, typer.Option(help="Where the audio lies now; matched by file name.")
]
"""Of every command that opens audio."""

Tables = Annotated[
    list[str], typer.Argument(metavar="TABLE", help="Prediction tables, or NAME=TABLE.")
]
"""Of every command that reads several tables."""

Truth = Annotated[
    Path, typer.Option(help="True labels: a manifest, or a CSV with FileName and EmoClass.")
]
"""Of every command that needs true labels."""


IncludeTrainingRows = Annotated[
    bool,
    typer.Option("--include-training-rows", help="Also score rows that tables were trained on."),
]
"""Of every command that compares scores of tables."""


_Force = Annotated[
    bool,
    typer.Option("--force", help="Replace a file that is an input, or that another command made."),
]


def guards(
    *outputs: str, only_with: str | None = None, but: Sequence[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Keep a command from writing over its inputs and over what it did not make: gives it --force.

    Args:
        outputs: its parameters that name files to write; None among them is none.
        only_with: parameter without which nothing is written.
        but: parameters that the command itself keeps apart from its outputs.
    """

    def mark(command: Callable[..., None]) -> Callable[..., None]:
        name = command.__name__.replace("_", "-")

        def guarded(*, force: bool, **given: Any) -> None:
            from abhinaya.pipeline.outputs import note_maker, require_free
            from abhinaya.processes import is_main_process

            writes = only_with is None or given[only_with] is not None
            outs = [given[key] for key in outputs if writes and given[key] is not None]
            inputs = [value for key, value in given.items() if key not in outputs]
            its_own = [given[key].resolve() for key in but]
            for out in outs:
                if not force and out.resolve() not in its_own:
                    require_free(out, inputs, name)
            command(**given)
            if is_main_process():
                for out in outs:
                    note_maker(out, name)

        hints = typing.get_type_hints(command, include_extras=True)
        signature = inspect.signature(command)
        parameters = [
            parameter.replace(annotation=hints[key], kind=inspect.Parameter.KEYWORD_ONLY)
            for key, parameter in signature.parameters.items()
        ]
        parameters.append(
            inspect.Parameter(
                "force", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Force
            )
        )
        return _describe(guarded, command, parameters)

    return mark


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with one option for each field of its parameter `settings`.

    Names, defaults, ranges, choices and help are those of the fields, see `Settings`.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    kind: type[Settings] = hints["settings"]
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name == "settings":
            parameters += [_parameter(*item) for item in kind.model_fields.items()]
        else:
            parameters.append(
                parameter.replace(
                    annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY
                )
            )

    def with_options(**given: Any) -> None:
        values = {name: given.pop(name) for name in kind.model_fields}
        command(settings=_read_settings(kind, values), **given)

    return _describe(with_options, command, parameters)


def _describe(
    function: Callable[..., None],
    command: Callable[..., None],
    parameters: Sequence[inspect.Parameter],
) -> Callable[..., None]:
    """Give a function what typer reads: the signature for names, the annotations for types."""
    described: Any = function  # a function's type has no signature to set
    described.__doc__ = command.__doc__
    described.__name__ = command.__name__
    described.__signature__ = inspect.Signature(parameters)
    described.__annotations__ = {p.name: p.annotation for p in parameters}
    return function


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    kind = bare_type(field)
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    texts: dict[str, Any] = {"help": " ".join((field.description or "").split())}
    if "metavar" in extra:
        texts["metavar"] = extra["metavar"]
        texts["autocompletion"] = COMPLETIONS.get(str(extra["metavar"]))
    if field.is_required():
        return inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[kind, typer.Argument(**texts)],
        )
    default = field.default
    origin = typing.get_origin(kind)
    if origin is tuple:
        item: Any = typing.get_args(kind)[0]  # known when the program runs only
        kind, default = list[item], None
    elif origin is dict:
        kind, default = list[str], None
    if default is None:
        kind = kind | None
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, typer.Option(flag_of(name, field), **texts, **_bounds(field))],
    )


def _bounds(field: FieldInfo) -> dict[str, Any]:
    names = (("ge", "min"), ("le", "max"))
    marks = [(mark, ours, theirs) for mark in field.metadata for ours, theirs in names]
    return {theirs: getattr(mark, ours) for mark, ours, theirs in marks if hasattr(mark, ours)}


def _read_settings(kind: type[Settings], given: dict[str, Any]) -> Settings:
    """Return the checked settings; what was not given keeps its default."""
    values = {}
    for name, field in kind.model_fields.items():
        value = given[name]
        if value is None or value == []:
            continue
        if typing.get_origin(bare_type(field)) is dict:
            value = read_pairs(name, typing.get_args(bare_type(field))[1], value)
        values[name] = value
    try:
        return check_config(values, kind, "the command line")
    except ProblemsError as err:
        raise typer.BadParameter("; ".join(_as_typed(p, kind) for p in err.problems)) from err


def _as_typed(problem: str, kind: type[Settings]) -> str:
    """Write the fields that a problem begins with, `n_speakers, tune_on: ...`, as their options."""

    def typed(match: re.Match[str]) -> str:
        field = kind.model_fields.get(match[0])
        if field is None:
            return match[0]
        return match[0].upper() if field.is_required() else flag_of(match[0], field).split("/")[0]

    return re.sub(r"^\w+(, \w+)*", lambda fields: re.sub(r"\w+", typed, fields[0]), problem)


def read_pairs(name: str, kind: Any, given: Sequence[str]) -> dict[str, Any]:
    """Return what repeated options NAME=VALUE say, each name once."""
    if kind is Any:
        return apply_overrides({}, given)
    pairs: dict[str, Any] = {}
    if kind is str:
        given = [pair for entry in given for pair in entry.split(",")]
    for entry in given:
        # A table's name may have an equals sign, and so may a file's.
        key, _, text = entry.rpartition("=") if kind is float else entry.partition("=")
        key, text = key.strip(), text.strip()
        try:
            value = kind(text)
        except ValueError:
            key = ""
        if not key or not text or key in pairs:
            if kind is float:
                raise typer.BadParameter(
                    f"{entry!r} is not NAME=W with a number, or names a table again.",
                    param_hint=f"--{name}",
                )
            right = {
                "columns": "OURS=THEIRS, each of ours once, such as file=filename,label=emotion",
                "labels": "THEIRS=OURS, each of theirs once, such as anger=A,joy=H",
            }.get(name, "NAME=FILE, each name once, such as whisper-large-v3=whisper.csv")
            raise BadValueError(f"--{name} {entry!r} must be {right}.")
        pairs[key] = value
    return pairs
