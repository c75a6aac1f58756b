"""`abhinaya fit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from abhinaya.cli.options import AsJson, Format
from abhinaya.cli.tables import TableFormat, show_json, show_table

if TYPE_CHECKING:
    from abhinaya.data.labels import EmotionSet

__all__ = ["fit"]


def fit(
    rule: Annotated[
        str,
        typer.Argument(
            metavar="RULE",
            help="thresholds, weights, stacking, temperature, log-odds or adaptation.",
        ),
    ],
    tables: Annotated[
        list[str], typer.Argument(metavar="TABLE", help="Labelled tables, or NAME=TABLE.")
    ],
    manifest: Annotated[
        Path,
        typer.Option(
            help="True labels and speakers: a manifest, or a CSV with FileName and EmoClass."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Recipe to write, .json.")],
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Setting of the rule; repeat for more."),
    ] = None,
    prior_from: Annotated[
        str | None,
        typer.Option(
            metavar="SELECTION",
            help="log-odds: take the training prior from these rows of the manifest.",
        ),
    ] = None,
    speakers: Annotated[
        str, typer.Option(metavar="COLUMN", help="Column of the manifest with the speakers.")
    ] = "speaker",
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-fit.")] = 5,
    out_of_fold: Annotated[
        Path | None,
        typer.Option(help="Also write the cross-fitted predictions, a table to score or compare."),
    ] = None,
    rows: Annotated[
        Literal["same", "intersection"],
        typer.Option(help="Demand the same utterances everywhere, or keep those that are in all."),
    ] = "same",
    by_speaker: Annotated[
        bool, typer.Option("--by-speaker", help="Take the interval over speakers, not utterances.")
    ] = False,
    resamples: Annotated[
        int, typer.Option(min=1, help="Bootstrap resamples behind the interval.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the folds and of the bootstrap.")] = 0,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Learn a rule of fusion from labelled tables.

    The recipe holds what was learned from all labelled rows. The score beside it is cross-fitted:
    every row is judged by parameters that saw neither it nor its speaker.

    Options of the rules: thresholds and temperature have mean (arithmetic, geometric); weights has
    per (class, member); log-odds has prior and target (one number per class); stacking has model
    (logistic, forest, mlp), features (log-probs, probs), balanced, and c for logistic, n_trees,
    max_depth, min_leaf and seed for forest, hidden, alpha, n_steps and seed for mlp; adaptation has
    clips_per_speaker of the test, variants (names with commas between), embeddings (the table that
    lends them), pseudo_tests, resamples, seed and jobs.
    """
    from abhinaya.config import apply_overrides
    from abhinaya.data.predictions import write_table
    from abhinaya.evaluation.scoring import read_with_truth
    from abhinaya.registry import load_rule

    # Said now rather than after minutes of work.
    if out.suffix != ".json":
        raise typer.BadParameter(f"{str(out)!r} must end in .json.", param_hint="--out")
    if out_of_fold is not None and out_of_fold.suffix not in (".parquet", ".csv"):
        raise typer.BadParameter(
            f"{str(out_of_fold)!r} must end in .parquet or .csv.", param_hint="--out-of-fold"
        )
    read, truth = read_with_truth(tables, manifest, speaker_column=speakers)
    options = apply_overrides({}, option or [])
    if prior_from is not None:
        options["prior"] = _class_counts(manifest, prior_from, truth.emotions)
    result = load_rule("fit")(
        rule,
        read,
        truth,
        options=options,
        rows=rows,
        n_folds=folds,
        seed=seed,
        n_resamples=resamples,
        by_speaker=by_speaker,
    )
    load_rule("write-recipe")(result.recipe, out)
    if out_of_fold is not None:
        write_table(result.out_of_fold, out_of_fold)
    facts = result.recipe.facts
    if as_json:
        show_json(_as_json(result, out))
    else:
        show_table(
            ["decided by", "rows", "macro-F1", "95 % interval"],
            [
                [s.name, s.n_utts, s.macro_f1, f"{s.interval[0]:.4f}-{s.interval[1]:.4f}"]
                for s in result.scores
            ],
            title=f"{out}: {rule} of {', '.join(result.recipe.tables)}",
            table_format=table_format,
        )
        if "reason" in result.recipe.parameters:
            typer.echo(result.recipe.parameters["reason"])
    # On stderr, so that a table for a paper stays clean.
    if facts["n_dropped"]:
        typer.echo(f"Note: {facts['n_dropped']} rows without a true label were not used.", err=True)
    if facts["n_unknown_speakers"]:
        typer.echo(
            f"Note: {facts['n_unknown_speakers']} of {facts['n_utts']} rows have no known speaker. "
            "Each stands for itself, so a speaker may have been both learned from and scored.",
            err=True,
        )


def _class_counts(manifest: Path, selection: str, emotions: EmotionSet) -> list[int]:
    from abhinaya.data.manifest import read_manifest

    labels = read_manifest(manifest).select(selection)["label"]
    return [int((labels == code).sum()) for code in emotions.codes]


def _as_json(result: Any, out: Path) -> dict[str, Any]:
    return {
        "recipe": str(out),
        "rule": result.recipe.rule,
        "tables": list(result.recipe.tables),
        "options": dict(result.recipe.options),
        "facts": dict(result.recipe.facts),
        "reason": result.recipe.parameters.get("reason"),
        "scores": [
            {
                "decided_by": score.name,
                "n_utts": score.n_utts,
                "macro_f1": score.macro_f1,
                "interval": list(score.interval),
            }
            for score in result.scores
        ],
    }
