"""CSV files of a name and a label per row: how challenges and other tools exchange predictions."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from abhinaya.data.attributes import attribute_cells, read_attribute_cells
from abhinaya.data.labels import ABSTAIN, MSP_PODCAST, EmotionSet
from abhinaya.data.texts import Texts
from abhinaya.errors import BadValueError, MissingFileError, ProblemsError, list_some
from abhinaya.files import atomic_path, write_csv

if TYPE_CHECKING:
    from abhinaya.data.predictions import PredictionTable

__all__ = [
    "FILE_COLUMN",
    "LABEL_COLUMN",
    "MARK_COLUMN",
    "OTHER_NAMES",
    "PROB_TOLERANCE",
    "classes_in_headers",
    "csv_header",
    "find_contradictions",
    "find_ending",
    "find_shape",
    "find_spelling",
    "read_csv_columns",
    "read_csv_rows",
    "read_csv_table",
    "read_lines",
    "read_probabilities",
    "repeated_columns",
    "write_csv_table",
    "write_labels",
]

FILE_COLUMN = "FileName"
"""Column of the utterance, the ending such as .wav included."""

OTHER_NAMES = {
    "file": ("filename", "file_name", "path", "wav", "audio", "audio_path", "clip", "file"),
    "label": ("emotion", "emoclass", "class", "category", "target", "label"),
}
"""What other tools call the columns of names and labels, in lower case."""

PROB_TOLERANCE = 1e-3
"""How far probabilities may be off: other tools round them."""

LABEL_COLUMN = "EmoClass"
"""Column of the class code; an empty cell means that there is no label."""

MARK_COLUMN = "trained_on"
"""Column that says `true` where the weights were trained on the row; without it nothing was."""


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
        ProblemsError: if a column is missing or stands there twice, a row has too few or too many
            cells, or no name.
    """
    lines = read_lines(path)
    header = lines[0][1] if lines else []
    missing = [name for name in required if name not in header]
    if missing:
        raise ProblemsError(
            str(path),
            [
                f"the column {name!r} is missing, got {header!r}"
                + (find_shape(path, header) if name == missing[-1] else "")
                for name in missing
            ],
        )
    problems = repeated_columns(header)
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


def read_csv_table(path: Path, required: Sequence[str] = (FILE_COLUMN, LABEL_COLUMN)) -> pa.Table:
    """Read the cells of a CSV file as columns of text; arguments and errors of `read_csv_rows`."""
    table = _read_plain(path, required) if path.is_file() else None
    if table is None:
        header, rows = read_csv_rows(path, required)
        return pa.table({name: Texts([row[name] for row in rows]).arrow for name in header})
    return table


def _read_plain(path: Path, required: Sequence[str]) -> pa.Table | None:
    """Read the file by Arrow; None where Python might read it otherwise, or would refuse it."""
    from pyarrow import csv as arrow_csv

    content = path.read_bytes()
    if b'"' in content or b"\0" in content:
        return None
    try:
        header = csv_header(path)
        table = arrow_csv.read_csv(
            pa.BufferReader(content),
            parse_options=arrow_csv.ParseOptions(quote_char=False),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.large_string()), strings_can_be_null=False
            ),
        )
    except (BadValueError, pa.ArrowException):
        return None
    is_repeated = len(set(header)) < len(header)
    if table.column_names != header or is_repeated or not set(required) <= set(header):
        return None
    longest = [pc.max(pc.binary_length(column)).as_py() or 0 for column in table.columns]
    is_unnamed = pc.equal(pc.utf8_trim_whitespace(table.column(required[0])), "")
    is_too_long = max(longest) > csv.field_size_limit()
    return None if is_too_long or pc.any(is_unnamed).as_py() else table


def write_labels(path: Path, names: Texts, labels: Texts) -> None:
    """Write the two columns that every challenge takes."""
    from pyarrow import csv as arrow_csv

    plain = arrow_csv.WriteOptions(include_header=False, quoting_style="none")
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(f"{FILE_COLUMN},{LABEL_COLUMN}\n".encode())
            arrow_csv.write_csv(pa.table([names.arrow, labels.arrow], ["0", "1"]), file, plain)
    except pa.ArrowInvalid:  # a comma or quotes in a name
        write_csv(path, [FILE_COLUMN, LABEL_COLUMN], zip(names, labels, strict=True))


