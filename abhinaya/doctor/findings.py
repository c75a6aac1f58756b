"""What `abhinaya doctor` tells: one line for each thing that it looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from abhinaya.errors import AbhinayaError

__all__ = ["Finding", "Findings", "Result", "describe_error", "format_bytes"]

_ValueT = TypeVar("_ValueT")

Result = Literal["ok", "problem", "note"]


@dataclass(frozen=True)
class Finding:
    """One line of what `abhinaya doctor` tells.

    Args:
        what: the thing that was looked at, such as a package or a key of a config.
        where: its file, folder or hub id; empty where there is none.
        result: `ok`; `problem`, with which nothing will run; or `note`, something to know.
        details: what was found; for a problem also what would be right, and what to do.
    """

    what: str
    where: str
    result: Result
    details: str


class Findings(list[Finding]):
    """Findings in the order in which they were made; a check that fails does not end the others."""

    def add(self, what: str, where: object, result: Result, details: str) -> None:
        """Append a finding, unless the very same one is there already."""
        finding = Finding(what, str(where), result, details)
        if finding not in self:
            self.append(finding)

    def attempt(
        self, what: str, where: object, check: Callable[[], _ValueT], details: str | None = None
    ) -> _ValueT | None:
        """Return what `check` does; None if it raises, which is added as a problem.

        Args:
            what: see `Finding`.
            where: see `Finding`.
            check: the check; any error of it is a finding.
            details: what to add when it succeeds; None adds nothing.
        """
        try:
            value = check()
        except Exception as err:  # what is broken can fail in any way
            self.add(what, where, "problem", describe_error(err))
            return None
        if details is not None:
            self.add(what, where, "ok", details)
        return value


def format_bytes(n_bytes: int) -> str:
    """Write a number of bytes for people.

    Example:
        >>> format_bytes(3 * 2**29), format_bytes(5 * 2**19)
        ('1.5 GiB', '2.5 MiB')
    """
    if n_bytes < 2**19:
        return f"{n_bytes / 2**10:.1f} KiB"
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MiB"


def describe_error(err: Exception) -> str:
    """Return our own messages as they are; of others the kind and first line, as a sentence."""
    if isinstance(err, AbhinayaError):
        return str(err)
    line = next(iter(str(err).splitlines()), "").strip().rstrip(".")
    return f"{type(err).__name__}: {line}." if line else f"{type(err).__name__}."
