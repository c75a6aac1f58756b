"""`abhinaya convert` and `relabel`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abhinaya.cli.options import AsJson, Format, guards, read_pairs
from abhinaya.cli.tables import TableFormat, show_table
from abhinaya.files import sole_outputs

__all__ = ["convert", "relabel"]


@guards("out")
@sole_outputs("out")
def convert(
    table: Annotated[Path, typer.Argument(help="CSV of another tool.")],
    out: Annotated[Path, typer.Option(help="CSV FileName,EmoClass to write.")],
    columns: Annotated[
        list[str] | None,
        typer.Option(metavar="OURS=THEIRS,...", help="Columns, such as file=path,label=emotion."),
    ] = None,
    separator: Annotated[
        str, typer.Option(help="What stands between cells, such as ';' or tab.")
    ] = ",",
    ending: Annotated[
        str, typer.Option(help="Such as .wav: given to the file names that lack it.")
    ] = "",
    words: Annotated[
        bool, typer.Option("--words", help="Read angry, sad, ... as the letters of MSP-Podcast.")
    ] = False,
    labels: Annotated[
        list[str] | None,
        typer.Option(metavar="THEIRS=OURS,...", help="Codes of labels, such as anger=A,joy=H."),
    ] = None,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Make a CSV of another tool a prediction table.

    Nothing is guessed: columns, separator, ending and labels are as given. Blanks around cells go,
    further columns stay.

    Example:
        abhinaya convert theirs.csv --columns file=path,label=emotion --words --out ours.csv
    """
    from abhinaya.data.foreign_csv import convert_csv

    counts = convert_csv(
        table,
        out,
        columns=read_pairs("columns", str, columns or []),
        separator="\t" if separator == "tab" else separator,
        ending=ending,
        words=words,
        labels=read_pairs("labels", str, labels or []),
    )
    show_table(
        list(counts),
        [list(counts.values())],
        title=str(out),
        as_json=as_json,
        table_format=table_format,
    )


def relabel(
    manifest: Annotated[Path, typer.Argument(help="Manifest of the corpus.")],
    classes: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="4, 6, 7, 8, poleval2025, or a YAML file.")
    ],
    out: Annotated[Path, typer.Option(help="Another folder, for the new manifest.")],
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Write a manifest for another class set.

    Says what was merged and left out. Rows without a label stay; rows whose class has no place are
    left out. Votes of merged classes are added. The shipped sets are in configs/classes/.

    Example:
        abhinaya relabel corpora/iemocap/manifest.parquet --classes 4 --out corpora/iemocap-4
    """
    from abhinaya.corpora.class_sets import find_class_set, relabel_corpus

    placed = relabel_corpus(manifest, find_class_set(classes), name=classes, out=out)
    show_table(
        ["label", "rows", "becomes"],
        [[entry.label, entry.n_rows, entry.becomes or "left out"] for entry in placed],
        title=str(out),
        as_json=as_json,
        table_format=table_format,
    )
