"""`abhinaya report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abhinaya.cli.options import AsJson, Format, takes_settings
from abhinaya.cli.tables import TableFormat, show_report
from abhinaya.pipeline.stages.report import ReportSettings

__all__ = ["report"]


@takes_settings
def report(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|TABLE",
            help="Folder of a chain, or prediction tables, TABLE or NAME=TABLE.",
        ),
    ],
    settings: ReportSettings,
    manifest: Annotated[
        Path | None,
        typer.Option(help="True labels: a manifest, or a CSV; that of the chain by default."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Page to write, .html; RUN/report.html by default.")
    ] = None,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Write one page about a chain or tables.

    Scores, figures and provenance in one HTML file that needs no other file and no network. Every
    figure can be saved as SVG and PNG, every table as CSV and LaTeX. Tables without a vote among
    them are voted on, as `vote` does.

    Example:
        abhinaya report runs/demo
    """
    from abhinaya.pipeline.stages.report import run_report

    done = run_report(sources, settings, manifest=manifest, out=out)
    show_report(done, as_json=as_json, table_format=table_format)
