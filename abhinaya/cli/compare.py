"""`abhinaya compare`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from abhinaya.cli.options import AsJson, Format, IncludeTrainingRows, Truth
from abhinaya.cli.tables import Cell, TableFormat, show_json, show_table

if TYPE_CHECKING:
    from abhinaya.evaluation.comparison import Comparison, ComparisonReport

__all__ = ["compare"]

_METRIC_NAMES = {"macro_f1": "macro-F1", "accuracy": "accuracy"}


def compare(
    tables: Annotated[
        list[str],
        typer.Argument(metavar="TABLE", help="The table to compare with, then the others."),
    ],
    manifest: Truth,
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="Compare every two tables.")
    ] = False,
    by_speaker: Annotated[
        bool, typer.Option("--by-speaker", help="Take speakers for independent, not utterances.")
    ] = False,
    rows: Annotated[
        Literal["same", "intersection"],
        typer.Option(help="Demand the same utterances everywhere, or keep those that are in all."),
    ] = "same",
    resamples: Annotated[
        int, typer.Option(min=1, help="Resamples behind every interval and every test.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resamples.")] = 0,
    include_training_rows: IncludeTrainingRows = False,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Say whether tables differ by more than luck.

    All are compared with the first. Paired bootstrap intervals; approximate randomisation for
    macro-F1, McNemar's exact test for accuracy; p-values of several comparisons are corrected by
    Holm's method. A difference is positive where the table is better than the one it is compared
    with.

    Example:
        abhinaya compare first.parquet other.parquet --manifest M.parquet
    """
    from abhinaya.evaluation.scoring import read_with_truth

    read, truth = read_with_truth(tables, manifest)
    from abhinaya.evaluation.comparison import compare_tables

    report = compare_tables(
        read,
        truth,
        all_pairs=all_pairs,
        by_speaker=by_speaker,
        include_training_rows=include_training_rows,
        rows=rows,
        n_resamples=resamples,
        seed=seed,
    )
    if as_json:
        show_json(_as_json(report))
        return
    show_table(
        ["table", "rows", "macro-F1", "95 % interval", "accuracy", "95 % interval"],
        [
            [
                score.name,
                score.scores.n_utts,
                score.scores.macro_f1,
                _range(score.interval),
                score.scores.accuracy,
                _range(interval),
            ]
            for score, interval in zip(report.scores, report.accuracy_intervals, strict=True)
        ],
        table_format=table_format,
    )
    typer.echo()
    is_corrected = len(report.comparisons) > 1
    show_table(
        [
            "table",
            "against",
            "metric",
            "difference",
            "95 % interval",
            "p",
            *(["p (Holm)"] if is_corrected else []),
            "test",
        ],
        [row for comparison in report.comparisons for row in _rows(comparison, is_corrected)],
        title=f"Differences over {report.n_units} {report.unit}s",
        table_format=table_format,
    )
    _note(report, manifest)


def _rows(comparison: Comparison, is_corrected: bool) -> list[list[Cell]]:
    return [
        [
            comparison.table,
            comparison.against,
            _METRIC_NAMES[difference.metric],
            f"{difference.value:+.4f}",
            _range(difference.interval, signed=True),
            difference.p,
            *([difference.p_holm] if is_corrected else []),
            difference.test,
        ]
        for difference in (comparison.macro_f1, comparison.accuracy)
    ]


def _range(interval: tuple[float, float], *, signed: bool = False) -> str:
    low, high = interval
    return f"{low:+.4f} to {high:+.4f}" if signed else f"{low:.4f}-{high:.4f}"


def _note(report: ComparisonReport, manifest: Path) -> None:
    """Say what was left out, on stderr, so that a table for a paper stays clean."""
    from abhinaya.evaluation.caveats import training_notes

    first = report.scores[0]
    if first.n_dropped:
        typer.echo(
            f"Note: {first.n_dropped} rows have no label of the emotion set in {manifest} and were "
            "left out.",
            err=True,
        )
    if first.n_not_in_table:
        typer.echo(
            f"Note: {first.n_not_in_table} labelled utterances of {manifest} are not covered and "
            "were not compared.",
            err=True,
        )
    for note in training_notes(report.scores):
        typer.echo(f"Note: {note}", err=True)
    if report.unit == "speaker" and report.n_unknown:
        typer.echo(
            f"Note: {report.n_unknown} of {first.scores.n_utts} utterances have no speaker in "
            f"{manifest}; each of them stands for itself.",
            err=True,
        )


def _as_json(report: ComparisonReport) -> dict[str, Any]:
    return {
        "unit": report.unit,
        "n_units": report.n_units,
        "n_unknown_speaker": report.n_unknown,
        "tables": [
            {
                "table": score.name,
                "n_utts": score.scores.n_utts,
                "macro_f1": score.scores.macro_f1,
                "macro_f1_interval": list(score.interval),
                "accuracy": score.scores.accuracy,
                "accuracy_interval": list(interval),
                "n_dropped": score.n_dropped,
                "n_abstained": score.scores.n_abstained,
                "n_not_in_table": score.n_not_in_table,
                "absent_classes": list(score.absent),
            }
            for score, interval in zip(report.scores, report.accuracy_intervals, strict=True)
        ],
        "comparisons": [asdict(comparison) for comparison in report.comparisons],
    }
