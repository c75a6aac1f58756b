"""The tables of one selection, held against the truth: what most sections are about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from abhinaya.data.predictions import PredictionTable, align_tables
from abhinaya.evaluation.scoring import LabelledRows, TableScore, Truth, labelled_rows, score_table

if TYPE_CHECKING:
    from abhinaya.pipeline.stages.report import ReportSettings

__all__ = ["ADAPTATIONS", "ScoredSelection", "score_selection"]

ADAPTATIONS = ("smooth", "adaptation")
"""What the metadata of a table calls the rules that look at all clips of a speaker."""


@dataclass(frozen=True, eq=False)
class ScoredSelection:
    """Tables of the same utterances.

    Args:
        members: tables that no other tables were made into, in order.
        fused: what a vote or recipe made of members; None where nothing did.
        adapted: what was adapted to speakers; None where nothing was.
        truth: labels and speakers.
        rows: the utterances that are scored.
        scores: of every table by its name, members first.
        settings: of the report.
    """

    members: tuple[PredictionTable, ...]
    fused: PredictionTable | None
    adapted: PredictionTable | None
    truth: Truth
    rows: LabelledRows
    scores: dict[str, TableScore]
    settings: ReportSettings

    @property
    def tables(self) -> list[PredictionTable]:
        """Every table, members first."""
        made = [table for table in (self.fused, self.adapted) if table is not None]
        return [*self.members, *made]

    @property
    def final(self) -> PredictionTable:
        """The table that counts: adapted before fused, or the best member."""
        return self.adapted or self.fused or self.best_member

    @property
    def best_member(self) -> PredictionTable:
        """The member of highest macro-F1, the first of equal ones."""
        return max(self.members, key=lambda table: self.scores[table.name].scores.macro_f1)


def score_selection(
    tables: Sequence[PredictionTable], truth: Truth, settings: ReportSettings
) -> ScoredSelection:
    """Find out what each table is, vote where nobody has, and score all.

    Raises:
        BadValueError: if the tables cover different utterances, or ones that the truth has not, or
            none has a label; or there is no member.
        ClassOrderError: if tables and truth differ in class order.
    """
    from ensembling.voting.vote_tables import vote_tables

    first = tables[0]
    for table in tables[1:]:
        first.emotions.require_same_order(
            table.emotions, what=f"Table {table.name!r}", where=f"table {first.name!r}"
        )
    tables = align_tables(tables)
    made = [table for table in tables if "tables" in table.meta]
    members = [table for table in tables if "tables" not in table.meta]
    adapted = [table for table in made if table.meta.get("rule") in ADAPTATIONS]
    fused = [table for table in made if table.meta.get("rule") not in ADAPTATIONS]
    if not members:  # only what was made of members is there
        members, made, fused, adapted = tables, [], [], []
    if not fused and len(members) > 1:
        vote = vote_tables(
            members, tiebreakers=settings.tiebreaker, fallback=settings.fallback, name="vote"
        )
        fused = [vote]
    rows = labelled_rows(first.utterances, truth, by_speaker=settings.by_speaker)
    shown = [*members, *fused[-1:], *adapted[-1:]]
    scores = {
        table.name: score_table(
            table,
            truth,
            n_resamples=settings.resamples,
            seed=settings.seed,
            by_speaker=settings.by_speaker,
        )
        for table in shown
    }
    return ScoredSelection(
        members=tuple(members),
        fused=fused[-1] if fused else None,
        adapted=adapted[-1] if adapted else None,
        truth=truth,
        rows=rows,
        scores=scores,
        settings=settings,
    )
