"""`abhinaya score`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abhinaya.cli.options import AsJson, Format
from abhinaya.cli.tables import Cell, TableFormat, show_json, show_table

if TYPE_CHECKING:
    from abhinaya.evaluation.scoring import TableScore

__all__ = ["score"]


def score(
    tables: Annotated[
        list[str], typer.Argument(metavar="TABLE", help="Prediction tables, or NAME=TABLE.")
    ],
    manifest: Annotated[
        Path, typer.Option(help="True labels: a manifest, or a CSV with FileName and EmoClass.")
    ],
    mean: Annotated[
        bool, typer.Option("--mean", help="Add mean and standard deviation, as over seeds.")
    ] = False,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Add precision, recall and F1 of each class.")
    ] = False,
    confusion: Annotated[
        bool, typer.Option("--confusion", help="Add the table of true and predicted classes.")
    ] = False,
    by_speaker: Annotated[
        bool, typer.Option("--by-speaker", help="Take the interval over speakers, not utterances.")
    ] = False,
    resamples: Annotated[
        int, typer.Option(min=1, help="Bootstrap resamples behind the interval.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Score tables: macro-F1 over the whole emotion set, accuracy and unweighted average recall.

    Rows without a true label inside the set are dropped and counted. Abstentions count as wrong.
    """
    from abhinaya.evaluation.scoring import mean_and_sd, read_with_truth, score_table

    read, truth = read_with_truth(tables, manifest)
    results = [
        score_table(table, truth, n_resamples=resamples, seed=seed, by_speaker=by_speaker)
        for table in read
    ]
    means = None
    if mean:
        means = {
            key: mean_and_sd([getattr(result.scores, key) for result in results])
            for key in ("macro_f1", "accuracy", "uar")
        }
    if as_json:
        show_json(_as_json(results, means, per_class=per_class, confusion=confusion))
        return

    show_table(
        ["table", "rows", "macro-F1", "95 % interval", "accuracy", "UAR", "dropped", "abstained"],
        _overview(results, means),
        table_format=table_format,
    )
    for result in results:
        if per_class:
            typer.echo()
            show_table(
                ["class", "name", "precision", "recall", "F1", "support"],
                _class_rows(result),
                title=f"{result.name}: classes",
                table_format=table_format,
            )
        if confusion:
            typer.echo()
            show_table(
                ["true", *result.emotions.codes, "none"],
                _confusion_rows(result),
                title=f"{result.name}: true class in rows, predicted class in columns",
                table_format=table_format,
            )
    for count in sorted({result.n_not_in_table for result in results} - {0}):
        names = ", ".join(r.name for r in results if r.n_not_in_table == count)
        # On stderr, so that a table for a paper stays clean.
        typer.echo(
            f"Note: {count} labelled utterances of {manifest} are not covered and were not scored: "
            f"{names}.",
            err=True,
        )


def _overview(
    results: list[TableScore], means: dict[str, tuple[float, float]] | None
) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    for result in results:
        scores = result.scores
        low, high = result.interval
        rows.append(
            [
                *(result.name, scores.n_utts, scores.macro_f1, f"{low:.4f}-{high:.4f}"),
                *(scores.accuracy, scores.uar, result.n_dropped, scores.n_abstained),
            ]
        )
    if means:
        macro_f1, accuracy, uar = (means[key] for key in ("macro_f1", "accuracy", "uar"))
        rows.append(["mean", None, macro_f1[0], None, accuracy[0], uar[0], None, None])
        rows.append(["sd", None, macro_f1[1], None, accuracy[1], uar[1], None, None])
    return rows


def _class_rows(result: TableScore) -> list[list[Cell]]:
    scores = result.scores
    return [
        [code, name, float(precision), float(recall), float(f1), int(support)]
        for code, name, precision, recall, f1, support in zip(
            result.emotions.codes,
            result.emotions.names,
            scores.precision,
            scores.recall,
            scores.f1,
            scores.support,
            strict=True,
        )
    ]


def _confusion_rows(result: TableScore) -> list[list[Cell]]:
    return [
        [code, *counts.tolist(), int(support - counts.sum())]
        for code, counts, support in zip(
            result.emotions.codes, result.scores.confusion, result.scores.support, strict=True
        )
    ]


def _as_json(
    results: list[TableScore],
    means: dict[str, tuple[float, float]] | None,
    *,
    per_class: bool,
    confusion: bool,
) -> dict[str, Any]:
    described = []
    for result in results:
        scores = result.scores
        entry: dict[str, Any] = {
            "table": result.name,
            "n_utts": scores.n_utts,
            "macro_f1": scores.macro_f1,
            "interval": list(result.interval),
            "accuracy": scores.accuracy,
            "uar": scores.uar,
            "n_dropped": result.n_dropped,
            "n_abstained": scores.n_abstained,
            "n_not_in_table": result.n_not_in_table,
        }
        if per_class:
            keys = ("class", "name", "precision", "recall", "f1", "support")
            entry["per_class"] = [dict(zip(keys, row, strict=True)) for row in _class_rows(result)]
        if confusion:
            entry["confusion"] = {
                "classes": list(result.emotions.codes),
                "counts": scores.confusion.tolist(),
            }
        described.append(entry)
    summary: dict[str, Any] = {"tables": described}
    if means:
        summary["mean"] = {key: mean for key, (mean, _) in means.items()}
        summary["sd"] = {key: sd for key, (_, sd) in means.items()}
    return summary
