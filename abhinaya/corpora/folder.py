"""Any corpus that comes as a CSV with the columns `file` and `label`, or as a folder per class.

Further columns of a manifest (`speaker`, `split`, `gender`, ...) are taken over, `text` becomes the
human transcript, and all others are kept as they are.
"""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path

import pandas as pd

from abhinaya.corpora.base import (
    CorpusFacts,
    Prepared,
    PrepareOptions,
    build_manifest,
    distinct_names,
    names_in,
    read_csv_text,
)
from abhinaya.corpora.own_split import draw_split, hash_clips
from abhinaya.data.label_csv import OTHER_NAMES, repeated_columns
from abhinaya.data.labels import EmotionSet
from abhinaya.data.manifest import Manifest
from abhinaya.data.manifest_cells import known_or_none
from abhinaya.data.sound_folders import find_audio
from abhinaya.data.transcripts import HUMAN
from abhinaya.errors import BadValueError, MissingFileError, ProblemsError, did_you_mean
from abhinaya.files import read_text

__all__ = ["FACTS", "prepare"]

FACTS = CorpusFacts(
    name="folder",
    title="A folder with a table of labels",
    emotions=None,
    licence="unknown",
    citation="unknown",
    url="unknown",
)

_TABLE = "labels.csv"
_UNKNOWABLE = ("speaker", "gender", "language")


def prepare(source: Path, options: PrepareOptions) -> Prepared:
    """Read manifest and transcripts from a CSV, or without one from sub-folders named by class.

    `file` is relative to the CSV; its name is the utterance unless there is a column `utterance`.
    Files of one name in several folders keep their folder in it.
    The classes are those of `emotions.json` or `classes.txt` (one per line) beside the CSV, else
    the labels that occur, sorted. An empty label is None, and so is an empty or `Unknown` speaker.

    Args:
        source: the CSV, or a folder that holds `labels.csv` or exactly one CSV, or else audio in a
            sub-folder for each class.
        options: see `PrepareOptions`.

    Raises:
        MissingFileError: if there is neither, or more than one CSV and none is `labels.csv`.
        BadValueError: if a file is not of its format.
        ProblemsError: if columns are missing, utterances repeated or labels not among the classes.
    """
    found = _class_folders(source) if source.is_dir() and not options.columns else None
    if found is not None:
        return Prepared(_finish(found, source, str(source), options))
    table = _find_table(source)
    rows = read_csv_text(table)
    for theirs in options.columns.values():
        if theirs not in rows:
            near = did_you_mean(theirs, rows.columns)
            raise BadValueError(f"{str(table)!r} has no column {theirs!r}.{near}")
    rows = rows.rename(columns={theirs: ours for ours, theirs in options.columns.items()})
    columns = [str(column) for column in rows.columns]
    if repeated := repeated_columns(columns):
        raise ProblemsError(str(table), repeated)
    missing = [column for column in ("file", "label") if column not in columns]
    if missing:
        raise ProblemsError(
            str(table),
            [
                f"the column {name!r} is missing, got {', '.join(columns)}."
                f"{did_you_mean(name, columns)}{_shape_of(name, columns)}".rstrip(".")
                for name in missing
            ],
        )
    rows = rows.rename(columns={"file": "audio"})
    if "utterance" not in rows:
        rows.insert(0, "utterance", distinct_names(rows["audio"].tolist()))
    for column in _UNKNOWABLE:
        if column in rows:
            rows[column] = [known_or_none(value) for value in rows[column]]
    texts = rows.pop("text").tolist() if "text" in rows else []
    manifest = _finish(rows, table.parent, str(table), options)
    transcripts = [
        {"utterance": utterance, "source": HUMAN, "text": text.strip()}
        for utterance, text in zip(manifest.rows["utterance"], texts, strict=bool(texts))
    ]
    return Prepared(manifest, transcripts)


def _class_folders(source: Path) -> pd.DataFrame | None:
    """Return the audio below a folder without CSV, labelled by sub-folder; None if there is none.

    What lies in no sub-folder has no label.
    """
    files = [] if any(source.glob("*.csv")) else find_audio(source)
    parts = [file.relative_to(source) for file in files]
    if not any(len(part.parts) > 1 for part in parts):
        return None
    audio = [part.as_posix() for part in parts]
    labels = [part.parts[0] if len(part.parts) > 1 else "" for part in parts]
    return pd.DataFrame({"utterance": distinct_names(audio), "audio": audio, "label": labels})


def _finish(rows: pd.DataFrame, root: Path, where: str, options: PrepareOptions) -> Manifest:
    """Return the checked manifest, with a split of its own where that is asked for and needed."""
    emotions = _emotions_of(root, rows)
    manifest = build_manifest(rows, FACTS, root, emotions=emotions, where=where)
    if options.own_split is None:
        return manifest
    manifest = hash_clips(manifest)
    if manifest.splits:
        return manifest
    split, by = draw_split(manifest, options.own_split, where)
    facts = {**manifest.facts, "split": by}
    return replace(manifest, rows=manifest.rows.assign(split=split), facts=facts)


def _shape_of(name: str, columns: list[str]) -> str:
    """Return what to do about a table in a common shape of other tools, or an empty string."""
    if len(columns) == 1 and (";" in columns[0] or "\t" in columns[0]):
        return " The cells have semicolons or tabs between them: save the table with commas."
    for column in columns:
        if column.strip().lower() in OTHER_NAMES[name]:
            return f" Read it with --columns {name}={column}."
    return ""


def _find_table(source: Path) -> Path:
    if source.is_file():
        return source
    if (source / _TABLE).is_file():
        return source / _TABLE
    tables = sorted(source.glob("*.csv"))
    if len(tables) == 1:
        return tables[0]
    found = f"{len(tables)} CSV files and none is {_TABLE}" if tables else "no CSV file"
    raise MissingFileError(
        f"There is {found} in {str(source)!r}; it holds {names_in(source)}. "
        f"Give the CSV with the columns file and label, or name it {_TABLE}, or put the audio into "
        "a sub-folder for each class."
    )


def _emotions_of(folder: Path, rows: pd.DataFrame) -> EmotionSet:
    as_json, as_text = folder / "emotions.json", folder / "classes.txt"
    if as_json.is_file():
        return EmotionSet.from_json(read_text(as_json), where=str(as_json))
    if as_text.is_file():
        lines = read_text(as_text).splitlines()
        return EmotionSet.from_codes([line.strip() for line in lines if line.strip()])
    labels = sorted({label.strip() for label in rows["label"]} - {""})
    if len(labels) < 2:
        raise BadValueError(
            f"The label column has {len(labels)} different labels, {labels!r}, expected "
            "two or more. Name the classes in classes.txt beside the table, one per line."
        )
    spellings: dict[str, str] = {}
    for label in labels:
        key = unicodedata.normalize("NFC", label).casefold()
        if key in spellings:
            raise BadValueError(
                f"The label column spells one class in two ways, {spellings[key]!r} and {label!r}. "
                "Write one of them everywhere, or name the classes in classes.txt beside the table."
            )
        spellings[key] = label
    return EmotionSet.from_codes(labels)
