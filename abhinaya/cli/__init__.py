"""The command line: arguments in, reports out. A command imports what it needs when it runs.

`TASKS` names the module of each command, which holds a function of its name (with _ for each -):
its docstring is the help text and ends with an example, its parameters are the arguments. Or it
holds a group of such functions under that name. Importing it must stay light: `abhinaya --help`
imports all of them.
"""

from __future__ import annotations

import importlib
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated

import typer

from abhinaya import __version__
from abhinaya.cli.processes import set_up_logging
from abhinaya.cli.shell.groups import add_command, grouped
from abhinaya.errors import AbhinayaError, LostProcessError, shorten
from abhinaya.stopping.interruptions import (
    EXIT_CODE,
    Interruption,
    heeding_signals,
    is_asked_to_stop,
)
from abhinaya.stopping.neighbours import check_neighbours, forsake_neighbours

__all__ = ["COMMANDS", "TASKS", "app", "main"]

TASKS: dict[str, dict[str, str]] = {
    "Corpora": {
        "prepare": "stages",
        "relabel": "convert",
        "export-dataset": "export",
        "transcribe": "stages",
        "score-asr": "score_asr",
    },
    "Train and predict": {
        "train": "stages",
        "predict": "predict",
        "cross-validate": "stages",
        "ablate-recipe": "trials",
        "sweep": "trials",
        "soup": "soup",
        "export": "export",
    },
    "Fuse": {
        "convert": "convert",
        "vote": "stages",
        "ablate": "ablate",
        "fit": "stages",
        "apply": "stages",
    },
    "Adapt to speakers": {"speakers": "stages", "smooth": "stages"},
    "Judge": {"score": "stages", "compare": "compare"},
    "Submit": {"submit": "stages"},
    "Whole chains": {"run": "run"},
    "Prompts": {"prompts": "prompts"},
    "Look": {
        "report": "show.report",
        "app": "show.app",
        "audit": "show.audit",
        "preview": "trials",
    },
    "Set up": {"doctor": "doctor"},
}
"""Every command and its module, by what one wants to do, in the order of the help text."""

COMMANDS = {name: module for commands in TASKS.values() for name, module in commands.items()}
"""Every command and its module."""

app = typer.Typer(
    no_args_is_help=True,
    cls=grouped(TASKS),
    pretty_exceptions_enable=False,
    # Plain help: it is read in logs of clusters as often as on a terminal.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(args: Sequence[str] | None = None) -> None:
    """Run one command and end the process.

    Exit codes: 0 done; 1 the input was wrong, and the message on stderr says how, or we were, and
    it names the log that says where; 2 the command line was wrong; 130 stopped with Ctrl-C; 143
    stopped by a signal, and the same command goes on. With ABHINAYA_DEBUG=1 nothing is caught that
    is not the user's to mend.

    Args:
        args: what follows the program's name; by default the process' own arguments.

    Raises:
        SystemExit: always.
    """
    with heeding_signals():
        try:
            set_up_logging()
            _build()(args=args, prog_name="abhinaya")
        except KeyboardInterrupt as err:
            forsake_neighbours()
            raise SystemExit(130) from err
        except (Interruption, Exception) as err:
            is_known = isinstance(err, Interruption | AbhinayaError | OSError)
            is_shown = os.environ.get("ABHINAYA_DEBUG", "0") not in ("", "0")
            if is_shown and not is_known and not is_asked_to_stop():
                raise
            forsake_neighbours()
            code, message = _explain(err, sys.argv[1:] if args is None else args)
            typer.echo(message, err=True)
            raise SystemExit(code) from err


@cache
def _build() -> Callable[..., object]:
    """Return the command of all commands; to make it from their signatures takes a moment."""
    return typer.main.get_command(app)


def _explain(err: BaseException, args: Sequence[str]) -> tuple[int, str]:
    """Return the exit code for what ended a command, and the line that says what it was."""
    if not isinstance(err, AbhinayaError | Interruption):
        try:
            check_neighbours(wait_s=1.0)  # torch has its own words for it
        except (LostProcessError, Interruption) as found:
            err = found
    if isinstance(err, AbhinayaError):
        return 1, f"Error: {err}"
    # Asked to stop, whatever it is then, such as a reader of audio that was stopped as well.
    if isinstance(err, Interruption) or is_asked_to_stop():
        return EXIT_CODE, "Stopped by a signal. Run the same command again to go on."
    if isinstance(err, OSError):
        # The file system's own refusals, such as a missing permission.
        return 1, f"Error: {err.strerror or err}{_on_file(err)}."
    return 1, f"Error: {_log_internal_error(err, args)}"


def _log_internal_error(err: BaseException, args: Sequence[str]) -> str:
    """Write what somebody needs who mends it to a file of its own, and return one line about it."""
    text = " ".join(str(err).split())
    what = shorten(text)[1:-1] if text else "no reason given"
    rank = f" in process {os.environ['RANK']}" if "RANK" in os.environ else ""
    said = f"abhinaya {args[0] if args else ''} stopped{rank} with {type(err).__name__}: {what}."
    if isinstance(err, MemoryError) or type(err).__name__ == "OutOfMemoryError":  # torch's
        said += " It needs more memory than there is; choose smaller batches."
    else:
        said += " This is a fault of abhinaya or of a library."
    try:
        handle, log = tempfile.mkstemp(prefix="abhinaya-", suffix=".log")
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"abhinaya {__version__}, Python {sys.version}\n{shlex.join(args)}\n\n")
            traceback.print_exception(err, file=file)
    except OSError as refusal:  # a full disk, perhaps the very reason
        return (
            f"{said} No log could be written ({refusal.strerror}); set ABHINAYA_DEBUG=1 to see it."
        )
    return f"{said} The details are in {log!r}, or on the screen with ABHINAYA_DEBUG=1."


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
    add_command(app, _name, _command)
