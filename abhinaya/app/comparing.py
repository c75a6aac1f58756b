"""Two ensembles of a run's members, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from abhinaya.app.run import OpenedRun
from abhinaya.data.labels import ABSTAIN
from abhinaya.data.predictions import PredictionTable
from abhinaya.errors import BadValueError
from abhinaya.evaluation.scoring import align_truth, score_table

if TYPE_CHECKING:
    from abhinaya.evaluation.scoring import TableScore

__all__ = ["Comparison", "Ensemble", "compare_ensembles"]

_N_RESAMPLES = 1_000


@dataclass(frozen=True)
class Ensemble:
    """Some members of a run, and who of them settles ties.

    Args:
        members: names.
        tiebreakers: names, the first in line first.
        fallback: class code for rows on which all abstain.
    """

    members: tuple[str, ...]
    tiebreakers: tuple[str, ...] = ()
    fallback: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Two ensembles on one selection.

    Args:
        votes: their tables.
        scores: of each, where there are true labels.
        differing: a row for each utterance that they label differently: `utterance`, `true`
            (None where unknown), `A`, `A decided by`, `B`, `B decided by`.
    """

    votes: tuple[PredictionTable, PredictionTable]
    scores: tuple[TableScore, TableScore] | None
    differing: pd.DataFrame


def compare_ensembles(run: OpenedRun, selection: str, a: Ensemble, b: Ensemble) -> Comparison:
    """Compare how two ensembles vote, by plurality: macro-F1 of each, and where they differ.

    Raises:
        BadValueError: if one has no members, or nobody voted on a row and there is no fallback.
        UnknownNameError: if a tiebreaker is not among an ensemble's members.
    """
    votes = (_vote(run, selection, a, "A"), _vote(run, selection, b, "B"))
    first, second = votes
    codes = run.emotions.decode
    truth, scores = run.truth_of(selection), None
    true: list[str | None] = [None] * len(first)
    if truth is not None:
        labels, _ = align_truth(first.utterances, truth)
        true = codes(labels)
        if (labels != ABSTAIN).any():
            scored = [score_table(vote, truth, n_resamples=_N_RESAMPLES) for vote in votes]
            scores = (scored[0], scored[1])
    assert first.decided_by is not None
    assert second.decided_by is not None
    rows = pd.DataFrame(
        {
            "utterance": list(first.utterances),
            "true": true,
            "A": codes(first.labels),
            "A decided by": list(first.decided_by),
            "B": codes(second.labels),
            "B decided by": list(second.decided_by),
        }
    )
    return Comparison(votes, scores, rows.loc[first.labels != second.labels].reset_index(drop=True))


def _vote(run: OpenedRun, selection: str, ensemble: Ensemble, name: str) -> PredictionTable:
    from ensembling.voting.vote_tables import vote_tables

    if not ensemble.members:
        raise BadValueError(f"Ensemble {name} has no members. Choose at least one.")
    tables = [table for table in run.member_tables(selection) if table.name in ensemble.members]
    return vote_tables(
        tables, tiebreakers=ensemble.tiebreakers, fallback=ensemble.fallback, name=name
    )
