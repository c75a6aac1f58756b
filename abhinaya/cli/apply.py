"""`abhinaya apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from abhinaya.cli.options import AsJson, Format
from abhinaya.cli.tables import Cell, TableFormat, show_table

__all__ = ["apply"]


def apply(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="What abhinaya fit wrote.")],
    tables: Annotated[
        list[str],
        typer.Argument(
            metavar="TABLE", help="One table for each name in the recipe, or NAME=TABLE."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Table to write, .parquet or .csv.")],
    manifest: Annotated[
        Path | None, typer.Option(help="Where speakers are looked up, for rules that use them.")
    ] = None,
    speakers: Annotated[
        str, typer.Option(metavar="COLUMN", help="Column of the manifest with the speakers.")
    ] = "speaker",
    fallback: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="Class to write where every member abstains."),
    ] = None,
    allow_fitted_rows: Annotated[
        bool,
        typer.Option(
            "--allow-fitted-rows",
            help="Let utterances through that the recipe was fitted on; do not score them.",
        ),
    ] = False,
    rows: Annotated[
        Literal["same", "intersection"],
        typer.Option(help="Demand the same utterances everywhere, or keep those that are in all."),
    ] = "same",
    name: Annotated[
        str | None, typer.Option(help="Name of the new table; the rule's by default.")
    ] = None,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Fuse tables by a recipe.

    Tables are matched to those of the recipe by name. Utterances that the recipe was fitted on are
    refused, because a score on them would flatter.
    """
    from abhinaya.data.labels import ABSTAIN
    from abhinaya.data.predictions import read_tables, write_table
    from abhinaya.evaluation.scoring import read_truth
    from abhinaya.registry import load_rule

    fitted = load_rule("read-recipe")(recipe)
    read = read_tables(tables, emotions=fitted.emotions)
    result = load_rule("apply")(
        fitted,
        read,
        truth=(
            None
            if manifest is None
            else read_truth(manifest, fitted.emotions, speaker_column=speakers)
        ),
        rows=rows,
        fallback=fallback,
        allow_fitted_rows=allow_fitted_rows,
        name=name,
    )
    write_table(result, out)
    counts: list[list[Cell]] = []
    for class_idx, code in enumerate(fitted.emotions.codes):
        count = int((result.labels == class_idx).sum())
        counts.append([code, count, count / len(result)])
    n_abstained = int((result.labels == ABSTAIN).sum())
    if n_abstained:
        counts.append(["none", n_abstained, n_abstained / len(result)])
    show_table(
        ["class", "rows", "share"],
        counts,
        title=f"{len(result)} rows in {out}",
        as_json=as_json,
        table_format=table_format,
    )
