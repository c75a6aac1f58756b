"""Speaker adaptation of a prediction table: tables in, a table out, names and counts around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from abhinaya import __version__
from abhinaya.data.texts import Texts, find_rows
from abhinaya.errors import BadValueError, UnknownNameError, list_some
from abhinaya.evaluation.scoring import Truth, align_truth
from ensembling.aligned import align_predictions
from ensembling.speakers.prior import TrainingPrior, reestimate_rows
from ensembling.speakers.rows import ADAPTED, Adapted, SpeakerRows, speaker_rows
from ensembling.speakers.smoothing import ClusterSettings, smooth_rows
from ensembling.speakers.standardize import standardize_rows

if TYPE_CHECKING:
    from abhinaya.data.predictions import PredictionTable

__all__ = ["Method", "SmoothReport", "rows_of_table", "smooth_table"]

Method = Literal["cluster", "standardise", "prior"]
"""Cluster assignment, and its siblings."""


@dataclass(frozen=True)
class SmoothReport:
    """What an adaptation did.

    Args:
        counts: per status (`adapted`, or why rows were kept) the number of speakers, of utterances
            and of those whose label changed. Utterances of unknown speakers count as no speaker.
    """

    counts: Mapping[str, tuple[int, int, int]]


def smooth_table(
    table: PredictionTable,
    truth: Truth,
    *,
    embeddings: PredictionTable | None = None,
    method: Method = "cluster",
    cluster: Mapping[str, Any] | None = None,
    shrinkage: float = 2.0,
    strength: float = 0.0,
    training_prior: TrainingPrior = "auto",
    min_utts: int = 2,
    name: str | None = None,
    n_jobs: int = 1,
) -> tuple[PredictionTable, SmoothReport]:
    """Adapt a table to each speaker, without a gate.

    Args:
        table: the table to adapt: a member's, or a fused one.
        truth: the speakers of its utterances; labels are not looked at.
        embeddings: another table that lends its embeddings; it may have more utterances.
        method: `cluster` is greedy cluster assignment, `standardise` standardises embeddings per
            speaker before the head, `prior` re-estimates the class prior of each speaker.
        cluster: for `cluster`: fields of `ClusterSettings` but `min_utts`.
        shrinkage: for `standardise`, see `standardize_speakers`.
        strength: for `prior`, see `estimate_prior`.
        training_prior: for `prior`, see `reestimate_rows`.
        min_utts: smallest number of usable utterances of a speaker that is adapted to.
        name: name of the new table; by default the table's with `-smooth` behind it.
        n_jobs: processes; -1 for one per core.

    Returns:
        The table, without embeddings, and what was done. Reasons and raw answers are kept;
        `decided_by` says the method, and is None in rows that were kept.

    Raises:
        BadValueError: if utterances are not in `truth` or `embeddings`, no speaker is known, the
            table lacks what the method needs, or a number is out of range.
        UnknownNameError: if a choice is unknown.
        ClassOrderError: if the tables differ in class order.
    """
    if method not in get_args(Method):
        raise UnknownNameError("method", method, get_args(Method))
    _, speakers = align_truth(table.utterances, truth)
    rows = rows_of_table(table, speakers, embeddings)
    settings: dict[str, Any] = {"min_utts": min_utts}
    if method == "cluster":
        settings |= cluster or {}
        adapted = smooth_rows(rows, ClusterSettings(**settings), n_jobs=n_jobs)
    elif method == "standardise":
        settings["shrinkage"] = shrinkage
        adapted = standardize_rows(rows, **settings)
    else:
        settings |= {"strength": strength, "training_prior": training_prior}
        adapted = reestimate_rows(rows, **settings)
    trained_on = table.trained_on
    if embeddings is not None and embeddings.trained_on is not None:
        lent = Texts(embeddings.utterances).take(np.flatnonzero(embeddings.trained_on))
        theirs = find_rows(table.utterances, lent) >= 0
        trained_on = theirs if trained_on is None else trained_on | theirs
    smoothed = replace(
        table,
        name=name or f"{table.name}-smooth",
        labels=adapted.labels,
        probs=None if adapted.probs is None else adapted.probs.astype(np.float32),
        embeddings=None,
        trained_on=trained_on,
        decided_by=tuple(method if status == ADAPTED else None for status in adapted.status),
        meta={
            "rule": "smooth",
            "tables": [table.name],
            "embeddings": embeddings.name if embeddings else None,
            "method": method,
            "settings": settings,
            "version": __version__,
        },
    )
    return smoothed, _report(rows, adapted)


def rows_of_table(
    table: PredictionTable, speakers: Sequence[str | None], embeddings: PredictionTable | None
) -> SpeakerRows:
    """Make one table's rows, with the embeddings of another where given.

    Args:
        table: U utterances.
        speakers: speaker of each, None where unknown.
        embeddings: a table with at least the same utterances.

    Raises:
        BadValueError: if `embeddings` lacks utterances.
        ClassOrderError: if the tables differ in class order.
    """
    if embeddings is None:
        return speaker_rows(align_predictions([table]), speakers)
    places = find_rows(table.utterances, embeddings.utterances)
    missing = Texts(table.utterances).take(np.flatnonzero(places < 0))
    if missing:
        raise BadValueError(
            f"Table {embeddings.name!r}, which should lend its embeddings, lacks {len(missing)} of "
            f"the {len(table)} utterances of table {table.name!r}: {list_some(missing)}. Predict "
            "the same selection with both."
        )
    # Table and lender may have one name, such as a table and its recalibrated form.
    lender = f"{embeddings.name} (embeddings)"
    taken = embeddings.take(places)
    aligned = align_predictions([table, replace(taken, name=lender)])
    return speaker_rows(aligned, speakers, embeddings=lender)


def _report(rows: SpeakerRows, adapted: Adapted) -> SmoothReport:
    numbers, found = Texts(adapted.status).factorize()
    speakers, names = Texts(rows.speakers).factorize()
    is_named = np.array([name is not None for name in names])[speakers]
    is_changed = adapted.labels != rows.labels
    counts = {}
    for number, status in enumerate(found):
        own = numbers == number
        n_speakers = len(np.unique(speakers[own & is_named]))
        counts[str(status)] = n_speakers, int(own.sum()), int((own & is_changed).sum())
    # What was done comes first, then the largest reason why not.
    order = sorted(counts, key=lambda status: (status != ADAPTED, -counts[status][1], status))
    return SmoothReport({status: counts[status] for status in order})
