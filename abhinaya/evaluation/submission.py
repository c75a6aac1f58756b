"""Submissions to a challenge: checked to the last row, and kept in a ledger.

A submission is a CSV `FileName,EmoClass`, or of attributes `FileName,EmoAct,EmoVal,EmoDom`. Beside
it stands `submissions.jsonl`, one line per distinct submission: date, digest, the tables it came
from, and every score the organisers returned.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.attributes import ATTRIBUTE_COLUMNS
from abhinaya.data.label_csv import (
    FILE_COLUMN,
    LABEL_COLUMN,
    csv_header,
    read_csv_table,
    write_labels,
)
from abhinaya.data.labels import MSP_PODCAST, EmotionSet
from abhinaya.data.manifest import ALL, read_manifest
from abhinaya.data.predictions import PredictionTable, read_table
from abhinaya.data.texts import Texts, find_rows
from abhinaya.errors import (
    BadValueError,
    MissingFileError,
    ProblemsError,
    list_some,
)
from abhinaya.evaluation.challenges import CHALLENGES, Challenge, Layout, find_challenge
from abhinaya.evaluation.submission_checks import find_attributes, find_problems
from abhinaya.files import parse_json, read_text, sole_writer, write_csv, write_text

__all__ = [
    "CHALLENGES",
    "LEDGER_NAME",
    "Challenge",
    "Task",
    "expected_names",
    "find_challenge",
    "read_ledger",
    "record_score",
    "write_submission",
]

LEDGER_NAME = "submissions.jsonl"
"""The ledger, in the folder of the submission."""

Task = Literal["classes", "attributes"]
"""What a submission predicts."""


def expected_names(
    challenge: Challenge | None, names_file: Path | None = None, *, selection: str = ALL
) -> Sequence[str]:
    """List the file names that a submission must have, in order.

    Args:
        challenge: its own names are taken where there is no file.
        names_file: one name per line, a CSV with the column `FileName`, or a manifest.
        selection: the rows of that manifest.

    Raises:
        BadValueError: if there is neither a file nor a list of names, or the challenge has another
            number of clips than the file names.
        ProblemsError: if the file repeats a name, or a needed column is missing.
    """
    if names_file is None:
        if challenge is None or challenge.names is None:
            what = "No challenge was given"
            if challenge is not None:
                number = f" {challenge.n_rows:,}" if challenge.n_rows else ""
                what = f"{challenge.name!r} publishes no names of its{number} clips"
            raise BadValueError(
                f"{what}, so the expected names are unknown. Give them with --names FILE: one name "
                f"per line, a CSV with the column {FILE_COLUMN}, or a manifest."
            )
        return challenge.names
    names = _read_names(Path(names_file), selection)
    if not names.is_unique:
        repeated = [name for name, count in names.count_each().items() if count > 1]
        raise ProblemsError(
            str(names_file), [f"{len(repeated)} names appear more than once: {list_some(repeated)}"]
        )
    n_rows = None if challenge is None else challenge.n_rows
    if challenge is not None and n_rows is not None and len(names) != n_rows:
        raise BadValueError(
            f"{str(names_file)!r} names {len(names):,} utterances, but {challenge.name!r} has "
            f"{n_rows:,}. Give the names of its test set, or leave out --challenge."
        )
    return names


def write_submission(
    source: PredictionTable | Path,
    out: Path,
    *,
    names: Sequence[str],
    emotions: EmotionSet | None = MSP_PODCAST,
    challenge: str | None = None,
    task: Task = "classes",
    layout: Layout | None = None,
) -> str:
    """Write a submission and its line in the ledger; return the file's SHA-256.

    Args:
        source: a table, or the path of one; a CSV made elsewhere is checked as it stands.
        out: the CSV to write; it has the expected names in the expected order.
        names: the file names expected, from `expected_names`.
        emotions: classes that may be predicted; None takes those of the table, which a CSV lacks.
        challenge: kept in the ledger.
        task: `attributes` submits arousal, valence and dominance, the classes do not count then.
        layout: how classes are written; None is a CSV `FileName,EmoClass`.

    Raises:
        BadValueError: if `out` has not the ending of the layout, or the table has no attributes.
        ClassOrderError: if the table has another class order than `emotions`.
        ProblemsError: if a name is missing, extra or repeated, or a row has no label out of the
            set, or no attribute in [1, 7]; nothing is written then.
    """
    layout = layout or Layout()
    ending = ".csv" if task == "attributes" else layout.ending
    if out.suffix != ending:
        raise BadValueError(f"The submission {str(out)!r} must end in {ending}.")
    if task == "attributes":
        values, tables = find_attributes(source, names)
        write = partial(_write_attributes, out, names, values)
    else:
        labels, tables = _labels_of(source, names, emotions)
        write = partial(_write_classes, out, Texts(names), labels, layout)
    with sole_writer(out.parent / LEDGER_NAME, "--out", waits=True):
        entries = read_ledger(out.parent)  # a damaged one is refused before anything is written
        write()
        digest = _digest(out)
        if all(entry["sha256"] != digest for entry in entries):
            entries.append(
                {
                    "date": datetime.now(UTC).isoformat(timespec="seconds"),
                    "file": out.name,
                    "sha256": digest,
                    "challenge": challenge,
                    **({} if task == "classes" else {"task": task}),
                    "tables": list(tables),
                    "score": None,
                }
            )
            _write_ledger(out.parent, entries)
    return digest


def record_score(out: Path, score: float) -> None:
    """Keep a score that the organisers returned for a submission, with the date.

    The last one is `score` of its entry, all are in `scores`.

    Args:
        out: the submission as it was handed in; it is found in the ledger by its content.
        score: in [0, 1].

    Raises:
        MissingFileError: if there is no such submission.
        BadValueError: if the score is out of range, or the file is not in the ledger beside it.
    """
    if not 0 <= score <= 1:
        raise BadValueError(
            f"The score {score} is not between 0 and 1. Write 44.02 % as 0.4402, for example."
        )
    if not out.is_file():
        raise MissingFileError(
            f"There is no submission {str(out)!r}. "
            "Write one with: abhinaya submit TABLE --out FILE."
        )
    digest = _digest(out)
    ledger = out.parent / LEDGER_NAME
    with sole_writer(ledger, "--out", waits=True):
        entries = read_ledger(out.parent)
        found = [entry for entry in entries if entry["sha256"] == digest]
        if not found:
            raise BadValueError(
                f"{str(out)!r} is not in {str(ledger)!r}: none of the "
                f"{len(entries)} entries has its SHA-256 {digest[:12]}. It was changed after it "
                "was written, or written elsewhere. Pass it through abhinaya submit first."
            )
        entry = found[0]
        if entry["score"] is not None:  # of an earlier version, which kept the last one only
            entry.setdefault("scores", [{"date": None, "score": entry["score"]}])
        now = datetime.now(UTC).isoformat(timespec="seconds")
        entry["scores"] = [*entry.get("scores", []), {"date": now, "score": score}]
        entry["score"] = score
        _write_ledger(out.parent, entries)


def read_ledger(folder: Path) -> list[dict[str, Any]]:
    """Read the entries of the ledger in a folder, oldest first; none where there is no ledger.

    Raises:
        BadValueError: if it is no UTF-8 text.
        ProblemsError: if lines are not entries of a ledger.
    """
    path = folder / LEDGER_NAME
    if not path.is_file():
        return []
    entries: list[dict[str, Any]] = []
    problems: list[str] = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            entry = parse_json(line, "The line")
        except BadValueError:
            entry = None
        if isinstance(entry, dict) and isinstance(entry.get("sha256"), str):
            entries.append(entry)
        else:
            problems.append(f"line {number} is not an entry with a sha256: {line[:40]!r}")
    if problems:
        raise ProblemsError(str(path), problems)
    return entries


def _labels_of(
    source: PredictionTable | Path, names: Sequence[str], emotions: EmotionSet | None
) -> tuple[Texts, Sequence[str]]:
    """Return the label of each expected name, and the tables behind it."""
    where, utterances, labels, emotions, tables = _columns_of(source, emotions)
    places = find_rows(names, utterances)
    _, found = labels.factorize()
    fits = len(names) == len(utterances) and (places >= 0).all() and utterances.is_unique
    if not fits or not set(found) <= set(emotions.codes):
        problems = find_problems(list(zip(utterances, labels, strict=True)), names, emotions)
        if problems:
            raise ProblemsError(where, problems)
    if isinstance(source, Path) and source.suffix == ".csv":
        read_table(source, emotions=emotions)  # its probabilities may contradict its labels
    return labels.take(places), tables


def _columns_of(
    source: PredictionTable | Path, emotions: EmotionSet | None
) -> tuple[str, Texts, Texts, EmotionSet, Sequence[str]]:
    """Return what messages call the source, names, labels, classes, and the tables behind it."""
    if isinstance(source, Path) and source.suffix == ".csv":
        # Not through `read_table`: a file made elsewhere shall hear of all its faults at once.
        cells = read_csv_table(source)
        labels = Texts(cells[LABEL_COLUMN]).replace("", None)
        classes = emotions or MSP_PODCAST
        return str(source), Texts(cells[FILE_COLUMN]), labels, classes, [source.stem]
    table = read_table(source) if isinstance(source, Path) else source
    where = str(source) if isinstance(source, Path) else f"table {table.name!r}"
    classes = emotions or table.emotions
    classes.require_same_order(table.emotions, what=f"Table {table.name!r}", where="the challenge")
    labels = Texts(classes.decode(table.labels))
    return where, Texts(table.utterances), labels, classes, table.meta.get("tables", [table.name])


def _read_names(path: Path, selection: str) -> Texts:
    is_csv = path.suffix == ".csv"
    if path.suffix in (".parquet", ".jsonl") or (is_csv and "utterance" in csv_header(path)):
        return Texts(read_manifest(path).select(selection)["utterance"])
    if is_csv:
        return Texts(read_csv_table(path, required=(FILE_COLUMN,))[FILE_COLUMN])
    if not path.is_file():
        raise MissingFileError(f"There is no file of names {str(path)!r}. Correct the path.")
    lines = (line.strip() for line in read_text(path).splitlines())
    return Texts(line for line in lines if line)


def _write_classes(path: Path, names: Texts, labels: Texts, layout: Layout) -> None:
    if layout == Layout():
        write_labels(path, names, labels)
        return
    columns = (
        {layout.label: labels}
        if layout.file is None
        else {layout.file: names, layout.label: labels}
    )
    rows = [tuple(columns)] if layout.header else []
    rows += list(zip(*columns.values(), strict=True))
    sign = "\t" if layout.ending == ".tsv" else ","
    write_text(path, "".join(sign.join(map(str, row)) + "\n" for row in rows))


def _write_attributes(path: Path, names: Sequence[str], values: NDArray[np.float32]) -> None:
    rows = ([name, *map("{:.6f}".format, row)] for name, row in zip(names, values, strict=True))
    write_csv(path, [FILE_COLUMN, *ATTRIBUTE_COLUMNS], rows)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_ledger(folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    write_text(
        folder / LEDGER_NAME,
        "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries),
    )
