"""What could not be used: one row per utterance and reason, kept in `problems.csv`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from abhinaya.files import write_csv

__all__ = ["PROBLEMS", "Problem", "problems_beside", "write_problems"]

PROBLEMS = "problems.csv"
"""Name of the list in a prepared corpus and in a run directory."""


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that could not be used.

    Args:
        utterance: the file name it concerns, or the name of the file that has the problem.
        reason: what is wrong and what was done about it, one line.
    """

    utterance: str
    reason: str


def problems_beside(table: Path) -> Path:
    """Return where the problems of a table lie, such as `wavlm.problems.csv`."""
    return table.with_suffix(f".{PROBLEMS}")


def write_problems(path: Path, problems: Iterable[Problem]) -> int:
    """Write all problems, sorted and each once; return their number.

    The file is written even when there are none, so that an old one cannot be mistaken for new.
    """
    rows = sorted(set(problems))
    write_csv(path, ["utterance", "reason"], [(p.utterance, p.reason) for p in rows])
    return len(rows)
