"""`abhinaya ablate`."""

from __future__ import annotations

import math
from dataclasses import asdict
from itertools import combinations as pairs_of
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from abhinaya.cli.options import AsJson, Format, IncludeTrainingRows, Tables, Truth, guards
from abhinaya.cli.tables import Cell, TableFormat, show_json, show_table
from abhinaya.files import sole_outputs
from abhinaya.pipeline.report import find_best

if TYPE_CHECKING:
    from ensembling.ablation.ablate import Ablation

__all__ = ["ablate"]

_METRICS = ("macro-F1", "accuracy")
_SCORES = ("members", "macro-F1", "95 % interval", "accuracy")


@guards("out")
@sole_outputs("out")
def ablate(
    tables: Tables,
    manifest: Truth,
    tiebreaker: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Table that settles ties; repeat for the next in line."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write all scored combinations, .parquet.")
    ] = None,
    combinations: Annotated[
        Path | None,
        typer.Option(metavar="YAML", help="Named combinations to score: a paper's table."),
    ] = None,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Add agreement, double fault and Q of every pair.")
    ] = False,
    max_size: Annotated[
        int | None, typer.Option(min=1, help="Largest combinations to consider; by default all.")
    ] = None,
    beam: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Search by keeping the best N of each size, instead of trying all; "
            "more than 20 tables are always searched so.",
        ),
    ] = None,
    rows: Annotated[
        Literal["same", "intersection"],
        typer.Option(help="Demand the same utterances everywhere, or keep those that are in all."),
    ] = "same",
    by_speaker: Annotated[
        bool, typer.Option("--by-speaker", help="Take intervals over speakers, not utterances.")
    ] = False,
    resamples: Annotated[
        int, typer.Option(min=1, help="Resamples behind intervals, and halves behind the drop.")
    ] = 1_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all draws.")] = 0,
    include_training_rows: IncludeTrainingRows = False,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Score the vote of every combination of tables.

    Shows the best combination of each size, what each table brings, and how much of the best score
    is owed to choosing it on the same utterances. Ties are settled as in `vote`, within each
    combination; where all its tables abstain it is wrong. Differences are of macro-F1.

    Example:
        abhinaya ablate a.parquet b.parquet c.parquet --manifest M.parquet --tiebreaker a
    """
    from abhinaya.evaluation.scoring import read_with_truth

    read, truth = read_with_truth(tables, manifest)
    from ensembling.ablation.ablate import ablate_tables, write_subsets
    from ensembling.ablation.combinations import read_combinations

    named = read_combinations(combinations) if combinations is not None else None
    result = ablate_tables(
        read,
        truth,
        tiebreakers=tiebreaker or [],
        rows=rows,
        max_size=max_size,
        beam_width=beam,
        combinations=named,
        by_speaker=by_speaker,
        include_training_rows=include_training_rows,
        n_resamples=resamples,
        seed=seed,
    )
    if out is not None:
        write_subsets(result, out)
    if as_json:
        show_json(_as_json(result))
    else:
        _show(result, pairs=pairs, table_format=table_format)
    # On stderr, so that a table for a paper stays clean.
    if result.n_not_in_tables:
        typer.echo(
            f"Note: {result.n_not_in_tables} labelled utterances of {manifest} are not covered and "
            "were not scored.",
            err=True,
        )
    if result.n_trained_on:
        typer.echo(
            f"Note: {result.n_trained_on} of the {result.n_utts} scored rows were trained on by a "
            "table, which flatters it.",
            err=True,
        )
    if result.search == "beam":
        typer.echo(
            f"Note: a beam search scored {len(result.subsets)} of the {_n_possible(result)} "
            f"combinations, keeping the best {result.beam_width} of each size; a better one may "
            "exist. Shapley values are estimates.",
            err=True,
        )


def _n_possible(result: Ablation) -> int:
    return sum(math.comb(len(result.names), size) for size in range(1, result.max_size + 1))


def _show(result: Ablation, *, pairs: bool, table_format: TableFormat) -> None:
    dropped = f", {result.n_dropped} without a true label dropped" if result.n_dropped else ""
    of_sizes: list[list[Cell]] = [[len(one.members), *_score_cells(one)] for one in result.best]
    columns = ["size", *_SCORES]
    show_table(
        columns,
        [*of_sizes, [None, "any that is right", result.oracle[0], None, result.oracle[1]]],
        best=find_best(columns, of_sizes, highest=_METRICS),
        title=f"Best of each size: {len(result.subsets)} combinations of {len(result.names)} "
        f"tables on {result.n_utts} utterances{dropped}",
        table_format=table_format,
    )
    typer.echo()
    columns = ["table", "alone", "all without it", "change", "Shapley value"]
    brought: list[list[Cell]] = [
        [
            member.name,
            member.alone,
            member.without,
            None if member.change is None else f"{member.change:+.4f}",
            f"{member.shapley:+.4f}",
        ]
        for member in result.members
    ]
    show_table(
        columns,
        brought,
        best=find_best(columns, brought, highest=("alone", "Shapley value")),
        title=f"What each table brings; all together: {result.everybody.macro_f1:.4f}",
        table_format=table_format,
    )
    if pairs and len(result.names) > 1:
        typer.echo()
        show_table(
            ["table", "and", "agreement", "double fault", "Q"],
            [list(pair.values()) for pair in _pairs(result)],
            title="Pairs of tables",
            table_format=table_format,
        )
    if result.combinations:
        typer.echo()
        columns = ["combination", *_SCORES]
        named = [[one.name, *_score_cells(one)] for one in result.combinations]
        show_table(
            columns,
            named,
            best=find_best(columns, named, highest=_METRICS),
            title="Named combinations",
            table_format=table_format,
        )
    if result.optimism is not None:
        optimism = result.optimism
        low, high = optimism.interval
        typer.echo()
        show_table(
            [
                "macro-F1",
                "expected drop",
                "95 % interval",
                "expected elsewhere",
                "picked on halves",
            ],
            [
                [
                    optimism.macro_f1,
                    optimism.expected_drop,
                    f"{low:+.4f} to {high:+.4f}",
                    optimism.macro_f1 - optimism.expected_drop,
                    f"{optimism.picked_on_half:.0%}",
                ]
            ],
            title=f"Picking the best of {len(result.subsets)} combinations on the utterances that "
            "score it",
            table_format=table_format,
        )


def _score_cells(score: Any) -> list[Cell]:
    low, high = score.interval
    return [" + ".join(score.members), score.macro_f1, f"{low:.4f}-{high:.4f}", score.accuracy]


def _pairs(result: Ablation) -> list[dict[str, Any]]:
    return [
        {
            "table": result.names[one],
            "and": result.names[other],
            **{
                key: _number(getattr(result.diversity, key)[one, other])
                for key in ("agreement", "double_fault", "q_statistic")
            },
        }
        for one, other in pairs_of(range(len(result.names)), 2)
    ]


def _number(value: float) -> float | None:
    """Turn NaN into None: JSON has no NaN, and a table shows an empty cell."""
    return None if math.isnan(value) else float(value)


def _as_json(result: Ablation) -> dict[str, Any]:
    return {
        "tables": result.names,
        "tiebreakers": result.tiebreakers,
        "n_utts": result.n_utts,
        "n_dropped": result.n_dropped,
        "n_not_in_tables": result.n_not_in_tables,
        "absent_classes": result.absent,
        "n_trained_on": result.n_trained_on,
        "search": result.search,
        "beam_width": result.beam_width,
        "max_size": result.max_size,
        "n_combinations": len(result.subsets),
        "best": [asdict(best) for best in result.best],
        "all": asdict(result.everybody),
        "oracle": dict(zip(("macro_f1", "accuracy"), result.oracle, strict=True)),
        "members": [asdict(member) for member in result.members],
        "pairs": _pairs(result),
        "combinations": [asdict(named) for named in result.combinations],
        "optimism": None if result.optimism is None else asdict(result.optimism),
    }
