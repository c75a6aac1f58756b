"""Rows of a prediction table beside truth, speaker and the members' votes, and their filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from abhinaya.app.run import OpenedRun
from abhinaya.data.labels import ABSTAIN
from abhinaya.data.predictions import PredictionTable
from abhinaya.data.texts import find_rows
from abhinaya.errors import BadValueError, UnknownNameError
from abhinaya.evaluation.scoring import Truth

__all__ = ["AGREEMENTS", "ANY", "Filters", "UtteranceVotes", "filter_rows", "list_rows", "votes_on"]

ANY = "any"
"""The filter that lets every row through."""

AGREEMENTS = {
    ANY: "any",
    "differ": "members differ",
    "agree": "members agree",
    "tie": "a tie was broken",
    "wrong": "prediction is wrong",
}
"""How rows are chosen by what the members said."""


@dataclass(frozen=True)
class Filters:
    """Which rows are shown.

    Args:
        true: code of the true class, or `ANY`.
        predicted: code of the predicted class, or `ANY`.
        agreement: a key of `AGREEMENTS`.
        speaker: who speaks, or `ANY`.
        confidence: lowest and highest probability or vote share of the predicted class; rows
            without one are shown where this is (0, 1).
    """

    true: str = ANY
    predicted: str = ANY
    agreement: str = ANY
    speaker: str = ANY
    confidence: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class UtteranceVotes:
    """Everything that was said of one utterance.

    Args:
        utterance: its name.
        members: the row of each member's table.
        decided: the row of the table that is browsed.
        true: index of the true class; `ABSTAIN` where there is none.
        speaker: None where unknown.
    """

    utterance: str
    members: tuple[PredictionTable, ...]
    decided: PredictionTable
    true: int
    speaker: str | None


def list_rows(run: OpenedRun, selection: str, table: str) -> pd.DataFrame:
    """Return a row per utterance of a table.

    Columns: `utterance`, `true`, `predicted` (codes), `confidence` in [0, 1], `agree` (members
    with the predicted class), `voted` (members with any), `differ` (whether these differ),
    `decided_by`, `speaker`. What is unknown, or was not voted on, is missing (NaN).

    Raises:
        UnknownNameError: if there is no such table.
    """
    chosen, members = _find(run, selection, table)
    utterances = chosen.utterances
    ballots = np.stack([one.labels for one in members]) if members else chosen.labels[None]
    has_voted = ballots != ABSTAIN
    highest = np.where(has_voted, ballots, -1).max(axis=0)
    lowest = np.where(has_voted, ballots, len(run.emotions)).min(axis=0)
    confidence = np.full(len(chosen), np.nan)
    if chosen.probs is not None:
        known = chosen.labels != ABSTAIN
        confidence[known] = chosen.probs[known, chosen.labels[known]]
    true, _ = _look_up(utterances, run.truth_of(selection))
    _, speakers = _look_up(utterances, run.speakers)
    return pd.DataFrame(
        {
            "utterance": list(utterances),
            "true": run.emotions.decode(true),
            "predicted": run.emotions.decode(chosen.labels),
            "confidence": confidence,
            "agree": (has_voted & (ballots == chosen.labels)).sum(axis=0),
            "voted": has_voted.sum(axis=0),
            "differ": highest > lowest,
            "decided_by": list(chosen.decided_by) if chosen.decided_by else None,
            "speaker": speakers,
        }
    )


def filter_rows(rows: pd.DataFrame, filters: Filters) -> pd.DataFrame:
    """Return the rows that pass every filter.

    Raises:
        UnknownNameError: if there is no such agreement.
    """
    keep = np.ones(len(rows), dtype=bool)
    for column in ("true", "predicted", "speaker"):
        wanted = getattr(filters, column)
        if wanted != ANY:
            keep &= (rows[column] == wanted).to_numpy(dtype=bool)
    if filters.agreement not in AGREEMENTS:
        raise UnknownNameError("agreement", filters.agreement, AGREEMENTS)
    if filters.agreement in ("differ", "agree"):
        keep &= rows["differ"].to_numpy() == (filters.agreement == "differ")
    elif filters.agreement == "tie":
        keep &= (
            rows["decided_by"].notna().to_numpy() & (rows["decided_by"] != "majority").to_numpy()
        )
    elif filters.agreement == "wrong":
        keep &= (rows["true"].notna() & (rows["true"] != rows["predicted"])).to_numpy()
    low, high = filters.confidence
    if (low, high) != (0.0, 1.0):
        # A slider ends on hundredths, and shares such as 1/3 lie between them.
        keep &= rows["confidence"].between(low - 0.005, high + 0.005).to_numpy()
    return rows.loc[keep].reset_index(drop=True)


def votes_on(run: OpenedRun, selection: str, table: str, utterance: str) -> UtteranceVotes:
    """Return what every member said of an utterance, and what a table made of it.

    Raises:
        UnknownNameError: if there is no such table.
        BadValueError: if there is no such utterance.
    """
    chosen, members = _find(run, selection, table)
    [row] = find_rows([utterance], chosen.utterances)
    if row < 0:
        raise BadValueError(f"The tables of {selection!r} have no utterance {utterance!r}.")
    true, _ = _look_up([utterance], run.truth_of(selection))
    _, speakers = _look_up([utterance], run.speakers)
    return UtteranceVotes(
        utterance,
        tuple(one.take([row]) for one in members),
        chosen.take([row]),
        int(true[0]),
        speakers[0],
    )


def _find(
    run: OpenedRun, selection: str, table: str
) -> tuple[PredictionTable, list[PredictionTable]]:
    """Return the table of a name, and those of the members, with the same rows."""
    tables = {one.name: one for one in run.tables(selection)}
    if table not in tables:
        raise UnknownNameError("table", table, tables)
    names = [member.name for member in run.members]
    return tables[table], [tables[name] for name in names if name in tables]


def _look_up(
    utterances: Sequence[str], truth: Truth | None
) -> tuple[NDArray[np.int64], list[str | None]]:
    """Return true class and speaker of each utterance; `ABSTAIN` and None where unknown."""
    if truth is None:
        return np.full(len(utterances), ABSTAIN), [None] * len(utterances)
    found = find_rows(utterances, truth.utterances)
    labels = np.where(found < 0, ABSTAIN, truth.labels[found])
    speakers = list(truth.speakers)
    return labels, [None if idx < 0 else speakers[idx] for idx in found]
