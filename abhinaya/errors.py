"""Errors that say what was wrong, where, what would be right and what to do next.

Every class derives from a built-in one as well, so a caller need not know this module. The command
line turns any `AbhinayaError` into its message and exit code 1, and the system's refusals too.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = [
    "AbhinayaError",
    "AudioError",
    "BadShapeError",
    "BadValueError",
    "CheckpointError",
    "ClassOrderError",
    "DiskFullError",
    "LostProcessError",
    "MissingFileError",
    "MissingPackageError",
    "ProblemsError",
    "UnknownNameError",
    "did_you_mean",
    "kind_of",
    "list_some",
    "require_package",
    "shorten",
]


class AbhinayaError(Exception):
    """Base of every error that the user's input can cause."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickle, which brings errors back from worker processes, would call the class with the
        # finished message; but some classes build their message from other arguments.
        return _restore, (type(self), self.args, self.__dict__)


class BadValueError(AbhinayaError, ValueError):
    """A value outside its range or meaning."""


class BadShapeError(AbhinayaError, ValueError):
    """An array whose shape does not fit the others."""


class AudioError(AbhinayaError, ValueError):
    """A sound file that cannot be used. The message fits into one row of `problems.csv`."""


class CheckpointError(AbhinayaError, ValueError):
    """Weights that do not fit the model that should hold them."""


class DiskFullError(AbhinayaError, OSError):
    """A file that cannot be written whole.

    Args:
        path: the file or folder.
        n_free: bytes that are free there.
    """

    def __init__(self, path: object, n_free: int) -> None:
        super().__init__(
            f"{str(path)!r} cannot be written: {n_free:,} bytes are free there, or a quota or a "
            "limit on the size of files is reached. Free some space, and run the same command "
            "again: it goes on with what is finished."
        )

    def __str__(self) -> str:
        return str(self.args[0])


class MissingFileError(AbhinayaError, FileNotFoundError):
    """A file or folder that is not there."""

    def __str__(self) -> str:
        return str(self.args[0])


class LostProcessError(AbhinayaError, RuntimeError):
    """A process of a launch that has ended before its work was done.

    Args:
        rank: its number.
        n_processes: in the launch.
    """

    def __init__(self, rank: int, n_processes: int) -> None:
        super().__init__(
            f"Process {rank} of 0 to {n_processes - 1} has ended before its work was done, so the "
            "others stop too. Its own message says why, unless it was killed; run the same command "
            "again to go on."
        )


class MissingPackageError(AbhinayaError, ImportError):
    """An optional package that is not installed.

    Args:
        package: name to import.
        purpose: what needs it, for example "Logging to TensorBoard".
        extra: the extra of this distribution that brings it.
    """

    def __init__(self, package: str, purpose: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}. "
            f"Install it with: pip install 'abhinaya[{extra}]'."
        )


def require_package(package: str, purpose: str, extra: str) -> None:
    """Refuse to go on without an optional package; arguments as for `MissingPackageError`.

    Raises:
        MissingPackageError: if it is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise MissingPackageError(package, purpose, extra)


class UnknownNameError(AbhinayaError, KeyError):
    """A name that is not in a closed list; the message gives near matches and the list.

    Args:
        kind: what the name should name, for example "member".
        name: the value received.
        known: all valid names.
    """

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        names = sorted(known)
        # Names out of a damaged file may be endless.
        listed = _cut(", ".join(names), 2_000) if names else "none"
        super().__init__(
            f"Unknown {kind} {shorten(name)}.{did_you_mean(str(name), names)} Known: {listed}."
        )

    def __str__(self) -> str:
        return str(self.args[0])


class ClassOrderError(BadValueError):
    """Two sources whose class-indexed numbers stand in different orders.

    Args:
        what: the file or object at hand.
        got: its class codes, in order.
        expected: the class codes it has to agree with, in order.
        where: what the expected order comes from.
    """

    def __init__(self, what: str, got: Sequence[str], expected: Sequence[str], where: str) -> None:
        super().__init__(
            f"{what} has the class order {' '.join(got)}, but {where} has {' '.join(expected)}. "
            "Using both would permute the classes. Make one again with the other's emotion set."
        )


class ProblemsError(BadValueError):
    """All problems of one file at once.

    Args:
        where: the file.
        problems: one sentence each, without a closing full stop.
    """

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        # A damaged file may be one word of a megabyte.
        self.problems = tuple(_cut(text, 1_000) for text in problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        listed = " ".join(
            f"({n}) {text}" if text.endswith("?") else f"({n}) {text}."
            for n, text in enumerate(self.problems, start=1)
        )
        super().__init__(f"{count} in {where}: {listed}")


def _restore(
    error_class: type[AbhinayaError], args: tuple[Any, ...], state: dict[str, Any]
) -> AbhinayaError:
    error = error_class.__new__(error_class, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the nearest known name, with a leading blank, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def list_some(items: Iterable[object], n_shown: int = 3) -> str:
    """Return the first few items through `repr`, and how many more there are.

    Example:
        >>> list_some(["a", "b", "c", "d"])
        "'a', 'b', 'c' and 1 more"
    """
    values = list(items)
    shown = ", ".join(shorten(value) for value in values[:n_shown])
    n_left = len(values) - n_shown
    return f"{shown} and {n_left} more" if n_left > 0 else shown


def kind_of(value: object) -> str:
    """Return what a value is, for people: "nothing", "a list"."""
    return "nothing" if value is None else f"a {type(value).__name__}"


def shorten(value: object, n_shown: int = 200) -> str:
    """Return a value through `repr`, so long that it still fits into a message."""
    return _cut(repr(value), n_shown)


def _cut(text: str, n_shown: int) -> str:
    return text if len(text) <= n_shown else f"{text[:n_shown]}... ({len(text):,} characters)"
