"""Commands by task, their help with an example, and the option that all of them have."""

from __future__ import annotations

import inspect
import logging
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from abhinaya.cli.processes import set_up_logging

__all__ = ["add_command", "grouped"]

_Quiet = Annotated[
    bool, typer.Option("--quiet", help="Show no progress; errors, notes and results stay.")
]


def grouped(sections: Mapping[str, Iterable[str]]) -> type[TyperGroup]:
    """Return a kind of group whose help has one section for each heading."""

    class Grouped(TyperGroup):
        def format_commands(self, ctx: Any, formatter: Any) -> None:
            names = [name for section in sections.values() for name in section]
            width = max(map(len, names))
            for heading, section in sections.items():
                with formatter.section(heading):
                    formatter.write_dl(
                        [
                            (name.ljust(width), self.commands[name].get_short_help_str(200))
                            for name in section
                        ]
                    )

    return Grouped


def add_command(app: typer.Typer, name: str, command: Callable[..., None] | typer.Typer) -> None:
    """Add a command, or a command that has commands of its own."""
    if isinstance(command, typer.Typer):
        for info in command.registered_commands:
            assert info.callback is not None
            info.help, info.callback = _help_of(info.callback), _with_quiet(info.callback)
        app.add_typer(command, name=name)
    else:
        app.command(name, help=_help_of(command))(_with_quiet(command))


def _help_of(command: Callable[..., None]) -> str:
    """Return the text of `--help`, whose example is not filled up to full lines."""
    return inspect.cleandoc(command.__doc__ or "").replace("\nExample:\n", "\n\b\nExample:\n")


def _with_quiet(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with the option --quiet."""
    hints = typing.get_type_hints(command, include_extras=True)

    def run(*, quiet: bool, **given: Any) -> None:
        if not quiet:
            command(**given)
            return
        set_up_logging(logging.WARNING)
        try:
            command(**given)
        finally:
            set_up_logging()

    parameters = [
        parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(command).parameters.values()
    ]
    quiet = inspect.Parameter(
        "quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Quiet
    )
    described: Any = run  # a function's type has no signature to set
    described.__name__ = command.__name__
    described.__signature__ = inspect.Signature([*parameters, quiet])
    described.__annotations__ = {p.name: p.annotation for p in (*parameters, quiet)}
    return run
