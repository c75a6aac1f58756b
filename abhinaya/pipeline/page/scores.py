"""Sections of a report about scores: how good each table is, where it errs, what it claims."""

from __future__ import annotations

import numpy as np

from abhinaya.evaluation.calibration import measure_reliability
from abhinaya.evaluation.caveats import absent_notes, training_notes
from abhinaya.pipeline.page.selection import ScoredSelection
from abhinaya.pipeline.report import Cell, interval_text
from abhinaya.report.blocks import Block, Choice, Figure, Headline, Section, Table, Text
from abhinaya.report.figures import bars, heat_map, intervals, reliability

__all__ = ["score_sections"]

_COUNTS, _SHARES = "counts", "shares of the true class"


def score_sections(found: ScoredSelection) -> list[Section]:
    """Return headline, scores, confusions, gain by class and calibration."""
    return [
        Section("Headline", _headline(found)),
        Section("Members and ensemble", _tables(found)),
        Section("Confusions", [_confusions(found)]),
        Section("Gain by class", _gain(found)),
        Section("Calibration", _calibration(found)),
    ]


def _headline(found: ScoredSelection) -> list[Block]:
    final, best = found.scores[found.final.name], found.scores[found.best_member.name]
    scores = final.scores
    units = "speakers" if found.settings.by_speaker else "utterances"
    said = (
        f"{found.final.name} on {scores.n_utts} utterances: accuracy {scores.accuracy:.4f}, "
        f"UAR {scores.uar:.4f}, weighted F1 {scores.weighted_f1:.4f}."
    )
    if best.name != final.name:
        said += (
            f" The best member, {best.name}, has a macro-F1 of {best.scores.macro_f1:.4f}; the "
            f"difference is {scores.macro_f1 - best.scores.macro_f1:+.4f}."
        )
    notes = [*training_notes(found.scores.values()), *absent_notes(final.absent)]
    if final.n_dropped:
        notes.append(f"{final.n_dropped} utterances without a true label inside the set dropped.")
    return [
        Headline(
            f"{scores.macro_f1:.4f}",
            f"macro-F1, 95 % interval {interval_text(final.interval)} "
            f"({found.settings.resamples} bootstrap resamples of {units})",
        ),
        Text(said),
        *map(Text, notes),
        Figure(
            "Macro-F1 with intervals",
            intervals(
                list(found.scores),
                [one.scores.macro_f1 for one in found.scores.values()],
                [one.interval for one in found.scores.values()],
                "macro-F1, 95 % interval",
            ),
            "Macro-F1 of every table; the line is its 95 % bootstrap interval.",
        ),
    ]


def _tables(found: ScoredSelection) -> list[Block]:
    codes = list(found.truth.emotions.codes)
    names = ", ".join(
        f"{code} {name}"
        for code, name in zip(codes, found.truth.emotions.names, strict=True)
        if code != name
    )
    all_scores = found.scores.values()
    return [
        Table(
            "Scores",
            ["table", "macro-F1", "95 % interval", "accuracy", "UAR", "weighted F1", "abstained"],
            [
                [
                    one.name,
                    one.scores.macro_f1,
                    interval_text(one.interval),
                    one.scores.accuracy,
                    one.scores.uar,
                    one.scores.weighted_f1,
                    one.scores.n_abstained,
                ]
                for one in all_scores
            ],
            best=("macro-F1", "accuracy", "UAR", "weighted F1"),
            text="Abstentions count as wrong. UAR is the unweighted average recall.",
        ),
        Table(
            "F1 by class",
            ["table", *codes],
            [[one.name, *map(float, one.scores.f1)] for one in all_scores],
            best=codes,
            text=f"{names}." if names else "",
        ),
    ]


def _confusions(found: ScoredSelection) -> Block:
    codes = list(found.truth.emotions.codes)
    blocks: dict[tuple[str, ...], Figure] = {}
    names = [table.name for table in reversed(found.tables)]
    for name in names:
        scores = found.scores[name].scores
        n_without = scores.support - scores.confusion.sum(axis=1)
        columns = [*codes, "none"] if n_without.any() else codes
        counts = scores.confusion
        if n_without.any():
            counts = np.column_stack([counts, n_without])
        support = np.where(scores.support > 0, scores.support, np.nan)
        titles = {"row_title": "true class", "column_title": "predicted class"}
        for kind, values, decimals, highest in (
            (_COUNTS, counts.astype(np.float64), 0, None),
            (_SHARES, counts / support[:, np.newaxis], 2, 1.0),
        ):
            svg = heat_map(values, codes, columns, decimals=decimals, highest=highest, **titles)
            said = "Rows are true classes, columns predicted ones; the diagonal is right."
            blocks[name, kind] = Figure(f"Confusions of {name}, {kind}", svg, said)
    return Choice("Confusion matrix", {"Table": names, "Cells": (_COUNTS, _SHARES)}, blocks)


def _gain(found: ScoredSelection) -> list[Block]:
    best, codes = found.best_member, list(found.truth.emotions.codes)
    made = found.tables[len(found.members) :]
    if not made:
        return [Text("There is no ensemble, so nothing gains on the best member.")]
    return [
        Figure(
            f"Gain of {table.name} by class over the best member",
            bars(
                codes,
                (found.scores[table.name].scores.f1 - found.scores[best.name].scores.f1).tolist(),
                "difference of F1",
            ),
            f"F1 of {table.name} less F1 of {best.name}, for each class.",
        )
        for table in made
    ]


def _calibration(found: ScoredSelection) -> list[Block]:
    figures: dict[tuple[str, ...], Figure] = {}
    rows: list[list[Cell]] = []
    for table in reversed(found.tables):
        claims = found.scores[table.name].calibration
        if claims is None or table.probs is None:
            continue
        bins = measure_reliability(
            found.rows.labels, table.labels[found.rows.indices], table.probs[found.rows.indices]
        )
        assert bins is not None
        rows.append([table.name, claims.n_utts, claims.ece, claims.brier])
        figures[(table.name,)] = Figure(
            f"Reliability of {table.name}",
            reliability(bins.confidence, bins.accuracy, bins.counts),
            f"ECE {claims.ece:.4f}. Above: share of right rows against their mean highest "
            "probability, in 15 bins; on the dashed line it is what it claims. Below: rows.",
        )
    if not figures:
        return [Text("No table has probabilities, so there is no calibration to show.")]
    without = [table.name for table in found.tables if (table.name,) not in figures]
    said = f"Without probabilities: {', '.join(without)}." if without else ""
    return [
        Choice("Reliability", {"Table": [name for (name,) in figures]}, figures),
        Table("Calibration error", ["table", "rows", "ECE", "Brier"], rows, text=said),
    ]
