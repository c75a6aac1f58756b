"""The manifest: one row per utterance of a corpus, and named selections of rows.

On disk it is a Parquet file whose metadata holds the emotion set; CSV and JSONL are read too.
Beside it stand `subsets/NAME.txt` (one utterance per line) and `transcripts.parquet`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from abhinaya.data.frames import Framed
from abhinaya.data.label_csv import csv_header, repeated_columns
from abhinaya.data.labels import EmotionSet, emotions_beside
from abhinaya.data.manifest_cells import (
    check_subsets,
    check_utterances,
    clean,
    frame_of,
    known_or_none,
    numbers,
    speaker_or_none,
    text_or_none,
    votes,
)
from abhinaya.data.parquet import METADATA_KEY, check_columns, read_parquet, stored_facts
from abhinaya.errors import (
    BadValueError,
    MissingFileError,
    ProblemsError,
    UnknownNameError,
    did_you_mean,
    list_some,
)
from abhinaya.files import atomic_path, parse_json, read_text, write_text

__all__ = [
    "ALL",
    "MANIFEST",
    "TEXT_COLUMNS",
    "Manifest",
    "make_manifest",
    "read_manifest",
    "write_manifest",
]

MANIFEST = "manifest.parquet"
"""Name of the file in a prepared corpus."""

ALL = "all"
"""Selection that means every row."""

TEXT_COLUMNS = (
    "utterance",
    "audio",
    "split",
    "label",
    "speaker",
    "gender",
    "language",
    "recording",
)
_CLEANERS = {"speaker": speaker_or_none, "recording": speaker_or_none, "gender": known_or_none}
NUMBER_COLUMNS = ("duration_s", "turn", "arousal", "valence", "dominance")
_COLUMNS = (
    "utterance",
    "audio",
    "split",
    "label",
    "speaker",
    "gender",
    "language",
    "duration_s",
    "recording",
    "turn",
    "arousal",
    "valence",
    "dominance",
    "votes",
)


@dataclass(frozen=True, repr=False)
class Manifest(Framed):
    """A corpus as a table.

    Args:
        rows: one row per utterance. Columns: `utterance` (unique file name), `audio` (path relative
            to `root`), `split`, `label`, `speaker` (None = unknown), `gender`, `language`,
            `duration_s` (seconds), `recording`, `turn`, `arousal`, `valence`, `dominance`, `votes`
            (annotator counts, int array of shape (K + 1,): the classes in order, then O). Null
            where unknown; further columns are kept.
        emotions: the classes and their order.
        root: folder that `audio` is relative to.
        subsets: named lists of utterances.
        facts: corpus name, licence, citation and the like.
        audio_root: where given, audio is looked up there, by its relative path or else by file
            name.
    """

    rows: pd.DataFrame
    emotions: EmotionSet
    root: Path
    subsets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    audio_root: Path | None = None

    def headline(self) -> str:
        """Say what the corpus is."""
        parts = ", ".join([*self.splits, *self.subsets]) or "no splits"
        return f"{len(self.rows)} utterances of {' '.join(self.emotions.codes)}: {parts}"

    def to_frame(self) -> pd.DataFrame:
        """Return the rows."""
        return self.rows

    @property
    def splits(self) -> list[str]:
        """Return the names of the official splits, in order of appearance."""
        return list(self.rows["split"].dropna().unique())

    def select(self, selection: str | Sequence[str]) -> pd.DataFrame:
        """Return the rows of a selection, in the manifest's order, each once.

        Args:
            selection: names of splits or subsets, or `all`; `NAME:O,X` keeps only those labels.

        Raises:
            UnknownNameError: if a name is neither a split nor a subset.
            BadValueError: if a label is unknown, or the selection has no rows.
        """
        items = [selection] if isinstance(selection, str) else list(selection)
        chosen = np.zeros(len(self.rows), dtype=bool)
        for item in items:
            chosen |= self._matches(item)
        if not chosen.any():
            raise BadValueError(
                f"The selection {', '.join(items)!r} has no rows. "
                f"Splits: {', '.join(self.splits) or 'none'}; "
                f"subsets: {', '.join(self.subsets) or 'none'}."
            )
        return self.rows.loc[chosen].reset_index(drop=True)

    def _matches(self, item: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
        name, _, wanted = item.partition(":")
        if name == ALL:
            matches = np.ones(len(self.rows), dtype=bool)
        elif name in self.subsets:
            matches = self.rows["utterance"].isin(self.subsets[name]).to_numpy(dtype=bool)
        elif name in self.splits:
            matches = (self.rows["split"] == name).fillna(False).to_numpy(dtype=bool)
        else:
            raise UnknownNameError("split or subset", name, [ALL, *self.splits, *self.subsets])
        if wanted:
            labels = wanted.split(",")
            unknown = [label for label in labels if label not in self.emotions.data_labels]
            if unknown:
                raise BadValueError(
                    f"The selection {item!r} asks for the unknown label {list_some(unknown)}; "
                    f"the corpus has {' '.join(self.emotions.data_labels)}."
                )
            matches = matches & self.rows["label"].isin(labels).to_numpy(dtype=bool)
        return matches

    def audio_path(self, audio: str) -> Path:
        """Return the path of a row's `audio` cell; whether the file exists is not checked."""
        if self.audio_root is None:
            # macOS stores umlauts as two signs (NFD), others as one: both are the same file.
            forms = [] if audio.isascii() else [normalize(form, audio) for form in ("NFC", "NFD")]
            others = (self.root / form for form in forms)
            path = self.root / audio
            if not forms or path.is_file():
                return path
            return next((other for other in others if other.is_file()), path)
        direct = self.audio_root / audio
        if direct.is_file():
            return direct
        return self._files_by_name.get(normalize("NFC", Path(audio).name), direct)

    @cached_property
    def _files_by_name(self) -> dict[str, Path]:
        """Return every file below `audio_root` by its name; the first in sorted order wins."""
        found: dict[str, Path] = {}
        assert self.audio_root is not None
        for folder, subfolders, names in os.walk(self.audio_root):
            subfolders.sort()
            for name in sorted(names):
                found.setdefault(normalize("NFC", name), Path(folder) / name)
        return found

    @cached_property
    def digest(self) -> str:
        """Hash of rows, classes and subsets; where the audio lies is not part of it."""
        hasher = hashlib.sha256()
        hasher.update(self.emotions.to_json().encode())
        hasher.update(json.dumps({k: list(v) for k, v in sorted(self.subsets.items())}).encode())
        # As dictionaries, which take much memory, only some rows at a time.
        for rows in _to_arrow(self).drop_columns(["audio"]).to_batches(max_chunksize=10_000):
            for record in rows.to_pylist():
                hasher.update(json.dumps(record, sort_keys=True, default=str).encode())
        return hasher.hexdigest()[:16]


