"""Fit a learned rule to labelled tables, and apply its recipe to others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from abhinaya import __version__
from abhinaya.data.labels import ABSTAIN
from abhinaya.data.predictions import PredictionTable
from abhinaya.data.texts import Texts
from abhinaya.errors import BadValueError, UnknownNameError, list_some
from abhinaya.evaluation.bootstrap import bootstrap_interval
from abhinaya.evaluation.metrics import scores
from abhinaya.evaluation.scoring import Truth, absent_classes, align_truth, labelled_rows
from ensembling.aligned import AlignedTables, align_predictions
from ensembling.learned.cross_fitting import cross_fit, fewer_folds, speaker_folds
from ensembling.learned.recipes import Fused, Recipe
from ensembling.learned.rules import load_learned
from ensembling.voting.vote_tables import check_tiebreakers
from ensembling.voting.votes import plurality

__all__ = ["FitResult", "FitScore", "apply_recipe", "fit_recipe"]


@dataclass(frozen=True)
class FitScore:
    """How good one way to decide is on the labelled rows.

    Args:
        name: `NAME, cross-fitted` for the rule, `plain vote`, or a table's name.
        n_utts: rows scored.
        macro_f1: over the whole emotion set; abstentions count as wrong.
        interval: 95 % bootstrap interval of macro-F1, lower and upper end.
    """

    name: str
    n_utts: int
    macro_f1: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class FitResult:
    """What a fit gives.

    Args:
        recipe: the rule with parameters fitted on all labelled rows.
        scores: of the rule on rows that its parameters had not seen, of the plain vote, and of each
            table, all on the same rows.
        out_of_fold: what the rule says of each labelled row when fitted on the other folds.
    """

    recipe: Recipe
    scores: tuple[FitScore, ...]
    out_of_fold: PredictionTable


def fit_recipe(
    rule: str,
    tables: Sequence[PredictionTable],
    truth: Truth,
    *,
    options: Mapping[str, Any] | None = None,
    tiebreakers: Sequence[str] = (),
    rows: str = "same",
    n_folds: int = 5,
    may_lower_folds: bool = False,
    seed: int = 0,
    n_resamples: int = 10_000,
    by_speaker: bool = False,
) -> FitResult:
    """Fit a learned rule to labelled tables, with a score that it has earned on unseen rows.

    Rows without a true label inside the set are dropped and counted. Nothing depends on the order
    in which the tables are given: they are sorted by name.

    Beside the rule stands the plain vote that one would submit instead. A tie in it is settled as
    in `vote_tables`, by the tiebreakers and then by the table of highest macro-F1 on these rows,
    the next best, and so on; a table that only lends its embeddings has no vote.

    Args:
        rule: name of the rule.
        tables: M tables of one emotion set, under different names.
        truth: labels and speakers; it may cover more utterances than the tables.
        options: the rule's settings.
        tiebreakers: names of tables that settle ties of the plain vote, first one first.
        rows: `same` demands that all tables cover the same utterances; `intersection` keeps those
            in all.
        n_folds: number of folds of the cross-fit; all rows of a speaker are in one.
        may_lower_folds: make fewer folds where there are fewer speakers.
        seed: of the folds and of the bootstrap.
        n_resamples: number of bootstrap resamples behind an interval.
        by_speaker: resample speakers instead of utterances.

    Raises:
        UnknownNameError: if there is no such rule, it has no such option, or a tiebreaker is not
            the name of a table.
        ClassOrderError: if tables and truth differ in class order.
        BadValueError: if the tables do not match each other or the truth, no row has a label, the
            folds cannot be made, or the tables lack what the rule needs.
    """
    learned, settings = load_learned(rule), dict(options or {})
    whole = align_predictions(sorted(tables, key=lambda table: table.name), rows=rows)
    lender = settings.get("embeddings")
    voters = [name for name in whole.names if name != lender] or whole.names  # or lends to itself
    check_tiebreakers(voters, tiebreakers)
    truth.emotions.require_same_order(
        whole.emotions, what=f"Table {whole.names[0]!r}", where=truth.where
    )
    labelled = labelled_rows(whole.utterances, truth, by_speaker=by_speaker, purpose="learn")
    aligned, labels, speakers = whole.take(labelled.indices), labelled.labels, labelled.speakers

    if may_lower_folds:
        n_folds = fewer_folds(labels, speakers, n_folds=n_folds)
    folds = speaker_folds(labels, speakers, n_folds=n_folds, seed=seed)
    # On all rows first: if the tables lack something, the message then counts all rows.
    parameters = learned.fit(aligned, labels, speakers, settings)
    held_out = cross_fit(learned, aligned, labels, speakers, settings, folds)

    n_classes = len(aligned.emotions)
    said = dict(zip(aligned.names, aligned.labels, strict=True))
    best_first = sorted(voters, key=lambda n: -scores(labels, said[n], n_classes).macro_f1)
    in_line = list(dict.fromkeys([*tiebreakers, *best_first]))
    vote = plurality(np.stack([said[name] for name in in_line]), n_classes)
    ways = [
        (f"{rule}, cross-fitted", held_out.labels),
        ("plain vote", vote.labels),
        *said.items(),
    ]
    found = tuple(
        FitScore(
            name,
            len(labels),
            scores(labels, predicted, n_classes).macro_f1,
            bootstrap_interval(
                labels,
                predicted,
                n_classes,
                groups=labelled.groups,
                n_resamples=n_resamples,
                seed=seed,
            ),
        )
        for name, predicted in ways
    )
    recipe = Recipe(
        rule=rule,
        tables=aligned.names,
        emotions=aligned.emotions,
        parameters=parameters,
        options=settings,
        facts={
            "n_utts": len(aligned),
            "n_dropped": labelled.n_dropped,
            "absent_classes": list(absent_classes(labels, aligned.emotions)),
            "n_speakers": len(set(speakers) - {None}),
            "n_unknown_speakers": speakers.count(None),
            "n_folds": n_folds,
            "seed": seed,
            "rows": rows,
            "macro_f1_cross_fitted": found[0].macro_f1,
            "interval": list(found[0].interval),
            "tiebreakers": in_line,
            "macro_f1_plain_vote": found[1].macro_f1,
            "interval_plain_vote": list(found[1].interval),
            "version": __version__,
        },
        fitted_on=tuple(sorted(_digests(aligned.utterances))),
    )
    meta = {"rule": rule, "tables": list(aligned.names), "out_of_fold": True, "n_folds": n_folds}
    return FitResult(recipe, found, _as_table(held_out, aligned, rule, meta))


def apply_recipe(
    recipe: Recipe,
    tables: Sequence[PredictionTable],
    *,
    truth: Truth | None = None,
    rows: str = "same",
    fallback: str | None = None,
    allow_fitted_rows: bool = False,
    name: str | None = None,
) -> PredictionTable:
    """Apply a fitted rule to other tables of the same members.

    Args:
        recipe: the fitted rule.
        tables: one table for each name in the recipe, in any order.
        truth: where speakers are looked up; its labels are not used.
        rows: `same` demands that all tables cover the same utterances; `intersection` keeps those
            in all.
        fallback: class code for utterances on which every member abstained; without one they
            stay abstentions.
        allow_fitted_rows: whether utterances that the recipe was fitted on are let through. Scores
            on them would flatter.
        name: name of the resulting table; the rule's by default.

    Returns:
        A table in the order of the first table given.

    Raises:
        BadValueError: if a name of the recipe has no table or a table no place in the recipe, the
            recipe was fitted on some of the utterances, or the tables do not match each other.
        ClassOrderError: if recipe and tables differ in class order.
        UnknownNameError: if this version has no such rule, or the fallback is no class.
    """
    learned = load_learned(recipe.rule)
    if fallback is not None and fallback not in recipe.emotions.codes:
        raise UnknownNameError("class", fallback, recipe.emotions.codes)
    given = align_predictions(tables, rows=rows)
    recipe.emotions.require_same_order(
        given.emotions, what=f"Table {given.names[0]!r}", where="the recipe"
    )
    _check_names(recipe.tables, given.names)
    aligned = given.members([given.names.index(table) for table in recipe.tables])
    fitted = set(recipe.fitted_on)
    seen = [
        utterance
        for utterance, digest in zip(aligned.utterances, _digests(aligned.utterances), strict=True)
        if digest in fitted
    ]
    if seen and not allow_fitted_rows:
        raise BadValueError(
            f"The recipe was fitted on {len(seen)} of these {len(aligned)} utterances: "
            f"{list_some(seen)}. A score on them would flatter: the honest one is that of the "
            "fit, and its table is written by abhinaya fit --out-of-fold. Apply the recipe to "
            "other utterances, or give --allow-fitted-rows."
        )
    speakers: Sequence[str | None] = (None,) * len(aligned)
    if truth is not None:
        _, speakers = align_truth(aligned.utterances, truth)
    fused = learned.apply(recipe.parameters, aligned, speakers)
    meta = {
        "rule": recipe.rule,
        "tables": list(aligned.names),
        "fallback": fallback,
        "n_fitted_rows": len(seen),
        "version": __version__,
    }
    if fallback is not None:
        labels = np.where(
            fused.labels == ABSTAIN, recipe.emotions.codes.index(fallback), fused.labels
        )
        fused = Fused(labels, fused.probs)
    return _as_table(fused, aligned, name or recipe.rule, meta)


def _check_names(wanted: Sequence[str], given: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in given]
    extra = [name for name in given if name not in wanted]
    if missing or extra:
        parts = [f"no table is named {list_some(missing)}"] if missing else []
        parts += [f"it does not know {list_some(extra)}"] if extra else []
        raise BadValueError(
            f"The recipe was fitted on the tables {', '.join(wanted)}, but "
            f"{' and '.join(parts)}. Give exactly these; NAME=TABLE on the command line renames "
            "one."
        )


def _digests(utterances: Sequence[str]) -> list[str]:
    """Hash each name into twelve digits: enough to recognise it, without listing a corpus."""
    return [hashlib.sha256(name.encode("utf-8")).hexdigest()[:12] for name in utterances]


def _as_table(
    fused: Fused, aligned: AlignedTables, name: str, meta: Mapping[str, Any]
) -> PredictionTable:
    return PredictionTable(
        name=name,
        emotions=aligned.emotions,
        utterances=aligned.utterances,
        labels=fused.labels,
        reasons=Texts(pc.if_else(fused.labels == ABSTAIN, "every member abstained", None)),
        probs=None if fused.probs is None else fused.probs.astype(np.float32),
        trained_on=aligned.trained_on,
        attributes=aligned.attributes,
        meta=meta,
    )
