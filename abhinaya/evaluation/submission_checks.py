"""What a submission must hold: the expected names once each, and something valid for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.attributes import ATTRIBUTE_COLUMNS, read_attribute_cells
from abhinaya.data.label_csv import FILE_COLUMN, find_ending, find_spelling, read_csv_table
from abhinaya.data.labels import EmotionSet
from abhinaya.data.predictions import PredictionTable, read_table
from abhinaya.data.texts import find_rows
from abhinaya.errors import BadValueError, ProblemsError, list_some

__all__ = ["find_attributes", "find_problems"]


def find_problems(
    rows: Sequence[tuple[str, str | None]], names: Sequence[str], emotions: EmotionSet
) -> list[str]:
    """Return what is wrong with names and labels, one sentence each.

    Args:
        rows: name and label of each row.
        names: the expected names.
        emotions: classes that may be predicted.
    """
    empty = [name for name, label in rows if label is None]
    invalid = [f"{label} ({name})" for name, label in rows if label not in (None, *emotions.codes)]
    codes = " ".join(emotions.codes)
    problems = _name_problems([name for name, _ in rows], names)
    if empty:
        problems.append(
            f"{len(empty)} rows have no label: {list_some(empty)}; write one of {codes}, for "
            "example with abhinaya vote --fallback CLASS"
        )
    if invalid:
        problems.append(
            f"{len(invalid)} rows have a label that cannot be predicted: {list_some(invalid)}; "
            f"write one of {codes}"
            f"{find_spelling((label for _, label in rows if label), emotions.codes)}"
        )
    return problems


def find_attributes(
    source: PredictionTable | Path, names: Sequence[str]
) -> tuple[NDArray[np.float32], Sequence[str]]:
    """Read arousal, valence and dominance of the expected names, in their order.

    Args:
        source: a table, or the path of one; a CSV needs the columns FileName, EmoAct, EmoVal and
            EmoDom only.
        names: the expected names.

    Returns:
        values: shape (U, 3), all in [1, 7].
        tables: the tables behind it.

    Raises:
        BadValueError: if the table has no attributes.
        ProblemsError: if a name is missing, extra or repeated, or a value is none in [1, 7].
    """
    problems: list[str] = []
    if isinstance(source, Path) and source.suffix == ".csv":
        cells = read_csv_table(source, required=(FILE_COLUMN, *ATTRIBUTE_COLUMNS))
        columns = cells.select([FILE_COLUMN, *ATTRIBUTE_COLUMNS]).to_pydict()
        given: Sequence[str] = columns[FILE_COLUMN]
        found = read_attribute_cells(columns, given, problems)
        where, tables = str(source), [source.stem]
    else:
        table = read_table(source) if isinstance(source, Path) else source
        where = str(source) if isinstance(source, Path) else f"table {table.name!r}"
        given, found = table.utterances, table.attributes
        tables = table.meta.get("tables", [table.name])
    if found is None:
        raise BadValueError(
            f"{where} predicts no attributes. Train a member with attributes: {{arousal: 0.3, "
            "valence: 0.3, dominance: 0.3}, and submit its table, or a vote of several."
        )
    for column, values in zip(ATTRIBUTE_COLUMNS, found.T, strict=True):
        empty = [given[row] for row in np.flatnonzero(np.isnan(values)).tolist()]
        if empty and not any(problem.startswith(column) for problem in problems):
            problems.append(
                f"{len(empty)} rows have no {column}: {list_some(empty)}; give each a number from "
                "1 to 7"
            )
    problems = _name_problems(list(given), names) + problems
    if problems:
        raise ProblemsError(where, problems)
    return found[find_rows(names, given)], tables


def _name_problems(given: Sequence[str], names: Sequence[str]) -> list[str]:
    expected = set(names)
    counts = Counter(given)
    missing = [name for name in names if name not in counts]
    extra = [name for name in counts if name not in expected]
    repeated = [f"{name} ({count} times)" for name, count in counts.items() if count > 1]
    problems = []
    if missing:
        problems.append(
            f"{len(missing)} of {len(names)} expected names are missing: {list_some(missing)}; "
            "predict these too"
        )
    if extra:
        problems.append(
            f"{len(extra)} names are not expected: {list_some(extra)}"
            f"{find_ending(extra, expected) or '; remove them'}"
        )
    if repeated:
        problems.append(
            f"{len(repeated)} names appear more than once: {list_some(repeated)}; "
            "keep one row of each"
        )
    return problems
