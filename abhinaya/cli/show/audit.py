"""`abhinaya audit`."""

from __future__ import annotations

from typing import Annotated

import typer

from abhinaya.cli.options import AsJson, Format, Overrides
from abhinaya.cli.shell.completion import complete_audit
from abhinaya.cli.tables import TableFormat, render_table, show_json, show_report

__all__ = ["audit"]

_MAX_SHOWN = 60  # rows; longer tables are only written


def audit(
    config: Annotated[
        str,
        typer.Argument(
            help="YAML file, or a shipped one such as audit/emodb-whisper.yaml.",
            autocompletion=complete_audit,
        ),
    ],
    overrides: Overrides = None,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Compare speech encoders, with controls.

    By probes, transfer, speaker nullspace, geometry and layer weights. Written to the config's
    `out` are all numbers by seed (Parquet), tables (Markdown, LaTeX), pictures (SVG), the exact
    splits, and the bundle of features from which the audit can be done again without audio:
    features=OUT/bundle. A killed audit goes on where it was.

    Example:
        abhinaya audit audit/emodb-whisper.yaml corpora.emodb.manifest=M encoders.whisper.base=W
    """
    from abhinaya.cli.processes import quiet_libraries
    from abhinaya.files import write_text
    from abhinaya.pipeline.audit.config import load_audit
    from abhinaya.pipeline.audit.run import run_audit

    quiet_libraries()
    checked = load_audit(config, overrides or [])
    found = run_audit(checked)
    for name, report in found.items():
        for ending, form in (("md", TableFormat.MARKDOWN), ("tex", TableFormat.LATEX)):
            text = render_table(report.columns, report.rows, title=report.title, table_format=form)
            remark = f"\n{report.remark}\n" if report.remark and ending == "md" else ""
            write_text(checked.out / "tables" / f"{name}.{ending}", f"{text}\n{remark}")
        if len(report.rows) <= _MAX_SHOWN and not as_json:
            show_report(report, table_format=table_format)
            typer.echo()
    if as_json:
        show_json({name: report.as_json() for name, report in found.items()})
    else:
        typer.echo(f"{checked.name} is done: {checked.out}")
