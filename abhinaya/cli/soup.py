"""`abhinaya soup`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abhinaya.cli.options import AsJson, Format
from abhinaya.cli.tables import Cell, TableFormat, show_table

if TYPE_CHECKING:
    from abhinaya.config import MemberConfig
    from abhinaya.training.soup import Part

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
    audio_root: Annotated[
        Path | None, typer.Option(help="Where the audio lies now; matched by file name.")
    ] = None,
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
    from abhinaya.training import soup as soups

    folders = [Path(run) for run in runs if "=" not in run or Path(run).is_dir()]
    overrides = [run for run in runs if "=" in run and not Path(run).is_dir()]
    given = _read_weights(weights)
    _check_options(given, greedy=greedy, manifest=manifest, select=select)
    quiet_libraries()
    parts = soups.read_parts(folders)
    kind = "greedy" if greedy else "uniform" if given is None else "weighted"
    shares = soups.normalise_weights(given, len(parts))
    config = soups.soup_config(parts, out, name or out.name)
    recipe = {"kind": kind, "weights": shares, "name": config.name}
    score = None
    work = out.with_name(f".{out.name}.soup")
    if manifest is not None and select:
        score, corpus = _scorer(manifest, select, audio_root, overrides, work)
        if greedy:
            recipe |= {"manifest": corpus, "select": select, "overrides": overrides}
    digest = soups.soup_digest(parts, recipe)
    if soups.open_soup(out, digest):
        shutil.rmtree(work, ignore_errors=True)
        typer.echo(f"{out} is there already.", err=True)
        return

    scores: list[float | None] = [None] * len(parts)
    total: float | None = None
    if score is not None:
        singly = [score(part.checkpoint) for part in parts]
        scores = [*singly]
        if greedy:
            shares, total = _choose(parts, config, singly, score, work)
    soups.write_soup(parts, shares, config, out, digest=digest, kind=kind, macro_f1=total)
    if score is not None:
        total = score(out / "best")
        shutil.rmtree(work, ignore_errors=True)
    rows: list[list[Cell]] = [
        [str(part.run), share, macro_f1]
        for part, share, macro_f1 in zip(parts, shares, scores, strict=True)
    ]
    show_table(
        ["run", "weight", "macro-F1"],
        [*rows, [str(out), sum(shares), total]],
        title=f"{kind} soup of {sum(share > 0 for share in shares)} of {len(parts)} runs",
        as_json=as_json,
        table_format=table_format,
    )


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


def _scorer(
    manifest: Path,
    select: Sequence[str],
    audio_root: Path | None,
    overrides: Sequence[str],
    work: Path,
) -> tuple[Callable[[Path], float], str]:
    """A function from a checkpoint to its macro-F1, and the digest of the corpus.

    Tables are kept in `work` until all is done: a killed choice predicts nothing twice.
    """
    import hashlib

    from abhinaya.data.manifest import read_manifest
    from abhinaya.evaluation.scoring import read_truth, score_table
    from abhinaya.member import PredictRequest
    from abhinaya.member_config import find_predictor
    from abhinaya.nn.checkpoint import WEIGHTS

    corpus, truth = read_manifest(manifest, audio_root=audio_root), read_truth(manifest)

    def score(checkpoint: Path) -> float:
        member, resolved = find_predictor(checkpoint)
        with (checkpoint / WEIGHTS).open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        request = PredictRequest(
            manifest=corpus,
            selection=tuple(select),
            out=work / f"{content[:16]}.parquet",
            overrides=tuple(overrides),
        )
        table = member.predict(resolved, request)
        return score_table(table, truth, n_resamples=1).scores.macro_f1

    return score, corpus.digest


def _choose(
    parts: Sequence[Part],
    config: MemberConfig,
    singly: Sequence[float],
    score: Callable[[Path], float],
    work: Path,
) -> tuple[list[float], float]:
    """The greedy weights, and the score of their average."""
    from abhinaya.training import soup as soups

    def shares_of(chosen: Sequence[int]) -> list[float]:
        return [1 / len(chosen) if idx in chosen else 0.0 for idx in range(len(parts))]

    def score_of(chosen: Sequence[int]) -> float:
        shares, candidate = shares_of(chosen), work / "candidate"
        shutil.rmtree(candidate, ignore_errors=True)
        soups.write_soup(parts, shares, config, candidate, digest="candidate", kind="candidate")
        return score(candidate / "best")

    chosen, macro_f1 = soups.greedy_choice(singly, score_of)
    return shares_of(chosen), macro_f1
