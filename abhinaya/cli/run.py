"""`abhinaya run`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abhinaya.cli.options import AsJson, Format, Overrides
from abhinaya.cli.shell.completion import complete_chain
from abhinaya.cli.tables import Cell, TableFormat, show_json, show_report, show_table

if TYPE_CHECKING:
    from abhinaya.pipeline.config import Pipeline
    from abhinaya.pipeline.run import PlannedStep

__all__ = ["run"]

_MAX_FILES = 2  # that a plan shows of what a step needs; --json has all


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
        abhinaya run ensemble/abhinaya.yaml prepare.source=MSP-Podcast --plan
    """
    from abhinaya.cli.processes import quiet_libraries
    from abhinaya.pipeline.config import load_pipeline
    from abhinaya.pipeline.report import Report
    from abhinaya.pipeline.run import plan as plan_steps
    from abhinaya.pipeline.run import run_pipeline

    pipeline = load_pipeline(config, overrides or [])
    chosen = only or []
    if plan:
        planned = plan_steps(pipeline, only=chosen, start=start)
        _show_plan(pipeline, planned, as_json=as_json, table_format=table_format)
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


def _show_plan(
    pipeline: Pipeline,
    planned: Sequence[PlannedStep],
    *,
    as_json: bool,
    table_format: TableFormat,
) -> None:
    """Show every step; what stands in the way is looked for afterwards, because it takes longer."""
    from abhinaya.cli.processes import quiet_libraries
    from abhinaya.doctor.findings import format_bytes
    from abhinaya.pipeline.preflight import find_obstacles, size_on_disk, sizes_of_runs
    from abhinaya.pipeline.schedule import STARTED, describe_starts
    from abhinaya.pipeline.times import estimate_left, read_times
    from abhinaya.progress import duration_text

    starts = describe_starts(pipeline, [entry.step for entry in planned])
    times = read_times(pipeline.config.out)
    sizes = {entry.step.name: size_on_disk(entry.step) for entry in planned}
    knows = bool(times or any(sizes.values()))  # nothing of a chain that never ran
    rows: list[list[Cell]] = []
    for entry in planned:
        name = entry.step.name
        took, size = times.get(name), sizes[name]
        known: list[Cell] = [took, size]
        if not as_json:
            known = [took and duration_text(took), size and format_bytes(size)]
        shown = None if as_json else _MAX_FILES
        files = [_name_files(paths, shown) for paths in (entry.step.needs, entry.step.makes)]
        rows.append([name, entry.status, *starts.get(name, ()), *(known if knows else ()), *files])
    to_do = [entry.step for entry in planned if entry.status == "to do"]
    left_s = estimate_left([step.name for step in to_do], times) if to_do else None
    said = f", {len(to_do)} to do" if knows else ""
    said += "" if left_s is None else f", about {duration_text(left_s)}"
    heading = ["step", "status", *(STARTED if starts else ())]
    heading += ["took", "size"] if knows else []
    show_table(
        [*heading, "needs", "makes"],
        rows,
        title=f"{pipeline.config.name}: {len(planned)} steps{said}",
        as_json=as_json,
        table_format=table_format,
    )
    quiet_libraries()
    to_write = sizes_of_runs(pipeline, to_do)
    for name, n_bytes in to_write.items():
        typer.echo(f"Note: {name} will write about {format_bytes(n_bytes)}.", err=True)
    for obstacle in find_obstacles(pipeline, to_do, sizes=to_write):
        typer.echo(f"Note: {obstacle}.", err=True)


def _name_files(paths: Sequence[Path], n_shown: int | None) -> str:
    named = ", ".join(map(str, paths[:n_shown]))
    n_left = 0 if n_shown is None else len(paths) - n_shown
    return f"{named} and {n_left} more" if n_left > 0 else named
