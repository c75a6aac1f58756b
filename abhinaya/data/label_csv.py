"""CSV files of a name and a label per row: how challenges and other tools exchange predictions."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from abhinaya.errors import BadValueError, MissingFileError, ProblemsError, list_some

__all__ = ["FILE_COLUMN", "LABEL_COLUMN", "csv_header", "read_csv_rows"]

FILE_COLUMN = "FileName"
"""Column of the utterance, the ending such as .wav included."""

LABEL_COLUMN = "EmoClass"
"""Column of the class code; an empty cell means that there is no label."""


def read_csv_rows(
    path: Path, required: Sequence[str] = (FILE_COLUMN, LABEL_COLUMN)
) -> tuple[list[str], list[dict[str, str]]]:
    """Read header and rows of a CSV file; what the cells say is left to the caller.

    Args:
        path: the file, UTF-8 with or without a byte-order mark.
        required: columns that must be there; the first one must be filled in every row.

    Returns:
        header: the column names.
        rows: one dictionary per row, from column name to cell.

    Raises:
        MissingFileError: if the file is not there.
        BadValueError: if the file is no UTF-8 text.
        ProblemsError: if a column is missing, a row has too few or too many cells, or no name.
    """
    lines = _read_lines(path)
    header = lines[0][1] if lines else []
    missing = [name for name in required if name not in header]
    if missing:
        raise ProblemsError(
            str(path), [f"the column {name!r} is missing, got {header!r}" for name in missing]
        )
    problems: list[str] = []
    uneven = [number for number, cells in lines[1:] if len(cells) != len(header)]
    if uneven:
        problems.append(
            f"{len(uneven)} rows do not have {len(header)} cells like the header: "
            f"line {list_some(uneven)}"
        )
    rows = [dict(zip(header, cells, strict=False)) for _, cells in lines[1:]]
    unnamed = [
        number
        for (number, _), row in zip(lines[1:], rows, strict=True)
        if not row.get(required[0], "").strip()
    ]
    if unnamed:
        problems.append(
            f"{len(unnamed)} rows have an empty {required[0]}: line {list_some(unnamed)}"
        )
    if problems:
        raise ProblemsError(str(path), problems)
    return header, rows


def csv_header(path: Path) -> list[str]:
    """Return the column names of a CSV file; an empty list for an empty file."""
    lines = _read_lines(path, first_only=True)
    return lines[0][1] if lines else []


def _read_lines(path: Path, *, first_only: bool = False) -> list[tuple[int, list[str]]]:
    """Yield line number and cells of every line that is not blank."""
    if not path.is_file():
        raise MissingFileError(f"There is no file {str(path)!r}. Correct the path.")
    lines: list[tuple[int, list[str]]] = []
    try:
        # A byte-order mark, which spreadsheets write, would become part of the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            for cells in reader:
                if cells:
                    lines.append((reader.line_num, cells))
                    if first_only:
                        break
    except (UnicodeDecodeError, csv.Error) as err:
        raise BadValueError(
            f"{str(path)!r} cannot be read as CSV: {err}. Save it as comma-separated UTF-8 text."
        ) from err
    return lines
