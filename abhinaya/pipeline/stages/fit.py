"""Fit: a rule of fusion is learned from labelled tables, such as the gate of speaker adaptation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from abhinaya.files import sole_outputs
from abhinaya.pipeline.report import Report, interval_text
from abhinaya.pipeline.stages.settings import Settings

if TYPE_CHECKING:
    from abhinaya.data.labels import EmotionSet
    from ensembling.learned.fitting import FitResult

__all__ = ["FitSettings", "run_fit"]


_N_FOLDS = 5
"""Of which fewer are made where the rows have fewer speakers; another number is as it is given."""


class FitSettings(Settings):
    """How to fit a rule."""

    rule: str = Field(json_schema_extra={"metavar": "RULE"})
    """thresholds, weights, greedy, cma, stacking, temperature, log-odds, confusions or
    adaptation."""
    option: dict[str, Any] = Field(default_factory=dict, json_schema_extra={"metavar": "KEY=VALUE"})
    """Setting of the rule; repeat for more."""
    prior_from: str | None = Field(default=None, json_schema_extra={"metavar": "SELECTION"})
    """log-odds: take the training prior from these rows of the manifest."""
    speakers: str = Field(default="speaker", json_schema_extra={"metavar": "COLUMN"})
    """Column of the manifest with the speakers."""
    folds: int = Field(default=_N_FOLDS, ge=2)
    """Folds of the cross-fit; fewer than 5 where there are fewer speakers, and it is said."""
    tiebreaker: tuple[str, ...] = Field(default=(), json_schema_extra={"metavar": "NAME"})
    """Table that settles ties of the plain vote that the rule is compared with; repeat for the next
    in line."""
    rows: Literal["same", "intersection"] = "same"
    """Demand the same utterances everywhere, or keep those that are in all."""
    by_speaker: bool = False
    """Take the interval over speakers, not utterances."""
    resamples: int = Field(default=10_000, ge=1)
    """Bootstrap resamples behind the interval."""
    seed: int = Field(default=0, ge=0)
    """Seed of the folds and of the bootstrap."""


@sole_outputs("out", "out_of_fold")
def run_fit(
    tables: Sequence[str],
    manifest: Path,
    out: Path,
    settings: FitSettings,
    *,
    out_of_fold: Path | None = None,
    out_of_fold_name: str | None = None,
) -> Report:
    """Fit a rule and write its recipe to `out`.

    Args:
        tables: files, or NAME=FILE, of labelled utterances.
        manifest: true labels and speakers.
        out: the recipe to write.
        settings: the rule, and how to fit it.
        out_of_fold: where to write the cross-fitted predictions, if anywhere.
        out_of_fold_name: name of that table; the rule's by default.
    """
    from dataclasses import replace

    from abhinaya.data.predictions import write_table
    from abhinaya.evaluation.scoring import read_with_truth
    from ensembling.learned.fitting import fit_recipe
    from ensembling.learned.recipes import write_recipe

    read, truth = read_with_truth(tables, manifest, speaker_column=settings.speakers)
    options = dict(settings.option)
    if settings.prior_from is not None:
        options["prior"] = _class_counts(manifest, settings.prior_from, truth.emotions)
    result = fit_recipe(
        settings.rule,
        read,
        truth,
        options=options,
        tiebreakers=settings.tiebreaker,
        rows=settings.rows,
        n_folds=settings.folds,
        may_lower_folds=settings.folds == _N_FOLDS,
        seed=settings.seed,
        n_resamples=settings.resamples,
        by_speaker=settings.by_speaker,
    )
    if out_of_fold is not None:
        table = result.out_of_fold
        write_table(replace(table, name=out_of_fold_name or table.name), out_of_fold)
    write_recipe(result.recipe, out)
    facts = result.recipe.facts
    notes = []
    marks = result.out_of_fold.trained_on
    if marks is not None and marks.any():
        notes.append(
            f"{int(marks.sum())} of {len(marks)} rows were trained on by a table. What is learned "
            "from them, and the score, flatter; fit on other rows."
        )
    if facts["n_folds"] != settings.folds:
        notes.append(
            f"{facts['n_folds']} folds instead of {settings.folds}: the labelled rows have no more "
            "speakers, or rows of one class. The fewer folds, the less each fit has learned from."
        )
    if facts["n_dropped"]:
        notes.append(f"{facts['n_dropped']} rows without a true label were not used.")
    if facts["n_unknown_speakers"]:
        notes.append(
            f"{facts['n_unknown_speakers']} of {facts['n_utts']} rows have no known speaker. "
            "Each stands for itself, so a speaker may have been both learned from and scored."
        )
    return Report(
        f"{out}: {settings.rule} of {', '.join(result.recipe.tables)}",
        ["decided by", "rows", "macro-F1", "95 % interval"],
        [[s.name, s.n_utts, s.macro_f1, interval_text(s.interval)] for s in result.scores],
        files=(out,) if out_of_fold is None else (out, out_of_fold),
        notes=tuple(notes),
        remark=result.recipe.parameters.get("reason"),
        data=_as_json(result, out),
    )


def _class_counts(manifest: Path, selection: str, emotions: EmotionSet) -> list[int]:
    from abhinaya.data.manifest import read_manifest

    labels = read_manifest(manifest).select(selection)["label"]
    return [int((labels == code).sum()) for code in emotions.codes]


def _as_json(result: FitResult, out: Path) -> dict[str, Any]:
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
