"""What is known beside the class: arousal, valence and dominance from 1 to 7, and more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.errors import list_some

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "ATTRIBUTES",
    "ATTRIBUTE_COLUMNS",
    "SECONDARY",
    "attribute_cells",
    "attributes_of",
    "find_outside",
    "read_attribute_cells",
]

ATTRIBUTES = ("arousal", "valence", "dominance")
"""In this order wherever they are columns of an array."""

ATTRIBUTE_COLUMNS = ("EmoAct", "EmoVal", "EmoDom")
"""The same in CSV files, as MSP-Podcast and its challenges call them."""

SECONDARY = (
    "Amused",
    "Angry",
    "Annoyed",
    "Concerned",
    "Confused",
    "Contempt",
    "Depressed",
    "Disappointed",
    "Disgust",
    "Excited",
    "Fear",
    "Frustrated",
    "Happy",
    "Neutral",
    "Other",
    "Sad",
    "Surprise",
)
"""The secondary emotions that the raters of MSP-Podcast choose from, as many as they hear; in a
manifest's column `secondary`, `Happy:0.8 Amused:0.4`, the share of raters who chose each."""

_LOWEST, _HIGHEST = 1.0, 7.0


def find_outside(values: NDArray[Any], names: Sequence[str]) -> list[str]:
    """Return one sentence for each attribute with values outside [1, 7]; NaN is unknown.

    Args:
        values: shape (U, 3), in the order of `ATTRIBUTES`.
        names: U utterances, for the sentences.
    """
    problems = []
    is_wrong = (values < _LOWEST) | (values > _HIGHEST)
    for column, attribute in enumerate(ATTRIBUTES):
        rows = np.flatnonzero(is_wrong[:, column]).tolist()
        if rows:
            shown = [f"{values[row, column]:g} ({names[row]})" for row in rows]
            problems.append(
                f"{attribute} of {len(rows)} rows is outside [1, 7]: {list_some(shown)}"
            )
    return problems


def attribute_cells(values: NDArray[np.float32] | None) -> dict[str, list[float | None]]:
    """Return the columns of a CSV file; an empty cell where a value is unknown."""
    if values is None:
        return {}
    return {
        column: [None if number != number else number for number in numbers]
        for column, numbers in zip(ATTRIBUTE_COLUMNS, values.T.tolist(), strict=True)
    }


def read_attribute_cells(
    columns: Mapping[str, Sequence[str]], names: Sequence[str], problems: list[str]
) -> NDArray[np.float32] | None:
    """Read the columns of a CSV file, None where there is none of them.

    Args:
        columns: cells by column; other columns than `ATTRIBUTE_COLUMNS` do not matter.
        names: U utterances, for the problems.
        problems: what is no number or outside [1, 7] is added.

    Returns:
        shape (U, 3), in the order of `ATTRIBUTES`; NaN where a cell is empty.
    """
    if not set(ATTRIBUTE_COLUMNS) & set(columns):
        return None
    values = np.full((len(names), len(ATTRIBUTES)), np.nan, dtype=np.float32)
    for place, column in enumerate(ATTRIBUTE_COLUMNS):
        wrong = []
        for row, cell in enumerate(columns.get(column, ())):
            try:
                values[row, place] = float(cell) if cell.strip() else np.nan
            except ValueError:
                wrong.append(f"{cell} ({names[row]})")
        if wrong:
            problems.append(f"{column} of {len(wrong)} rows is not a number: {list_some(wrong)}")
    problems += find_outside(values, names)
    return values


def attributes_of(arrow: pa.Table) -> NDArray[np.float32] | None:
    """Return the columns of attributes in a table, NaN where one is missing; None where all are."""
    if not set(ATTRIBUTES) & set(arrow.column_names):
        return None
    values = np.full((len(arrow), len(ATTRIBUTES)), np.nan, dtype=np.float32)
    for idx, name in enumerate(ATTRIBUTES):
        if name in arrow.column_names:
            values[:, idx] = arrow.column(name).to_numpy()
    return values
