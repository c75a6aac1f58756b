"""CSV tables as other tools write them: into our columns and codes, but only as one is told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from abhinaya.data.label_csv import FILE_COLUMN, LABEL_COLUMN, read_lines
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.errors import BadValueError, ProblemsError, UnknownNameError, list_some
from abhinaya.files import write_csv

__all__ = ["OUR_COLUMNS", "convert_csv"]

OUR_COLUMNS = {"file": FILE_COLUMN, "label": LABEL_COLUMN}
"""What the columns of names and labels are called in options, and in our files."""


def convert_csv(
    path: Path,
    out: Path,
    *,
    columns: Mapping[str, str],
    separator: str = ",",
    ending: str = "",
    words: bool = False,
    labels: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Write a table of another tool as a CSV `FileName,EmoClass`; further columns are kept.

    Blanks around cells are removed. Where cells are not separated by commas, `0,5` is a number.

    Args:
        path: the table, UTF-8.
        out: the CSV to write.
        columns: their name of our `file` and `label`, where it is another than ours.
        separator: what stands between cells.
        ending: such as `.wav`, given to the names that lack it.
        words: read `angry` as A and so on: MSP-Podcast's names of its classes, in any case.
        labels: our code for each further label of theirs.

    Returns:
        How many names were completed and how many labels translated, by what was done.

    Raises:
        UnknownNameError: if a column is not there, or none of ours.
        BadValueError: if `out` does not end in .csv.
        ProblemsError: if a row has too few or too many cells, or a word has no code.
    """
    if out.suffix != ".csv":
        raise BadValueError(f"The table {str(out)!r} must end in .csv.")
    lines = read_lines(path, separator)
    header, *rows = [[cell.strip() for cell in cells] for _, cells in lines] or [[]]
    for ours, theirs in columns.items():
        if ours not in OUR_COLUMNS:
            raise UnknownNameError("column of ours", ours, OUR_COLUMNS)
        if theirs not in header:
            raise UnknownNameError(f"column of {str(path)!r}", theirs, header)
    renamed = {theirs: OUR_COLUMNS[ours] for ours, theirs in columns.items()}
    header = [renamed.get(name, name) for name in header]
    problems = [
        f"the column {name!r} stands there {header.count(name)} times, expected once"
        for name in OUR_COLUMNS.values()
        if header.count(name) != 1
    ]
    uneven = [number for number, cells in lines if len(cells) != len(header)]
    if uneven:
        problems.append(
            f"{len(uneven)} rows do not have {len(header)} cells: line {list_some(uneven)}"
        )
    if problems:
        raise ProblemsError(str(path), problems)

    codes = {} if not words else dict(zip(MSP_PODCAST.names, MSP_PODCAST.codes, strict=True))
    codes |= {label.lower(): code for label, code in (labels or {}).items()}
    at_name, at_label = header.index(FILE_COLUMN), header.index(LABEL_COLUMN)
    probs = [idx for idx, name in enumerate(header) if name.startswith("prob_")]
    counts = {"rows": len(rows), "names completed": 0, "labels translated": 0}
    unknown = []
    for cells in rows:
        if ending and not cells[at_name].lower().endswith(ending.lower()):
            cells[at_name] += ending
            counts["names completed"] += 1
        label = cells[at_label]
        code = codes.get(label.lower())
        if code is not None:
            cells[at_label] = code
            counts["labels translated"] += 1
        elif codes and label not in ("", *codes.values(), *MSP_PODCAST.data_labels):
            unknown.append(label)
        if separator != ",":
            for idx in probs:
                cells[idx] = cells[idx].replace(",", ".")
    if unknown:
        raise ProblemsError(
            str(path),
            [
                f"{len(unknown)} labels have no code: {list_some(dict.fromkeys(unknown))}; give "
                "one for each, such as --labels anger=A,happiness=H"
            ],
        )
    write_csv(out, header, rows)
    return counts
