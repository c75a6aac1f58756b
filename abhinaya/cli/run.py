"""`abhinaya run`."""

from __future__ import annotations

from typing import Annotated

import typer

from abhinaya.cli.options import AsJson, Format, Overrides
from abhinaya.cli.shell.completion import complete_chain
from abhinaya.cli.tables import TableFormat, show_json, show_report, show_table

__all__ = ["run"]


def run(
    config: Annotated[
        str,
        typer.Argument(
            help="YAML file, or a shipped one such as demo/demo.yaml.",
            autocompletion=complete_chain,
        ),
    ],
    overrides: Overrides = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show the steps and do nothing.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(metavar="STEP", help="Do only this step; repeatable.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STEP",
            help="Do this step and all after it again; trained runs are kept under another name.",
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Submit all jobs of launch to the cluster and return.")
    ] = False,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Run the chain of one YAML file, from corpus to submission.

    Its steps are prepare, transcribe, train, predict, vote or apply, speakers, gate, smooth, score
    and submit; a block of the YAML that is not there is a step that is not done.

    Finished steps are not repeated; a killed run goes on where it was. A STEP is a kind such as
    train, or a name such as train:wavlm.

    Example:
        abhinaya run ensemble/abhinaya.yaml --plan
    """
    from abhinaya.cli.processes import quiet_libraries
    from abhinaya.pipeline.config import load_pipeline
    from abhinaya.pipeline.preflight import find_obstacles
    from abhinaya.pipeline.report import Report
    from abhinaya.pipeline.run import plan as plan_steps
    from abhinaya.pipeline.run import run_pipeline
    from abhinaya.pipeline.schedule import STARTED, describe_starts

    pipeline = load_pipeline(config, overrides or [])
    chosen = only or []
    if plan:
        planned = plan_steps(pipeline, only=chosen, start=start)
        starts = describe_starts(pipeline, [entry.step for entry in planned])
        show_table(
            ["step", "status", *(STARTED if starts else ()), "needs", "makes"],
            [
                [
                    entry.step.name,
                    entry.status,
                    *starts.get(entry.step.name, ()),
                    *(", ".join(map(str, files)) for files in (entry.step.needs, entry.step.makes)),
                ]
                for entry in planned
            ],
            title=f"{pipeline.config.name}: {len(planned)} steps",
            as_json=as_json,
            table_format=table_format,
        )
        quiet_libraries()
        to_do = [entry.step for entry in planned if entry.status == "to do"]
        for obstacle in find_obstacles(pipeline, to_do):
            typer.echo(f"Note: {obstacle}.", err=True)
        return

    reports: list[Report] = []

    def show(report: Report) -> None:
        reports.append(report)
        if not as_json:
            show_report(report, table_format=table_format)
            typer.echo("")

    quiet_libraries()
    run_pipeline(pipeline, show, only=chosen, start=start, detach=detach)
    if as_json:
        show_json(
            [
                {
                    "title": r.title,
                    "rows": [dict(zip(r.columns, row, strict=True)) for row in r.rows],
                    "files": [str(file) for file in r.files],
                }
                for r in reports
            ]
        )
    elif not chosen and not detach:
        typer.echo(f"{pipeline.config.name} is done: {pipeline.config.out}")
    elif not reports:
        typer.echo(f"{', '.join(chosen)} is done already; --from does it again.", err=True)
