"""The whole page of a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from abhinaya.data.labels import ABSTAIN
from abhinaya.data.manifest import Manifest, read_manifest
from abhinaya.data.predictions import PredictionTable
from abhinaya.errors import BadValueError, list_some
from abhinaya.evaluation.scoring import Truth, align_truth, read_with_truth
from abhinaya.pipeline.page.adaptation import adaptation_section
from abhinaya.pipeline.page.ensemble import ensemble_sections
from abhinaya.pipeline.page.runs import (
    Sources,
    corpus_section,
    provenance_section,
    training_section,
)
from abhinaya.pipeline.page.scores import score_sections
from abhinaya.pipeline.page.selection import ScoredSelection, score_selection
from abhinaya.report.blocks import Page, Part, Section, Text

if TYPE_CHECKING:
    from abhinaya.pipeline.stages.report import ReportSettings

__all__ = ["build_page"]


def build_page(
    sources: Sources, settings: ReportSettings
) -> tuple[Page, dict[str, ScoredSelection]]:
    """Return the page, and what was scored by selection.

    Raises:
        BadValueError: if no selection has true labels, or see `score_selection`.
        AbhinayaError: if a file cannot be read.
    """
    read: dict[str, Sequence[PredictionTable]] = {}
    scored: dict[str, ScoredSelection] = {}
    parts: list[Part] = []
    for name, given in sources.tables.items():
        tables, truth = read_with_truth(given, sources.truths[name])
        if _has_labels(tables, truth):
            found = scored[name] = score_selection(tables, truth, settings)
            made = [table for table in found.tables if table.name not in {t.name for t in tables}]
            tables = [*tables, *made]
            parts.append(_part(name, found, is_only=len(sources.tables) == 1))
        else:
            said = (
                f"No utterance of this selection has a true label in {sources.truths[name]}, so "
                "nothing can be scored. Name other labels with --truth."
            )
            parts.append(Part(f"Selection {name}", [Section("Scores", [Text(said)])]))
        read[name] = tables
    if not scored:
        raise BadValueError(
            f"None of the selections {list_some(sources.tables)} has true labels in "
            f"{list_some(map(str, dict.fromkeys(sources.truths.values())))}. Predict a labelled "
            "selection, or name labels with --manifest or --truth SELECTION=FILE."
        )
    first = next(iter(scored.values()))
    manifest = _manifest(sources)
    common = [
        training_section(first.members, sources),
        corpus_section(manifest),
        provenance_section(read, sources),
    ]
    if sources.missing:
        absences = [
            Text(f"Tables of {name} that the chain has yet to make: {', '.join(absent)}.")
            for name, absent in sources.missing.items()
        ]
        common.insert(0, Section("Not finished", absences))
    n_utts = ", ".join(f"{name} ({len(one.rows.indices)})" for name, one in scored.items())
    page = Page(
        title=f"Report of {sources.title}",
        subtitle=f"Scored utterances: {n_utts}. Emotions: {', '.join(first.truth.emotions.names)}.",
        parts=[*parts, Part("Runs and corpus", common)],
    )
    return page, scored


def _part(name: str, found: ScoredSelection, *, is_only: bool) -> Part:
    sections = score_sections(found)
    ensemble = ensemble_sections(found)
    calibration = sections.pop()
    return Part(
        "Scores" if is_only else f"Selection {name}",
        [*sections, *ensemble, calibration, adaptation_section(found)],
    )


def _has_labels(tables: Sequence[PredictionTable], truth: Truth) -> bool:
    labels, _ = align_truth(tables[0].utterances, truth, of=f"table {tables[0].name!r}")
    return bool((labels != ABSTAIN).any())


def _manifest(sources: Sources) -> Manifest | None:
    return None if sources.manifest is None else read_manifest(sources.manifest)
