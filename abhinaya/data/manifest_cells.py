"""Cells of a manifest: from whatever a file holds to checked columns.

Each function appends what is wrong to a list, so that a reader sees all problems of a file at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from abhinaya.data.labels import EmotionSet
from abhinaya.data.texts import Texts, find_rows
from abhinaya.errors import list_some

__all__ = [
    "check_subsets",
    "check_utterances",
    "clean",
    "frame_of",
    "known_or_none",
    "numbers",
    "speaker_or_none",
    "text_or_none",
    "votes",
]

_UNKNOWN = frozenset({"", "-1", "n/a", "na", "nan", "none", "null", "unknown"})
"""How tables write that nobody knows, in lower case: the only home of these words."""


def frame_of(table: pa.Table) -> pd.DataFrame:
    """Return the rows of a Parquet file; lists of votes stay in Arrow until `votes` reads them."""
    place: int = table.schema.get_field_index("votes")
    if place < 0 or not pa.types.is_fixed_size_list(table.column(place).type):
        return pd.DataFrame(table.to_pandas())
    frame = pd.DataFrame(table.remove_column(place).to_pandas())
    kind = pd.ArrowDtype(table.column(place).type)
    frame.insert(
        min(place, frame.shape[1]), "votes", pd.Series(table.column(place), frame.index, kind)
    )
    return frame


def clean(column: pd.Series[Any], cleaner: Callable[[Any], str | None]) -> pd.Series[Any]:
    """Return a column as text, each cell as `cleaner`, one of the functions below, returns it."""
    if column.dtype != "str":
        return pd.Series(map(cleaner, column), index=column.index, dtype="str")
    texts = Texts(column)
    # Names differ in every row, and nearly always are clean already.
    if cleaner is text_or_none and texts.arrow.equals(pc.utf8_trim_whitespace(texts.arrow)):
        if not pc.any(pc.equal(texts.arrow, "")).as_py():
            return column
    numbers, found = texts.factorize()
    cleaned = Texts(map(cleaner, found)).take(numbers)
    return pd.Series(cleaned.arrow, index=column.index, dtype="str")


def text_or_none(value: Any) -> str | None:
    """Return text without blanks around it; None for empty cells and lists."""
    if value is None or isinstance(value, list | np.ndarray):
        return None
    if not isinstance(value, str):
        return None if pd.isna(value) else str(value)
    return value.strip() or None


def known_or_none(value: Any) -> str | None:
    """Return text without blanks around it; None for empty cells and every word for unknown."""
    text = text_or_none(value)
    return None if text is None or text.lower() in _UNKNOWN else text


def speaker_or_none(value: Any) -> str | None:
    """Return the name of a speaker or recording: None where unknown, `12` for `12.0`."""
    text = text_or_none(value)
    return known_or_none(text and re.sub(r"^(-?\d+)\.0+$", r"\1", text))


def numbers(frame: pd.DataFrame, column: str, problems: list[str]) -> pd.Series[float]:
    """Return a column as floating-point numbers, NaN for empty cells."""
    if frame[column].dtype == np.float64 and not np.isinf(frame[column]).any():
        return frame[column]
    cells = [
        None if isinstance(value, list) or value == "" else value
        for value in frame[column].tolist()
    ]
    # pandas cannot lose integers of any length without an OverflowError, but it can texts.
    cells = [str(cell) if isinstance(cell, int) and abs(cell) > 2**63 else cell for cell in cells]
    values = pd.to_numeric(pd.Series(cells, index=frame.index, dtype=object), errors="coerce")
    bad = [str(cell) for cell, number in zip(cells, values, strict=True) if _lost(cell, number)]
    if bad:
        problems.append(f"{column} of {len(bad)} rows is not a number, such as {list_some(bad)}")
    return values.astype(float)


def _lost(cell: Any, number: float) -> bool:
    return not np.isfinite(number) and cell is not None and not pd.isna(cell)


def votes(frame: pd.DataFrame, emotions: EmotionSet, problems: list[str]) -> pd.Series[Any]:
    """Read vote counts as int arrays (K + 1,) from arrays, lists or text such as `A:3 N:1`."""
    codes = emotions.vote_codes
    cells = frame["votes"]
    if isinstance(cells.dtype, pd.ArrowDtype):
        lists = pa.table({"votes": pa.array(cells)}).column(0)
        counts = _counts_of(lists, len(codes))
        if counts is not None:
            return pd.Series(counts, index=frame.index, dtype=object)
        cells = lists.to_pandas()
    parsed: list[Any] = []
    bad: list[str] = []
    for utterance, cell in zip(frame["utterance"], cells.tolist(), strict=True):
        try:
            parsed.append(_parse_votes(cell, codes))
        except (TypeError, ValueError):
            parsed.append(None)
            bad.append(f"{cell!r} ({utterance})")
    if bad:
        problems.append(
            f"votes of {len(bad)} rows cannot be read, such as {', '.join(bad[:3])}, expected "
            f"counts like 'A:3 N:1' over {' '.join(codes)}, or a list of {len(codes)} counts"
        )
    return pd.Series(parsed, index=frame.index, dtype=object)


def _counts_of(
    column: pa.ChunkedArray, width: int
) -> list[np.ndarray[Any, np.dtype[np.int32]] | None] | None:
    """Return the rows of one matrix of counts, as `_parse_votes` does; None for other columns."""
    if column.type != pa.list_(pa.int32(), width):
        return None
    lists = column.combine_chunks()
    numbers = lists.flatten()
    matrix = numbers.to_numpy(zero_copy_only=False).reshape(-1, width)
    if numbers.null_count or (matrix < 0).any():
        return None
    counts: list[Any] = [None] * len(lists)
    is_given = lists.is_valid().to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(is_given).tolist()
    for idx, row, is_some in zip(rows, matrix, matrix.any(axis=1).tolist(), strict=True):
        counts[idx] = row if is_some else None
    return counts


def _parse_votes(cell: Any, codes: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int32]] | None:
    if cell is None or (isinstance(cell, float) and np.isnan(cell)):
        return None
    if isinstance(cell, str):
        counts = dict.fromkeys(codes, 0)
        for part in cell.split():
            code, _, number = part.rpartition(":")
            if code not in counts:
                raise ValueError(part)
            counts[code] += int(number)
        cell = list(counts.values()) if cell.strip() else []
    if len(cell) == 0:
        return None
    votes = np.asarray(cell, dtype=np.int32)
    if votes.shape != (len(codes),) or (votes < 0).any() or (votes != np.asarray(cell)).any():
        raise ValueError(cell)
    return votes if votes.any() else None


def check_utterances(utterances: pd.Series[str], problems: list[str]) -> None:
    """Check that every row has a name of its own."""
    n_empty = int(utterances.isna().sum())
    if n_empty:
        problems.append(f"{n_empty} rows have no utterance")
    repeated = utterances[utterances.duplicated() & utterances.notna()].unique()
    if len(repeated):
        problems.append(
            f"{len(repeated)} utterances appear more than once: {list_some(repeated.tolist())}; "
            "keep one row of each"
        )


def check_subsets(
    subsets: Mapping[str, tuple[str, ...]],
    taken: set[str],
    frame: pd.DataFrame,
    problems: list[str],
) -> None:
    """Check that no subset has the name of a split or names an unknown utterance."""
    for name, utterances in subsets.items():
        if name in taken:
            problems.append(f"the subset {name!r} has the name of a split; rename it")
        is_known = find_rows(utterances, Texts(frame["utterance"])) >= 0
        missing = [utterances[idx] for idx in np.flatnonzero(~is_known)]
        if missing:
            problems.append(
                f"the subset {name!r} names {len(missing)} utterances that are in no row: "
                f"{list_some(missing)}"
            )
