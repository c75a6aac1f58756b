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
    rule: Annotated[
        Literal["plurality", "strict", "soft", "geometric", "weighted"],
        typer.Option(
            help="Count labels; let the tiebreaker win any tie, even with a class outside it; "
            "take the arithmetic or geometric mean of the probabilities; or weigh labels."
        ),
    ] = "plurality",
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=W",
            help="Weight of a table, for weighted, soft and geometric; repeat for every table.",
        ),
    ] = None,
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
    """Fuse tables by a vote.

    By default every table counts alike. Ties are settled by the first table, in the order of the
    tiebreakers and then of the tables as given, whose own label is among the tied classes.
    """
    from collections import Counter

    from abhinaya.data.predictions import read_tables, write_table
    from abhinaya.registry import load_rule

    result = load_rule("vote")(
        read_tables(tables),
        rule=rule,
        weights=_read_weights(weights or []),
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


def _read_weights(assignments: list[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for assignment in assignments:
        name, _, number = assignment.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            name = ""
        if not name or name in weights:
            raise typer.BadParameter(
                f"{assignment!r} is not NAME=W with a number, or names a table again.",
                param_hint="--weights",
            )
        weights[name] = weight
    return weights