def make_manifest(
    rows: pd.DataFrame | Sequence[Mapping[str, Any]],
    emotions: EmotionSet,
    root: Path,
    *,
    subsets: Mapping[str, Iterable[str]] | None = None,
    facts: Mapping[str, str] | None = None,
    where: str = "the manifest",
) -> Manifest:
    """Make a checked manifest; all problems are reported together.

    Columns that are missing become None; empty strings and empty lists become None.

    Args:
        rows: data frame or list of dictionaries; only `utterance` is required.
        emotions: the classes of `label` and `votes`.
        root: folder that `audio` is relative to.
        subsets: named lists of utterances.
        facts: corpus name, licence, citation and the like.
        where: how error messages call the table.

    Raises:
        ProblemsError: if utterances are missing or repeated, labels are unknown, numbers are none,
            vote counts do not fit the classes, or a subset names an unknown utterance.
    """
    frame = pd.DataFrame(rows).reset_index(drop=True)
    problems: list[str] = []
    if "utterance" not in frame:
        near = did_you_mean("utterance", [str(column) for column in frame.columns])
        raise ProblemsError(
            where,
            [f"the column 'utterance' is missing, got {list(frame.columns)!r}.{near}".rstrip(".")],
        )
    kinds: dict[str, Any] = dict.fromkeys(TEXT_COLUMNS, "str")
    kinds |= dict.fromkeys(NUMBER_COLUMNS, float)
    for column in _COLUMNS:
        if column not in frame:
            # Of its type from the beginning, so that no cell of it is looked at.
            frame[column] = pd.Series(None, index=frame.index, dtype=kinds.get(column, object))
    for column in TEXT_COLUMNS:
        frame[column] = clean(frame[column], _CLEANERS.get(column, text_or_none))
    for column in NUMBER_COLUMNS:
        frame[column] = numbers(frame, column, problems)
    frame["votes"] = votes(frame, emotions, problems)
    check_utterances(frame["utterance"], problems)
    known = set(emotions.data_labels)
    wrong = frame.loc[frame["label"].notna() & ~frame["label"].isin(known), ["utterance", "label"]]
    if len(wrong):
        shown = [f"{row.label} ({row.utterance})" for row in wrong.itertuples()]
        problems.append(
            f"{len(wrong)} rows have an unknown label, such as {list_some(shown)}, expected one of "
            f"{' '.join(emotions.data_labels)} or an empty cell"
        )
    partial = frame["turn"].dropna() % 1 != 0
    if partial.any():
        problems.append(f"turn of {partial.sum()} rows is not a whole number")
    if (frame["duration_s"] < 0).any():
        problems.append(f"{(frame['duration_s'] < 0).sum()} rows have a negative duration_s")
    if (frame["split"] == ALL).any():
        problems.append(f"a split is named {ALL!r}, which selects every row; rename it")
    named = {name: tuple(members) for name, members in (subsets or {}).items()}
    check_subsets(named, {*frame["split"].dropna().unique(), ALL}, frame, problems)
    if problems:
        raise ProblemsError(where, problems)
    further = [column for column in frame.columns if column not in _COLUMNS]
    return Manifest(frame[[*_COLUMNS, *further]], emotions, Path(root), named, dict(facts or {}))


