"""Score: tables are held against true labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from abhinaya.pipeline.report import Cell, Report, find_best, interval_text
from abhinaya.pipeline.stages.settings import Settings

if TYPE_CHECKING:
    from abhinaya.data.labels import EmotionSet
    from abhinaya.data.manifest import Manifest
    from abhinaya.data.predictions import PredictionTable
    from abhinaya.evaluation.concordance import Concordance
    from abhinaya.evaluation.metrics import Scores
    from abhinaya.evaluation.scoring import TableScore

__all__ = ["ScoreSettings", "describe_dimensions", "run_score"]

_METRICS = ("macro_f1", "accuracy", "uar", "weighted_f1")
_Means = dict[str, tuple[float, float]]


class ScoreSettings(Settings):
    """What to score by, and what to show."""

    classes: Literal["all", "present"] = "all"
    """Take macro-F1 and UAR over the whole emotion set, where an absent class counts as 0, or over
    the classes that truly occur."""
    mean: bool = False
    """Add mean and standard deviation, as over seeds."""
    per_class: bool = False
    """Add precision, recall and F1 of each class."""
    confusion: bool = False
    """Add the table of true and predicted classes."""
    dimensions: bool = False
    """Add the confusions grouped by arousal and by valence."""
    by_speaker: bool = False
    """Take the interval over speakers, not utterances."""
    resamples: int = Field(default=10_000, ge=1)
    """Bootstrap resamples behind the interval."""
    seed: int = Field(default=0, ge=0)
    """Seed of the bootstrap."""


def run_score(
    tables: Sequence[str | Path | PredictionTable],
    manifest: Path | Manifest,
    settings: ScoreSettings,
    *,
    is_part: bool = False,
) -> Report:
    """Score tables, files or NAME=FILE, against a manifest or a CSV `FileName,EmoClass`.

    Args:
        tables: the tables.
        manifest: the truth.
        settings: what to score by, and what to show.
        is_part: whether the tables are known to cover a part of the truth, which then is not said.
    """
    from abhinaya.evaluation.caveats import absent_notes, training_notes
    from abhinaya.evaluation.concordance import score_attributes
    from abhinaya.evaluation.scoring import (
        mean_and_sd,
        read_with_truth,
        score_table,
    )

    read, truth = read_with_truth(tables, manifest)
    results = [
        score_table(
            table,
            truth,
            n_resamples=settings.resamples,
            seed=settings.seed,
            by_speaker=settings.by_speaker,
            classes=settings.classes,
        )
        for table in read
    ]
    attributes = {
        table.name: score_attributes(
            table,
            truth,
            n_resamples=settings.resamples,
            seed=settings.seed,
            by_speaker=settings.by_speaker,
        )
        for table in read
        if table.attributes is not None
    }
    means: _Means = {}
    if settings.mean:
        means = {
            key: mean_and_sd([getattr(result.scores, key) for result in results])
            for key in _METRICS
        }
    more = []
    claims: list[list[Cell]] = [
        [result.name, result.calibration.n_utts, result.calibration.ece, result.calibration.brier]
        for result in results
        if result.calibration is not None
    ]
    if claims:
        heading = ["table", "rows", "ECE", "Brier"]
        best = find_best(heading, claims, lowest=("ECE", "Brier"))
        more.append(Report("calibration", heading, claims, best=best))
    for result in results:
        if settings.per_class:
            more.append(
                Report(
                    f"{result.name}: classes",
                    ["class", "name", "precision", "recall", "F1", "support"],
                    _class_rows(result),
                )
            )
        if settings.confusion:
            more.append(
                Report(
                    f"{result.name}: true class in rows, predicted class in columns",
                    ["true", *result.emotions.codes, "none"],
                    _confusion_rows(result),
                )
            )
        if settings.dimensions:
            more += describe_dimensions(result.name, result.scores, result.emotions)
    rows_of = [row for name, found in attributes.items() for row in _attribute_rows(name, found)]
    if rows_of:
        heading = ["table", "attribute", "rows", "CCC", "95 % interval"]
        more.append(Report("concordance of attributes", heading, rows_of))
    notes = [
        f"{result.name} is the truth itself: its score says nothing. Give the table of a member."
        for result, table in zip(results, tables, strict=True)
        if _is_truth(table, manifest)
    ]
    notes += training_notes(results)
    unknown = [name for name, found in attributes.items() if not found]
    if unknown:
        notes.append(
            f"{truth.where} knows no attribute that is predicted, so none was scored: "
            f"{', '.join(unknown)}."
        )
    uncovered = set() if is_part else {result.n_not_in_table for result in results}
    for count in sorted(uncovered - {0}):
        names = ", ".join(r.name for r in results if r.n_not_in_table == count)
        notes.append(
            f"{count} labelled utterances of {truth.where} are not covered and were not scored: "
            f"{names}."
        )
    # Tables may cover different utterances, and so different classes.
    for absent in dict.fromkeys(result.absent for result in results):
        names = ", ".join(r.name for r in results if r.absent == absent)
        of = "" if len(results) == 1 else f"{names}: "
        notes += [f"{of}{note}" for note in absent_notes(absent, settings.classes)]
    columns = ["table", "rows", "macro-F1", "95 % interval", "accuracy", "UAR", "weighted F1"]
    columns += ["dropped", "abstained"]
    rows = _overview(results, means)
    metrics = ("macro-F1", "accuracy", "UAR", "weighted F1")
    best = find_best(columns, rows[: len(results)], highest=metrics)
    if any(result.n_trained_on for result in results):
        columns += ["trained on", "macro-F1 without"]
        for row, result in zip_longest(rows, results):
            row += [result.n_trained_on, result.unseen_macro_f1] if result else [None, None]
    return Report(
        None,
        columns,
        rows,
        notes=tuple(notes),
        more=tuple(more),
        data=_as_json(results, means, settings, attributes),
        best=best,
    )


def _is_truth(table: str | Path | PredictionTable, manifest: Path | Manifest) -> bool:
    """Tell if the table and the truth are one file."""
    if not isinstance(manifest, Path) or not isinstance(table, str | Path):
        return False
    files = [Path(table), Path(str(table).partition("=")[2] or table)]
    return any(file.exists() and file.samefile(manifest) for file in files)


def _overview(results: Sequence[TableScore], means: _Means) -> list[list[Cell]]:
    rows: list[list[Cell]] = [
        [
            result.name,
            result.scores.n_utts,
            result.scores.macro_f1,
            interval_text(result.interval),
            result.scores.accuracy,
            result.scores.uar,
            result.scores.weighted_f1,
            result.n_dropped,
            result.scores.n_abstained,
        ]
        for result in results
    ]
    if means:
        for idx, name in enumerate(("mean", "sd")):
            macro_f1, *others = (means[key][idx] for key in _METRICS)
            rows.append([name, None, macro_f1, None, *others, None, None])
    return rows


def _attribute_rows(name: str, found: Sequence[Concordance]) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    for one in found:
        is_there = not math.isnan(one.ccc)
        shown = [one.ccc, interval_text(one.interval)] if is_there else [None, None]
        rows.append([name, one.attribute, one.n_utts, *shown])
    return rows


def _calibration(result: TableScore) -> dict[str, float | None]:
    found = result.calibration
    return {
        "ece": found.ece if found else None,
        "brier": found.brier if found else None,
        "n_with_probs": found.n_utts if found else 0,
    }


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


def describe_dimensions(name: str, scores: Scores, emotions: EmotionSet) -> list[Report]:
    """Describe the confusions grouped by arousal and by valence, one report each."""
    from abhinaya.evaluation.dimensions import DIMENSIONS, group_confusion

    reports = []
    for dimension in DIMENSIONS:
        found = group_confusion(scores.confusion, emotions, dimension)
        within = found.share_within
        remark = "" if within is None else f"{within:.1%} of the errors keep to the {dimension}. "
        if found.left_out:
            remark += f"Not counted: {', '.join(found.left_out)}, whose {dimension} is not known."
        reports.append(
            Report(
                f"{name}: true {dimension} in rows, predicted {dimension} in columns",
                [dimension, *found.groups, *(f"wrong class, {group}" for group in found.groups)],
                [
                    [group, *counts, *errors]
                    for group, counts, errors in zip(
                        found.groups, found.counts.tolist(), found.errors.tolist(), strict=True
                    )
                ],
                remark=remark.strip() or None,
                data={
                    dimension: {
                        "groups": list(found.groups),
                        "counts": found.counts.tolist(),
                        "errors": found.errors.tolist(),
                        "share_within": within,
                        "left_out": list(found.left_out),
                    }
                },
            )
        )
    return reports


def _as_json(
    results: Sequence[TableScore],
    means: _Means,
    settings: ScoreSettings,
    attributes: Mapping[str, Sequence[Concordance]],
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
            "weighted_f1": scores.weighted_f1,
            "classes": settings.classes,
            "absent_classes": list(result.absent),
            "n_dropped": result.n_dropped,
            "n_abstained": scores.n_abstained,
            "n_not_in_table": result.n_not_in_table,
            "n_trained_on": result.n_trained_on,
            "unseen_macro_f1": result.unseen_macro_f1,
            **_calibration(result),
        }
        if settings.per_class:
            keys = ("class", "name", "precision", "recall", "f1", "support")
            entry["per_class"] = [dict(zip(keys, row, strict=True)) for row in _class_rows(result)]
        if settings.confusion:
            entry["confusion"] = {
                "classes": list(result.emotions.codes),
                "counts": scores.confusion.tolist(),
            }
        if settings.dimensions:
            for report in describe_dimensions(result.name, scores, result.emotions):
                entry |= report.as_json()
        if attributes.get(result.name):
            # JSON has no NaN.
            entry["attributes"] = {
                one.attribute: {
                    "n_utts": one.n_utts,
                    "ccc": None if math.isnan(one.ccc) else one.ccc,
                    "interval": None if math.isnan(one.ccc) else list(one.interval),
                }
                for one in attributes[result.name]
            }
        described.append(entry)
    summary: dict[str, Any] = {"tables": described}
    if means:
        summary["mean"] = {key: mean for key, (mean, _) in means.items()}
        summary["sd"] = {key: sd for key, (_, sd) in means.items()}
    return summary
