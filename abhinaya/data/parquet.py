"""Parquet files that somebody else may have written: every cell is checked before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from abhinaya.data.label_csv import repeated_columns
from abhinaya.errors import BadValueError, ProblemsError, kind_of
from abhinaya.files import parse_json

__all__ = [
    "METADATA_KEY",
    "check_columns",
    "fixed_lists",
    "matrix_of",
    "read_parquet",
    "stored_facts",
]

METADATA_KEY = b"abhinaya"
"""Key of our own JSON in the metadata of a file."""


def read_parquet(path: Path, called: str = "Parquet") -> pa.Table:
    """Read a Parquet file whole, texts checked to be UTF-8.

    Args:
        path: the file.
        called: the format, for messages.

    Raises:
        BadValueError: if the file is damaged or no Parquet.
        ProblemsError: if two columns have one name.
    """
    try:
        with pq.ParquetFile(path) as file:
            repeated = repeated_columns(file.schema_arrow.names)
            table = None if repeated else file.read()
        if table is not None:
            table.validate(full=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as err:
        reason = " ".join(str(err).split())[:200].rstrip(".")
        raise BadValueError(
            f"{str(path)!r} cannot be read as {called}: {reason}. Copy it again, or make it again."
        ) from err
    if table is None:
        raise ProblemsError(str(path), repeated)
    pa.default_memory_pool().release_unused()  # what decoding took, before numpy takes its own
    return table


def stored_facts(table: pa.Table, path: Path) -> dict[str, Any]:
    """Return our own JSON out of a file's metadata; an empty dictionary where there is none.

    Raises:
        BadValueError: if it is no JSON, or another value than a dictionary.
    """
    text = (table.schema.metadata or {}).get(METADATA_KEY, b"{}")
    stored = parse_json(text, f"The metadata of {str(path)!r}")
    if not isinstance(stored, dict):
        raise BadValueError(
            f"The metadata of {str(path)!r} is {kind_of(stored)}, expected a dictionary. "
            "Make the file again with abhinaya."
        )
    return stored


def check_columns(
    table: pa.Table,
    stored: Mapping[str, Any],
    path: Path,
    *,
    facts: Mapping[str, type],
    texts: Mapping[str, bool] | None = None,
    flags: tuple[str, ...] = (),
    matrices: tuple[str, ...] = (),
    numbers: tuple[str, ...] = (),
) -> None:
    """Refuse a file that lacks something, or holds it in another form; all faults at once.

    Args:
        table: what was read.
        stored: its metadata, from `stored_facts`.
        path: for messages.
        facts: keys that the metadata must have, and their types.
        texts: columns of text; true for those that must be there.
        flags: columns of true or false, checked where they are there.
        matrices: columns of lists of one length, checked where they are there.
        numbers: columns of numbers, checked where they are there.

    Raises:
        ProblemsError: if anything is wrong.
    """
    problems = []
    for key, kind in facts.items():
        if key not in stored:
            problems.append(f"the metadata lacks {key!r}")
        elif not isinstance(stored[key], kind):
            shown = repr(stored[key])[:60]
            problems.append(f"{key!r} is {shown}, expected {kind.__name__}")
    for name, is_needed in (texts or {}).items():
        if name not in table.column_names:
            if is_needed:
                problems.append(f"the column {name!r} is missing, got {table.column_names!r}")
        elif not _is_text(table.column(name).type):
            problems.append(f"{name!r} holds {table.column(name).type}, expected text")
        elif name == "utterance" and table.column(name).null_count:
            problems.append(f"{table.column(name).null_count} rows have no utterance")
    for name in flags:
        if name in table.column_names:
            column = table.column(name)
            if not pa.types.is_boolean(column.type) or column.null_count:
                problems.append(f"{name!r} holds {column.type}, expected true or false in each row")
    for name in matrices:
        if name in table.column_names and not _is_matrix(table.column(name).type):
            problems.append(
                f"{name!r} holds {table.column(name).type}, expected lists of one length of float"
            )
    for name in numbers:
        if name in table.column_names and not pa.types.is_floating(table.column(name).type):
            problems.append(f"{name!r} holds {table.column(name).type}, expected float")
    if problems:
        raise ProblemsError(str(path), problems)


def fixed_lists(matrix: NDArray[np.float32]) -> pa.Array:
    """Store rows as fixed-size lists; a row that is all NaN becomes None."""
    n_rows, width = matrix.shape
    values = pa.array(np.ascontiguousarray(matrix, dtype=np.float32).reshape(-1))
    missing = pa.array(np.isnan(matrix).all(axis=1))
    if n_rows == 0:
        return pa.array([], type=pa.list_(pa.float32(), width))
    return pa.FixedSizeListArray.from_arrays(values, width, mask=missing)


def matrix_of(table: pa.Table, name: str) -> NDArray[np.float32] | None:
    """Return the (U, D) array of a column of fixed-size lists, NaN where a row has no list.

    Raises:
        BadValueError: if a row that has a list has numbers in it that are not finite.
    """
    if name not in table.column_names:
        return None
    column = table.column(name).combine_chunks()
    width = column.type.list_size
    # The numbers of the rows that have a list, in a copy that may be changed.
    numbers = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    matrix = np.array(numbers, dtype=np.float32)
    is_finite = bool(np.isfinite(matrix).all())
    valid = np.ones(len(column), dtype=bool)
    if column.null_count:
        valid = column.is_valid().to_numpy(zero_copy_only=False)
        matrix = np.full((len(column), width), np.nan, dtype=np.float32)
        matrix[valid] = numbers
    if not is_finite:
        wrong = valid & ~np.isfinite(matrix).all(axis=1)
        utterance = table.column("utterance")[int(wrong.argmax())].as_py()
        raise BadValueError(
            f"{name} of {int(wrong.sum())} rows hold numbers that are not finite, such as "
            f"{utterance!r}"
        )
    return matrix


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
    )


def _is_matrix(kind: pa.DataType) -> bool:
    return pa.types.is_fixed_size_list(kind) and bool(
        pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)
    )
