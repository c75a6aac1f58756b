"""Cells of a manifest: from whatever a file holds to checked columns.

Each function appends what is wrong to a list, so that a reader sees all problems of a file at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from abhinaya.data.labels import EmotionSet
from abhinaya.errors import list_some

__all__ = [
    "check_subsets",
    "check_utterances",
    "known_or_none",
    "numbers",
    "speaker_or_none",
    "text_or_none",
    "votes",
]

_UNKNOWN = frozenset({"", "-1", "n/a", "na", "nan", "none", "null", "unknown"})
"""How tables write that nobody knows, in lower case: the only home of these words."""


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
    parsed: list[Any] = []
    bad: list[str] = []
    for utterance, cell in zip(frame["utterance"], frame["votes"].tolist(), strict=True):
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
    known = set(frame["utterance"].dropna())
    for name, utterances in subsets.items():
        if name in taken:
            problems.append(f"the subset {name!r} has the name of a split; rename it")
        missing = [utterance for utterance in utterances if utterance not in known]
        if missing:
            problems.append(
                f"the subset {name!r} names {len(missing)} utterances that are in no row: "
                f"{list_some(missing)}"
            )
