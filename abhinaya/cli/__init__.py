"""The command line: arguments in, reports out. A command imports what it needs when it runs.

`COMMANDS` names the module of each command, which holds a function of its name (with _ for each -):
its docstring is the help text, its parameters are the arguments. Or it holds a group of such
functions under that name. Importing it must stay light: `abhinaya --help` imports all of them.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Annotated

import typer

from abhinaya import __version__
from abhinaya.cli.processes import set_up_logging
from abhinaya.errors import AbhinayaError

__all__ = ["COMMANDS", "app", "main"]

COMMANDS = {
    "prepare": "stages",
    "transcribe": "stages",
    "train": "stages",
    "predict": "stages",
    "vote": "stages",
    "ablate": "ablate",
    "fit": "stages",
    "apply": "stages",
    "smooth": "stages",
    "speakers": "stages",
    "soup": "soup",
    "score": "stages",
    "score-asr": "score_asr",
    "compare": "compare",
    "submit": "stages",
    "run": "run",
    "export": "export",
    "doctor": "doctor",
    "prompts": "prompts",
}
"""Every command and its module, in the order of the help text, which puts groups last."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help: it is read in logs of clusters as often as on a terminal.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(args: Sequence[str] | None = None) -> None:
    """Run one command and end the process.

    Exit codes: 0 done; 1 the input was wrong, and the message on stderr says how; 2 the command
    line was wrong; 130 stopped with Ctrl-C.

    Args:
        args: what follows the program's name; by default the process' own arguments.

    Raises:
        SystemExit: always.
    """
    try:
        set_up_logging()
        app(args=args, prog_name="abhinaya")
    except AbhinayaError as err:
        typer.echo(f"Error: {err}", err=True)
        raise SystemExit(1) from err
    except OSError as err:
        # The file system's own refusals, such as a full disk or a missing permission.
        typer.echo(f"Error: {err.strerror or err}{_on_file(err)}.", err=True)
        raise SystemExit(1) from err
    except KeyboardInterrupt as err:
        raise SystemExit(130) from err


def _on_file(err: OSError) -> str:
    return f": {os.fspath(err.filename)!r}" if isinstance(err.filename, str | os.PathLike) else ""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"abhinaya {__version__}")
        raise typer.Exit


@app.callback()
def _abhinaya(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """From an emotional-speech corpus on disk to a validated challenge submission."""


for _name, _module in COMMANDS.items():
    _command = getattr(importlib.import_module(f"{__name__}.{_module}"), _name.replace("-", "_"))
    if isinstance(_command, typer.Typer):  # a command with commands of its own
        app.add_typer(_command, name=_name)
    else:
        app.command(_name)(_command)