def read_manifest(path: str | Path, *, audio_root: Path | None = None) -> Manifest:
    """Read the manifest at `path` (.parquet, .csv or .jsonl) with the subsets beside it.

    A Parquet file holds its emotion set. For CSV and JSONL it is read from `emotions.json` in the
    same folder (`{"codes": [...], "names": [...], "outside": [...]}`); without one the set is
    MSP-Podcast's.

    Args:
        path: the file.
        audio_root: where the audio lies now, if not where the manifest was made.

    Raises:
        MissingFileError: if the file is not there.
        BadValueError: if the ending is unknown or the file is not of that format.
        ProblemsError: see `make_manifest`.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(
            f"There is no manifest {str(path)!r}. "
            "Make one with: abhinaya prepare CORPUS SOURCE --out DIR."
        )
    if audio_root is not None and not Path(audio_root).is_dir():
        raise MissingFileError(f"The audio root {str(audio_root)!r} is not a folder.")
    facts: dict[str, str] = {}
    try:
        if path.suffix == ".parquet":
            table = read_parquet(path, "parquet")
            stored = stored_facts(table, path)
            if stored.get("kind") != "manifest":
                raise BadValueError(
                    f"{str(path)!r} is a Parquet file but not a manifest. "
                    "Make one with: abhinaya prepare CORPUS SOURCE --out DIR."
                )
            check_columns(table, stored, path, facts={"emotions": str, "facts": dict})
            emotions = EmotionSet.from_json(
                stored["emotions"], where=f"'emotions' of {str(path)!r}"
            )
            facts = stored["facts"]
            frame = frame_of(table)
        elif path.suffix == ".csv":
            emotions = emotions_beside(path)
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
            repeated = repeated_columns(csv_header(path))  # pandas would rename the second one
            if repeated:
                raise ProblemsError(str(path), repeated)
        elif path.suffix == ".jsonl":
            emotions = emotions_beside(path)
            frame = pd.DataFrame(
                [
                    parse_json(line, f"{str(path)!r} cannot be read as jsonl: line {number}")
                    for number, line in enumerate(read_text(path).split("\n"), start=1)
                    if line.strip()
                ]
            )
        else:
            raise BadValueError(
                f"The manifest {str(path)!r} ends in {path.suffix!r}, "
                "expected .parquet, .csv or .jsonl."
            )
    except (
        pa.ArrowException,
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
        UnicodeDecodeError,
    ) as err:
        raise BadValueError(f"{str(path)!r} cannot be read as {path.suffix[1:]}: {err}.") from err
    subsets = {
        file.stem: read_text(file).split("\n")
        for file in sorted((path.parent / "subsets").glob("*.txt"))
    }
    manifest = make_manifest(
        frame,
        emotions,
        path.parent,
        subsets={name: [line for line in lines if line] for name, lines in subsets.items()},
        facts=facts,
        where=str(path),
    )
    if audio_root is None:
        return manifest
    return Manifest(
        manifest.rows, emotions, path.parent, manifest.subsets, facts, audio_root=Path(audio_root)
    )


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest as Parquet and its subsets as `subsets/NAME.txt` beside it."""
    for name, utterances in manifest.subsets.items():
        write_text(path.parent / "subsets" / f"{name}.txt", "".join(f"{u}\n" for u in utterances))
    with atomic_path(path) as temporary:
        pq.write_table(_to_arrow(manifest), temporary)


def _to_arrow(manifest: Manifest) -> pa.Table:
    rows = manifest.rows
    n_votes = len(manifest.emotions.vote_codes)
    types: dict[str, pa.DataType] = dict.fromkeys(TEXT_COLUMNS, pa.string())
    types |= dict.fromkeys(NUMBER_COLUMNS, pa.float64())
    types |= {"turn": pa.int64(), "votes": pa.list_(pa.int32(), n_votes)}
    arrays: dict[str, pa.Array] = {}
    for name in rows.columns:
        try:
            arrays[name] = pa.array(rows[name], type=types.get(name), from_pandas=True)
        except pa.ArrowException as err:
            raise BadValueError(
                f"The column {name!r} cannot be stored: {err}. Give all its cells one type."
            ) from err
    stored = {
        "kind": "manifest",
        "emotions": manifest.emotions.to_json(),
        "facts": dict(manifest.facts),
    }
    return pa.table(arrays).replace_schema_metadata({METADATA_KEY: json.dumps(stored)})
