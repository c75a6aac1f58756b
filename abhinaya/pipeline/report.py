"""What every stage returns: a short table to print, and what stands beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Cell", "Report", "interval_text"]

Cell = str | int | float | None
"""What a table may hold; None becomes an empty cell."""


@dataclass(frozen=True)
class Report:
    """A short table for the reader of the screen or the log.

    Args:
        title: printed above; None for a table that explains itself.
        columns: the headings.
        rows: one cell per heading.
        files: what was written.
        remark: a sentence below the table.
        notes: what the reader should know besides; printed on stderr, so that a table for a paper
            stays clean.
        more: further tables of the same stage.
        data: what JSON shows where that is more than the rows keyed by their headings.
    """

    title: str | None
    columns: list[str]
    rows: list[list[Cell]]
    files: tuple[Path, ...] = ()
    remark: str | None = None
    notes: tuple[str, ...] = ()
    more: tuple[Report, ...] = ()
    data: Any = None

    def as_json(self) -> Any:
        """Return `data`, or one object per row."""
        if self.data is not None:
            return self.data
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def interval_text(interval: tuple[float, float]) -> str:
    """Return an interval as a cell shows it."""
    return f"{interval[0]:.4f}-{interval[1]:.4f}"
