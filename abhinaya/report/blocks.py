"""What a page is made of; it knows nothing of members or votes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Block",
    "Cell",
    "Choice",
    "Details",
    "Figure",
    "Headline",
    "Page",
    "Part",
    "Section",
    "Table",
    "Text",
]

Cell = str | int | float | None
"""What a table may hold; None becomes an empty cell."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Headline:
    """A number that is seen first, and what stands below it."""

    value: str
    text: str


@dataclass(frozen=True)
class Details:
    """A text as it is, such as a config, shown when asked for."""

    title: str
    text: str


@dataclass(frozen=True)
class Figure:
    """A picture.

    Args:
        title: its heading; downloads are named by it.
        svg: what `abhinaya.report.figures` draws.
        text: what one sees in it, for those who do not see it and for the caption.
    """

    title: str
    svg: str
    text: str


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        title: its heading; downloads are named by it.
        columns: the headings.
        rows: one cell per heading; floating-point numbers are shown with four digits.
        best: columns whose highest number is marked.
        text: what the reader should know besides.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    best: Sequence[str] = ()
    text: str = ""

    def show(self, cell: Cell) -> str:
        """Return a cell as the reader sees it."""
        if cell is None:
            return ""
        return f"{cell:.4f}" if isinstance(cell, float) else str(cell)

    def is_number(self, idx: int) -> bool:
        """Return whether a column holds nothing but numbers, which are then flush right."""
        cells = [row[idx] for row in self.rows if row[idx] is not None]
        return bool(cells) and all(isinstance(cell, int | float) for cell in cells)

    def is_best(self, row: int, idx: int) -> bool:
        """Return whether a cell is the highest of a column in `best`."""
        if self.columns[idx] not in self.best or len(self.rows) < 2:
            return False
        values = [cell for cells in self.rows if isinstance(cell := cells[idx], int | float)]
        return bool(values) and self.rows[row][idx] == max(values)

    @property
    def csv(self) -> str:
        """The table as CSV, every digit of its numbers."""
        return str(self._frame().to_csv(index=False, lineterminator="\n"))

    @property
    def latex(self) -> str:
        """The table as LaTeX for the package booktabs."""
        formats = ["r" if self.is_number(idx) else "l" for idx in range(len(self.columns))]
        shown = [[self.show(cell) for cell in row] for row in self.rows]
        return str(
            self._frame(shown).to_latex(
                index=False, escape=True, column_format="".join(formats), caption=self.title
            )
        )

    def _frame(self, rows: Sequence[Sequence[Cell]] | None = None) -> pd.DataFrame:
        import pandas as pd

        cells = np.array(self.rows if rows is None else rows, dtype=object)
        return pd.DataFrame(cells.reshape(-1, len(self.columns)), columns=list(self.columns))


@dataclass(frozen=True)
class Choice:
    """Blocks of which one is shown at a time, chosen by one switch or several.

    Args:
        title: the heading.
        switches: names of the alternatives, by name of the switch.
        blocks: one for each combination, by the alternatives' names in order.
    """

    title: str
    switches: Mapping[str, Sequence[str]]
    blocks: Mapping[tuple[str, ...], Figure]


Block = Text | Headline | Details | Figure | Table | Choice
"""Anything that a section holds."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it; never nothing."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Part:
    """Sections about one thing."""

    title: str
    sections: Sequence[Section]


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    subtitle: str
    parts: Sequence[Part]
