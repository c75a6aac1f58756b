"""The vote over prediction tables: arrays in, arrays out, names and metadata around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from abhinaya import __version__
from abhinaya.data.labels import EmotionSet
from abhinaya.data.predictions import PredictionTable
from abhinaya.data.texts import Texts
from abhinaya.errors import BadValueError, UnknownNameError, list_some
from ensembling.aligned import AlignedTables, align_predictions
from ensembling.voting.dawid_skene import dawid_skene
from ensembling.voting.soft_votes import (
    check_weights,
    pick_classes,
    require_probs,
    soft_vote,
    weighted_vote,
)
from ensembling.voting.votes import VoteResult, plurality

__all__ = [
    "BY_FALLBACK",
    "BY_MAJORITY",
    "BY_PROBABILITIES",
    "VOTE_RULES",
    "check_tiebreakers",
    "vote_tables",
]

VOTE_RULES = ("plurality", "strict", "soft", "geometric", "weighted", "dawid-skene")
"""Ways to vote that need no labelled data."""

_PROB_RULES = ("soft", "geometric")
_WEIGHTED_RULES = ("soft", "geometric", "weighted")
_WHOLE_RULES = ("dawid-skene",)  # they learn from all rows

BY_MAJORITY = "majority"
"""`decided_by` of rows that needed no tie-breaking."""

BY_PROBABILITIES = "probabilities"
"""The same where no labels are counted: under soft, geometric and dawid-skene."""

BY_FALLBACK = "fallback"
"""`decided_by` of rows on which every member abstained."""

_BLOCK_SIZE = 100_000


def vote_tables(
    tables: Sequence[PredictionTable],
    *,
    rule: str = "plurality",
    weights: Mapping[str, float] | None = None,
    tiebreakers: Sequence[str] = (),
    fallback: str | None = None,
    rows: str = "same",
    name: str = "vote",
) -> PredictionTable:
    """Vote for the class of every utterance.

    Members count equally unless weights say otherwise; one that abstained does not count. A tie is
    settled by the first table, in the order of `tiebreakers` and then of `tables`, whose own label
    is among the tied classes.

    Args:
        tables: M tables of one emotion set, under different names.
        rule: `plurality` counts labels; `strict` does too, but a tie goes to the first table in
            line that has a label, even one outside the tied classes; `soft` and `geometric` take
            the class of the highest arithmetic or geometric mean probability; `weighted` counts
            labels by `weights`; `dawid-skene` reads labels through what each table confuses, which
            is estimated from all the labels, at least three tables'.
        weights: a positive weight for every table, by name; for `soft`, `geometric` and `weighted`.
        tiebreakers: names of tables, first one first.
        fallback: class code for utterances on which every member abstained.
        rows: `same` demands that all tables cover the same utterances; `intersection` keeps those
            that are in all.
        name: name of the resulting table.

    Returns:
        A table in the order of the first one. `probs` are the shares of the votes or weights cast,
        the mean probabilities or the posterior, None in fallback rows; `decided_by` is `majority`,
        `probabilities`, `fallback` or the name of the table that broke the tie. Attributes are the
        plain means of the tables that have them.

    Raises:
        BadValueError: if there are no tables or too few, their utterances differ, a table has a
            name with a meaning of its own, a tiebreaker is given twice, weights are missing or not
            positive or the rule has none, a table has labels without probabilities under a rule
            that needs them, or every member abstained on an utterance and there is no fallback.
        ClassOrderError: if the tables differ in class order.
        UnknownNameError: if a tiebreaker or a weight is not of a table, the fallback no class, or
            the rule unknown.
    """
    if rule not in VOTE_RULES:
        raise UnknownNameError("vote rule", rule, VOTE_RULES)
    _check_names([table.name for table in tables], tiebreakers)
    counts_labels = rule not in _PROB_RULES
    tables = [
        replace(table, embeddings=None, probs=None if counts_labels else table.probs)
        for table in tables
    ]
    aligned = align_predictions(tables, rows=rows, dtype=np.float32)
    names, emotions = aligned.names, aligned.emotions
    if fallback is not None and fallback not in emotions.codes:
        raise UnknownNameError("class", fallback, emotions.codes)
    order = [names.index(tiebreaker) for tiebreaker in tiebreakers]
    result = _vote(aligned, rule, _weights_in_order(weights, names, rule), order)

    utterances = Texts(aligned.utterances)
    nobody = result.all_abstained
    if nobody.any() and fallback is None:
        _raise_nobody_voted(utterances.take(np.flatnonzero(nobody)), len(nobody), emotions)

    labels = result.labels.copy()
    if fallback is not None:
        labels[nobody] = emotions.codes.index(fallback)
    probs = result.shares.astype(np.float32, copy=False)
    probs[nobody] = np.nan
    compares = rule in (*_PROB_RULES, *_WHOLE_RULES)
    deciders = [*names, BY_FALLBACK, BY_PROBABILITIES if compares else BY_MAJORITY]
    # The index -1, which means that no tie had to be broken, picks the last entry.
    decided_by = np.where(nobody, len(names), result.decided_by) % len(deciders)
    return PredictionTable(
        name=name,
        emotions=emotions,
        utterances=utterances,
        labels=labels,
        probs=probs,
        decided_by=Texts(deciders).take(decided_by),
        trained_on=aligned.trained_on,
        attributes=aligned.attributes,
        meta={
            "rule": "vote" if rule == "plurality" else rule,
            "tables": list(names),
            **({"weights": dict(weights)} if weights else {}),
            "tiebreakers": list(tiebreakers),
            "fallback": fallback,
            "rows": rows,
            "version": __version__,
        },
    )


def _vote(
    aligned: AlignedTables, rule: str, weights: NDArray[np.float64] | None, order: Sequence[int]
) -> VoteResult:
    """Vote on some rows after the others: what a vote takes is a multiple of what it reads."""
    if rule in _PROB_RULES:
        require_probs(aligned)
    n_blocks = 1 if rule in _WHOLE_RULES else len(aligned) // _BLOCK_SIZE + 1
    blocks = np.array_split(np.arange(len(aligned)), n_blocks)
    votes = [_vote_on(aligned.take(rows), rule, weights, order) for rows in blocks]
    return VoteResult(
        np.concatenate([vote.labels for vote in votes]),
        np.concatenate([vote.decided_by for vote in votes]),
        np.concatenate([vote.shares for vote in votes], dtype=np.float32),
        np.concatenate([vote.all_abstained for vote in votes]),
    )


def _vote_on(
    aligned: AlignedTables, rule: str, weights: NDArray[np.float64] | None, order: Sequence[int]
) -> VoteResult:
    n_classes = len(aligned.emotions)
    if rule in _PROB_RULES:
        return soft_vote(aligned, order, weights=weights, geometric=rule == "geometric")
    if weights is not None:
        return weighted_vote(aligned.labels, weights, n_classes, order)
    if rule == "dawid-skene":
        posterior = dawid_skene(aligned.labels, n_classes).posterior
        posterior[~aligned.has_voted.any(axis=0)] = 0.0
        return pick_classes(posterior, aligned.labels, order)
    return plurality(aligned.labels, n_classes, order, strict=rule == "strict")


def _weights_in_order(
    weights: Mapping[str, float] | None, names: Sequence[str], rule: str
) -> NDArray[np.float64] | None:
    if not weights:
        if rule == "weighted":
            raise BadValueError(
                f"The rule 'weighted' needs a weight for each of {', '.join(names)}. "
                "Give --weights NAME=W for each, or learn them with: abhinaya fit weights."
            )
        return None
    if rule not in _WEIGHTED_RULES:
        raise BadValueError(
            f"The rule {rule!r} counts all tables alike, but weights were given. "
            f"Remove them, or choose one of the rules {', '.join(_WEIGHTED_RULES)}."
        )
    for name in weights:
        if name not in names:
            raise UnknownNameError("table in the weights", name, names)
    missing = [name for name in names if name not in weights]
    if missing:
        raise BadValueError(
            f"There is no weight for the table {list_some(missing)}. "
            "Give --weights NAME=W for every table."
        )
    return check_weights([weights[name] for name in names], len(names))


def _check_names(names: Sequence[str], tiebreakers: Sequence[str]) -> None:
    if not names:
        raise BadValueError("No tables were given to the vote. Name at least one prediction table.")
    for reserved in (BY_MAJORITY, BY_PROBABILITIES, BY_FALLBACK):
        if reserved in names:
            raise BadValueError(
                f"A table is named {reserved!r}, which in a vote says how a row was decided. "
                "Rename it with NAME=TABLE on the command line."
            )
    check_tiebreakers(names, tiebreakers)


def check_tiebreakers(names: Sequence[str], tiebreakers: Sequence[str]) -> None:
    """Check that each tiebreaker is the name of a table, given once.

    Raises:
        UnknownNameError: if one is not.
        BadValueError: if one is given twice.
    """
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
