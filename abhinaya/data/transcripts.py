"""Transcripts: what was said, keyed by utterance and source.

Sources are `human` or the name of a recogniser such as `whisper-large-v3`. A text of "" means that
nothing was said; None means that the clip was not transcribed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from abhinaya.data.parquet import read_parquet
from abhinaya.errors import (
    MissingFileError,
    ProblemsError,
    UnknownNameError,
    list_some,
)
from abhinaya.files import atomic_path

__all__ = [
    "HUMAN",
    "read_transcript_rows",
    "read_transcripts",
    "transcripts_path",
    "write_transcripts",
]

HUMAN = "human"
"""Source of transcripts that people wrote."""

_KEYS = ("utterance", "source", "text")


def transcripts_path(folder: Path) -> Path:
    """Return where the transcripts of the manifest in a folder lie."""
    return folder / "transcripts.parquet"


def write_transcripts(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write transcripts as Parquet.

    Args:
        rows: dictionaries with `utterance`, `source`, `text` and any further decoder scores.
        path: the file to write.

    Raises:
        ProblemsError: if a key is missing or not text, or a pair of utterance and source is
            repeated.
    """
    _check(rows, str(path))
    further = sorted({key for row in rows for key in row if key not in _KEYS})
    columns: dict[str, pa.Array] = {
        key: pa.array([row[key] for row in rows], type=pa.string()) for key in _KEYS
    }
    columns |= {key: pa.array([row.get(key) for row in rows]) for key in further}
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary)


def read_transcripts(path: Path, source: str) -> dict[str, str | None]:
    """Read the text of every utterance of one source.

    Raises:
        MissingFileError: if the file is not there.
        BadValueError: if the file is not Parquet.
        UnknownNameError: if the file has no such source.
        ProblemsError: if columns are missing, keys None or repeated.
    """
    rows = _read(path).select(_KEYS).to_pylist()
    _check(rows, str(path))
    sources = {row["source"] for row in rows}
    if source not in sources:
        raise UnknownNameError("transcript source", source, sources)
    return {row["utterance"]: row["text"] for row in rows if row["source"] == source}


def read_transcript_rows(path: Path) -> list[dict[str, Any]]:
    """Read all rows of all sources, decoder scores included, as `write_transcripts` takes them.

    Raises:
        MissingFileError: if the file is not there.
        BadValueError: if the file is not Parquet.
        ProblemsError: if columns are missing, keys None or repeated.
    """
    rows: list[dict[str, Any]] = _read(path).to_pylist()
    _check(rows, str(path))
    return rows


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise MissingFileError(
            f"There are no transcripts {str(path)!r}. "
            "Make some with: abhinaya transcribe MANIFEST --model M."
        )
    table = read_parquet(path)
    missing = [key for key in _KEYS if key not in table.column_names]
    if missing:
        raise ProblemsError(str(path), [f"the column {key!r} is missing" for key in missing])
    return table


def _check(rows: Sequence[Mapping[str, Any]], where: str) -> None:
    problems: list[str] = []
    for key in _KEYS:
        n_missing = sum(key not in row for row in rows)
        if n_missing:
            problems.append(f"{n_missing} rows have no {key!r}")
        wrong = [row[key] for row in rows if key in row and not isinstance(row[key], str)]
        if key == "text":
            wrong = [text for text in wrong if text is not None]
        if wrong:
            problems.append(f"{key!r} of {len(wrong)} rows is not text: {list_some(wrong)}")
    if not problems:
        seen: set[tuple[str, str]] = set()
        repeated = []
        for row in rows:
            pair = (row["utterance"], row["source"])
            if pair in seen:
                repeated.append(" from ".join(pair))
            seen.add(pair)
        if repeated:
            problems.append(
                f"{len(repeated)} rows repeat a pair of utterance and source: {list_some(repeated)}"
            )
    if problems:
        raise ProblemsError(where, problems)
