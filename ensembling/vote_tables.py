"""The vote over prediction tables: arrays in, arrays out, names and metadata around them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from abhinaya import __version__
from abhinaya.errors import BadValueError, UnknownNameError, list_some
from abhinaya.labels import EmotionSet
from abhinaya.predictions import PredictionTable, align_tables
from ensembling.votes import plurality

__all__ = ["BY_FALLBACK", "BY_MAJORITY", "vote_tables"]

BY_MAJORITY = "majority"
"""`decided_by` of rows that needed no tie-breaking."""

BY_FALLBACK = "fallback"
"""`decided_by` of rows on which every member abstained."""


def vote_tables(
    tables: Sequence[PredictionTable],
    *,
    tiebreakers: Sequence[str] = (),
    fallback: str | None = None,
    rows: str = "same",
    name: str = "vote",
) -> PredictionTable:
    """The most voted class of every utterance.

    Members count equally; one that abstained does not count. A tie is settled by the first table,
    in the order of `tiebreakers` and then of `tables`, whose own label is among the tied classes.

    Args:
        tables: M tables of one emotion set, under different names.
        tiebreakers: names of tables, first one first.
        fallback: class code for utterances on which every member abstained.
        rows: `same` demands that all tables cover the same utterances; `intersection` keeps those
            that are in all.
        name: name of the resulting table.

    Returns:
        A table in the order of the first one. `probs` are the shares of the votes cast, null in
        fallback rows; `decided_by` is `majority`, `fallback` or the name of the table that broke
        the tie.

    Raises:
        BadValueError: if there are no tables, their utterances differ, a table has a name with a
            meaning of its own, a tiebreaker is given twice, or every member abstained on an
            utterance and there is no fallback.
        ClassOrderError: if the tables differ in class order.
        UnknownNameError: if a tiebreaker is not the name of a table, or the fallback no class.
    """
    _check_names([table.name for table in tables], tiebreakers)
    emotions = tables[0].emotions
    for table in tables[1:]:
        emotions.require_same_order(
            table.emotions, what=f"Table {table.name!r}", where=f"table {tables[0].name!r}"
        )
    if fallback is not None and fallback not in emotions.codes:
        raise UnknownNameError("class", fallback, emotions.codes)

    aligned = align_tables(tables, rows=rows)
    names = [table.name for table in aligned]
    result = plurality(
        np.stack([table.labels for table in aligned]),
        len(emotions),
        [names.index(tiebreaker) for tiebreaker in tiebreakers],
    )
    utterances = aligned[0].utterances
    nobody = result.all_abstained
    if nobody.any() and fallback is None:
        _raise_nobody_voted(
            [utterances[idx] for idx in np.flatnonzero(nobody)], len(nobody), emotions
        )

    labels = result.labels.copy()
    if fallback is not None:
        labels[nobody] = emotions.codes.index(fallback)
    probs = result.shares.astype(np.float32)
    probs[nobody] = np.nan
    # The index -1, which means that no tie had to be broken, picks the last entry.
    deciders = [*names, BY_MAJORITY]
    decided_by = [
        BY_FALLBACK if is_nobody else deciders[idx]
        for idx, is_nobody in zip(result.decided_by, nobody, strict=True)
    ]
    return PredictionTable(
        name=name,
        emotions=emotions,
        utterances=utterances,
        labels=labels,
        probs=probs,
        decided_by=tuple(decided_by),
        meta={
            "rule": "vote",
            "tables": names,
            "tiebreakers": list(tiebreakers),
            "fallback": fallback,
            "rows": rows,
            "version": __version__,
        },
    )


def _check_names(names: Sequence[str], tiebreakers: Sequence[str]) -> None:
    if not names:
        raise BadValueError("No tables were given to the vote. Name at least one prediction table.")
    for reserved in (BY_MAJORITY, BY_FALLBACK):
        if reserved in names:
            raise BadValueError(
                f"A table is named {reserved!r}, which in a vote says how a row was decided. "
                "Rename it with NAME=TABLE on the command line."
            )
    for tiebreaker in tiebreakers:
        if tiebreaker not in names:
            raise UnknownNameError("tiebreaker", tiebreaker, names)
        if list(tiebreakers).count(tiebreaker) > 1:
            raise BadValueError(
                f"The tiebreaker {tiebreaker!r} is given more than once. Name each table once, "
                "the one that settles ties first."
            )


def _raise_nobody_voted(utterances: Sequence[str], n_utts: int, emotions: EmotionSet) -> None:
    raise BadValueError(
        f"Every member abstained on {len(utterances)} of {n_utts} utterances: "
        f"{list_some(utterances)}. Add a member that answers there, or say what to write with "
        f"--fallback CLASS, one of {' '.join(emotions.codes)}."
    )
