"""`abhinaya soup`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    weights: Annotated[
        str | None,
        typer.Option(metavar="W,W,...", help="Weight of each run; equal ones by default."),
    ] = None,
    greedy: Annotated[
        bool,
        typer.Option("--greedy", help="Take a run only if validation macro-F1 does not fall."),
    ] = False,
    manifest: Annotated[
        Path | None, typer.Option(help="Manifest to score on; needed for --greedy.")
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(metavar="SELECTION", help="Split or subset to score on; repeatable."),
    ] = None,
    audio_root: AudioRoot = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the new run; that of its folder by default.")
    ] = None,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Average the trained weights of several runs into one run (a model soup).

    Runs should have started from the same weights: one seed, other settings of the training. With
    --manifest and --select every run and the average are scored; the score that --greedy chose by
    is too good for this selection, so judge the result on another one.
    """
    from abhinaya.cli.processes import quiet_libraries
    from abhinaya.pipeline.stages.soup import run_soup

    folders = [Path(run) for run in runs if "=" not in run or Path(run).is_dir()]
    given = _read_weights(weights)
    _check_options(given, greedy=greedy, manifest=manifest, select=select)
    quiet_libraries()
    report = run_soup(
        folders,
        out,
        weights=given,
        greedy=greedy,
        manifest=manifest,
        select=select or [],
        audio_root=audio_root,
        name=name,
        overrides=[run for run in runs if "=" in run and not Path(run).is_dir()],
    )
    if report is None:
        typer.echo(f"{out} is there already.", err=True)
    else:
        show_report(report, as_json=as_json, table_format=table_format)


def _read_weights(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as err:
        raise typer.BadParameter(
            f"{text!r} is not a list of numbers such as 0.5,0.3,0.2", param_hint="--weights"
        ) from err


def _check_options(
    weights: list[float] | None, *, greedy: bool, manifest: Path | None, select: list[str] | None
) -> None:
    if greedy and weights is not None:
        raise typer.BadParameter("it chooses runs of equal weight", param_hint="--greedy")
    if (manifest is None) != (not select):
        raise typer.BadParameter("give both or neither", param_hint="--manifest and --select")
    if greedy and manifest is None:
        raise typer.BadParameter("it needs --manifest and --select", param_hint="--greedy")
