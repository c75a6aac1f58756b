"""`abhinaya vote`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from abhinaya.cli.options import AsJson, Format
from abhinaya.cli.tables import TableFormat, show_table

__all__ = ["vote"]


def vote(
    tables: Annotated[
        list[str], typer.Argument(metavar="TABLE", help="Prediction tables, or NAME=TABLE.")
    ],
    out: Annotated[Path, typer.Option(help="Table to write, .parquet or .csv.")],
    tiebreaker: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Table that settles ties; repeat for the next in line."),
    ] = None,
    fallback: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="Class to write where every member abstains."),
    ] = None,
    rows: Annotated[
        Literal["same", "intersection"],
        typer.Option(help="Demand the same utterances everywhere, or keep those that are in all."),
    ] = "same",
    name: Annotated[str, typer.Option(help="Name of the new table.")] = "vote",
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Fuse tables by an unweighted vote.

    Ties are settled by the first table, in the order of the tiebreakers and then of the tables as
    given, whose own label is among the tied classes.
    """
    from collections import Counter

    from abhinaya.predictions import read_tables, write_table
    from abhinaya.registry import load_rule

    result = load_rule("vote")(
        read_tables(tables),
        tiebreakers=tiebreaker or [],
        fallback=fallback,
        rows=rows,
        name=name,
    )
    write_table(result, out)
    counts = Counter(result.decided_by)
    show_table(
        ["decided by", "rows", "share"],
        [[decider, count, count / len(result)] for decider, count in counts.most_common()],
        title=f"{len(result)} rows in {out}",
        as_json=as_json,
        table_format=table_format,
    )
