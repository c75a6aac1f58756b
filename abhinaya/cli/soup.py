"""`abhinaya soup`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from abhinaya.cli.options import AsJson, AudioRoot, Format
from abhinaya.cli.tables import TableFormat, show_report

__all__ = ["soup"]


def soup(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN... [KEY=VALUE]...",
            help="Run directories of one architecture; changes of their configs for predicting.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Run directory to write; its name is the run's.")],
    checkpoints: Annotated[
        str | None,
        typer.Option(
            metavar="N|all",
            help="Average the last N checkpoints of one run, or all that it left.",
        ),
    ] = None,
    greedy: Annotated[
        bool,
        typer.Option("--greedy", help="Take a run only if validation macro-F1 does not fall."),
    ] = False,
    manifest: Annotated[
        Path | None, typer.Option(help="greedy: manifest of the corpus to score on.")
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(metavar="SELECTION", help="greedy: split or subset; repeat to add another."),
    ] = None,
    audio_root: AudioRoot = None,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Average trained weights of runs or checkpoints: a soup.

    Runs should have started from the same weights: one seed, other settings of the training. Score
    the average before you use it, and not on the selection that --greedy chose by.

    Example:
        abhinaya soup runs/wavlm-1 runs/wavlm-2 --out runs/wavlm-soup
    """
    from abhinaya.cli.processes import quiet_libraries
    from abhinaya.pipeline.stages.soup import run_soup

    if greedy != (manifest is not None) or greedy != bool(select):
        raise typer.BadParameter(
            "give all three or none", param_hint="--greedy, --manifest, --select"
        )
    number: int | Literal["all"] | None = None
    if checkpoints is not None:
        if checkpoints != "all" and (not checkpoints.isdecimal() or int(checkpoints) < 2):
            raise typer.BadParameter("give 2 or more, or all", param_hint="--checkpoints")
        number = "all" if checkpoints == "all" else int(checkpoints)
    is_change = ["=" in run and not Path(run).is_dir() for run in runs]
    if number is not None and is_change.count(False) != 1:
        raise typer.BadParameter("give one run", param_hint="--checkpoints")
    quiet_libraries()
    report = run_soup(
        [Path(run) for run, is_one in zip(runs, is_change, strict=True) if not is_one],
        out,
        manifest=manifest,
        select=select or [],
        audio_root=audio_root,
        overrides=[run for run, is_one in zip(runs, is_change, strict=True) if is_one],
        checkpoints=number,
    )
    if report is None:
        typer.echo(f"{out} is there already.", err=True)
    else:
        show_report(report, as_json=as_json, table_format=table_format)