def find_shape(path: Path, header: Sequence[str]) -> str:
    """Return how a table with the columns of other tools is read, or an empty string."""
    options = ""
    for sign, given in ((";", "';'"), ("\t", "tab")):
        if len(header) == 1 and sign in header[0]:
            header, options = header[0].split(sign), f" --separator {given}"
    theirs = []
    for ours, column in (("file", FILE_COLUMN), ("label", LABEL_COLUMN)):
        near = [name for name in header if name.strip().lower() in OTHER_NAMES[ours]]
        if column not in header and near:
            theirs.append(f"{ours}={near[0].strip()}")
    options += f" --columns {','.join(theirs)}" if theirs else ""
    return f"; it is read after abhinaya convert {path} --out NEW.csv{options}" if options else ""


def find_spelling(labels: Iterable[str], codes: Container[str]) -> str:
    """Return how labels with blanks or as words become codes, or an empty string."""
    texts = [label.strip() for label in labels if label not in codes]
    if any(text in codes for text in texts):
        return "; they have blanks around them, which abhinaya convert removes"
    if any(text.lower() in MSP_PODCAST.names for text in texts):
        return "; words become letters with abhinaya convert --words"
    return ""


def find_ending(names: Iterable[str], others: Iterable[str]) -> str:
    """Return how names and others that do not match will, by blanks or .wav, or an empty string."""
    ours, theirs = ({name.strip() for name in side} for side in (names, others))
    if ours & theirs:
        return "; some have blanks around them, which abhinaya convert removes"
    if {n.removesuffix(".wav") for n in ours} & {n.removesuffix(".wav") for n in theirs}:
        return "; names without .wav get it with abhinaya convert --ending .wav"
    return ""


def repeated_columns(header: Sequence[str]) -> list[str]:
    """Return what is wrong with column names that stand there more than once; blank ones may."""
    counts = Counter(name for name in header if name.strip())
    return [
        f"the column {name!r} stands there {count} times; remove all but one"
        for name, count in counts.items()
        if count > 1
    ]


def read_probabilities(
    rows: Sequence[Mapping[str, str]], codes: Sequence[str], problems: list[str]
) -> NDArray[np.float32]:
    """Read the columns `prob_CODE`; what is wrong is added to `problems`.

    Args:
        rows: U rows, from `read_csv_rows`.
        codes: the K classes, in order.
        problems: for what is no finite number, and rows that are filled in part.

    Returns:
        shape (U, K); NaN rows where all K cells are empty.
    """
    probs = np.full((len(rows), len(codes)), np.nan, dtype=np.float32)
    wrong = []
    for idx, row in enumerate(rows):
        cells = [row[f"prob_{code}"].strip() for code in codes]
        if not any(cells):
            continue
        try:
            probs[idx] = [float(cell or "nan") for cell in cells]
        except ValueError as err:
            problems.append(f"a probability is not a number: {err} ({row[FILE_COLUMN]})")
            break
        if not np.isfinite(probs[idx]).all():
            wrong.append(row[FILE_COLUMN])
    if wrong:
        problems.append(
            f"{len(wrong)} rows have a probability that is empty or not finite: "
            f"{list_some(wrong)}; leave all of a row empty where there are none"
        )
    return probs


def find_contradictions(
    labels: NDArray[np.int64], probs: NDArray[np.float32] | None
) -> NDArray[np.int64]:
    """Return the rows whose label is not the class of their highest probability.

    Args:
        labels: class indices, shape (U,); rows that abstained contradict nothing.
        probs: shape (U, K); neither do NaN rows.
    """
    if probs is None:
        return np.zeros(0, dtype=np.int64)
    idx = np.flatnonzero((labels != ABSTAIN) & ~np.isnan(probs).any(axis=1))
    lacks = probs[idx].max(axis=1, initial=0) - probs[idx, labels[idx]]
    return np.asarray(idx[lacks > PROB_TOLERANCE], dtype=np.int64)


def csv_header(path: Path) -> list[str]:
    """Return the column names of a CSV file; an empty list for an empty file."""
    lines = read_lines(path, first_only=True)
    return lines[0][1] if lines else []


def classes_in_headers(paths: Sequence[Path]) -> EmotionSet:
    """Return the classes of the first CSV with probabilities, unless they are MSP-Podcast's."""
    for path in paths:
        header = csv_header(path) if path.is_file() else []
        codes = [name.removeprefix("prob_") for name in header if name.startswith("prob_")]
        if codes and sorted(codes) != sorted(MSP_PODCAST.codes):
            return EmotionSet.from_codes(codes)
    return MSP_PODCAST


