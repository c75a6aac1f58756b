"""What every stage returns: a short table to print, and what stands beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Cell", "Report", "find_best", "interval_text"]

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
        best: row and column of the cells to be marked, see `find_best`.
    """

    title: str | None
    columns: list[str]
    rows: list[list[Cell]]
    files: tuple[Path, ...] = ()
    remark: str | None = None
    notes: tuple[str, ...] = ()
    more: tuple[Report, ...] = ()
    data: Any = None
    best: tuple[tuple[int, int], ...] = ()

    def as_json(self) -> Any:
        """Return `data`, or one object per row."""
        if self.data is not None:
            return self.data
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def interval_text(interval: tuple[float, float]) -> str:
    """Return an interval as a cell shows it."""
    return f"{interval[0]:.4f}-{interval[1]:.4f}"


def find_best(
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    highest: Sequence[str] = (),
    lowest: Sequence[str] = (),
) -> tuple[tuple[int, int], ...]:
    """Return row and column of the best cells; none of a column whose cells are all equal.

    Args:
        columns: the headings.
        rows: those that compete, from the first one on; numbers may be texts such as `+0.1`.
        highest: headings of the columns where more is better.
        lowest: headings of the columns where less is better.
    """
    best = []
    for column, name in enumerate(columns):
        if name not in (*highest, *lowest):
            continue
        cells = {idx: row[column] for idx, row in enumerate(rows)}
        values = {idx: float(cell) for idx, cell in cells.items() if cell is not None}
        wanted = (max if name in highest else min)(values.values(), default=0.0)
        if len(set(values.values())) > 1:
            best += [(idx, column) for idx, value in values.items() if value == wanted]
    return tuple(best)