def write_csv_table(table: PredictionTable, path: Path) -> None:
    """Write the labels of a table; where there are any probabilities, attributes and marks."""
    columns: dict[str, Sequence[object]] = {
        FILE_COLUMN: table.utterances,
        LABEL_COLUMN: table.emotions.decode(table.labels),
    }
    if table.probs is not None:
        shown = table.has_probs
        # Nobody could tell a label that a rule decided against them from a mistake.
        shown[find_contradictions(table.labels, table.probs)] = False
        for code, probs in zip(table.emotions.codes, table.probs.T.tolist(), strict=True):
            columns[f"prob_{code}"] = [
                p if is_shown else None for p, is_shown in zip(probs, shown, strict=True)
            ]
    columns |= attribute_cells(table.attributes)
    if table.trained_on is not None and table.trained_on.any():
        columns[MARK_COLUMN] = [str(is_marked).lower() for is_marked in table.trained_on]
    write_csv(path, list(columns), zip(*columns.values(), strict=True))


def read_csv_columns(path: Path, emotions: EmotionSet) -> dict[str, Any]:
    """Read what `PredictionTable` takes but name and emotions.

    Raises:
        MissingFileError: if the file is not there.
        ProblemsError: if its content is wrong.
    """
    header, rows = read_csv_rows(path)
    problems: list[str] = []
    prob_codes = [name.removeprefix("prob_") for name in header if name.startswith("prob_")]
    if prob_codes and sorted(prob_codes) != sorted(emotions.codes):
        problems.append(
            f"the probability columns are for {' '.join(prob_codes)}, "
            f"expected one each for {' '.join(emotions.codes)}"
        )
    labels = [row[LABEL_COLUMN] or None for row in rows]
    unknown = [
        f"{label} ({row[FILE_COLUMN]})"
        for label, row in zip(labels, rows, strict=True)
        if label is not None and label not in emotions.codes
    ]
    if unknown:
        problems.append(
            f"{len(unknown)} rows have an {LABEL_COLUMN} outside {' '.join(emotions.codes)}: "
            f"{list_some(unknown)}"
            f"{find_spelling(filter(None, labels), emotions.codes)}; a CSV has the classes of a "
            "Parquet table or manifest beside it, else of its prob_ columns, else MSP-Podcast's"
        )
    probs = None
    if prob_codes and not problems:
        # Columns are named, so any order in the file is read into the set's order.
        probs = read_probabilities(rows, emotions.codes, problems)
    trained_on = _read_marks(rows, problems) if MARK_COLUMN in header else None
    cells = {name: [row[name] for row in rows] for name in header}
    attributes = read_attribute_cells(cells, cells[FILE_COLUMN], problems)
    if problems:
        raise ProblemsError(str(path), problems)
    encoded = emotions.encode(labels)
    wrong = find_contradictions(encoded, probs).tolist()
    if wrong and probs is not None:
        shown = [
            f"{rows[idx][FILE_COLUMN]}: {labels[idx]}, but {emotions.codes[probs[idx].argmax()]} "
            f"has {probs[idx].max():.3g}"
            for idx in wrong
        ]
        raise ProblemsError(
            str(path),
            [
                f"{len(wrong)} rows have another label than their highest probability: "
                f"{list_some(shown)}; correct one of the two, or leave the probabilities of these "
                "rows empty"
            ],
        )
    return {
        "utterances": tuple(row[FILE_COLUMN] for row in rows),
        "labels": encoded,
        "reasons": tuple("empty in the CSV" if label is None else None for label in labels),
        "probs": probs,
        "trained_on": trained_on,
        "attributes": attributes,
    }


def _read_marks(rows: Sequence[Mapping[str, str]], problems: list[str]) -> NDArray[np.bool_]:
    marks = [row[MARK_COLUMN].strip().lower() for row in rows]
    wrong = sorted({mark for mark in marks if mark not in ("true", "false")})
    if wrong:
        problems.append(f"{MARK_COLUMN} is {list_some(wrong)}, expected true or false")
    return np.array([mark == "true" for mark in marks], dtype=bool)


def read_lines(
    path: Path, separator: str = ",", *, first_only: bool = False
) -> list[tuple[int, list[str]]]:
    """Return line number and cells of every line that is not blank.

    Raises:
        MissingFileError: if the file is not there.
        BadValueError: if it is no UTF-8 text, or the separator no single sign.
    """
    if not path.is_file():
        raise MissingFileError(f"There is no file {str(path)!r}. Correct the path.")
    lines: list[tuple[int, list[str]]] = []
    try:
        # A byte-order mark, which spreadsheets write, would become part of the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=separator)
            for cells in reader:
                if cells:
                    lines.append((reader.line_num, cells))
                    if first_only:
                        break
    except TypeError as err:
        raise BadValueError(
            f"The separator is {separator!r}, expected one sign, such as ';'."
        ) from err
    except (UnicodeDecodeError, csv.Error) as err:
        raise BadValueError(
            f"{str(path)!r} cannot be read as CSV: {err}. Save it as comma-separated UTF-8 text."
        ) from err
    return lines
