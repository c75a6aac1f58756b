"""Comparisons of prediction tables: names, rows and speakers around the tests on labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

from abhinaya.data.texts import Texts
from abhinaya.errors import BadValueError
from abhinaya.evaluation.bootstrap import bootstrap_interval, number_groups
from abhinaya.evaluation.significance import Difference, compare_labels, holm

if TYPE_CHECKING:
    from abhinaya.data.predictions import PredictionTable
    from abhinaya.evaluation.scoring import TableScore, Truth

__all__ = ["Comparison", "ComparisonReport", "compare_tables"]


@dataclass(frozen=True)
class Comparison:
    """One table against another.

    Args:
        table: name of the one; differences are positive where it is better.
        against: name of the other.
        macro_f1: difference of macro-F1.
        accuracy: difference of accuracy.
        n_only_table: utterances that only `table` gets right.
        n_only_against: utterances that only `against` gets right.
    """

    table: str
    against: str
    macro_f1: Difference
    accuracy: Difference
    n_only_table: int
    n_only_against: int


@dataclass(frozen=True)
class ComparisonReport:
    """Scores of all tables on the same utterances, and their comparisons.

    Args:
        scores: of each table, with the interval of macro-F1.
        accuracy_intervals: 95 % interval of each table's accuracy.
        comparisons: in the order of the tables.
        unit: what was resampled and swapped, `utterance` or `speaker`.
        n_units: how many of these there are; utterances of unknown speakers count one by one.
        n_unknown: scored utterances of an unknown speaker.
    """

    scores: tuple[TableScore, ...]
    accuracy_intervals: tuple[tuple[float, float], ...]
    comparisons: tuple[Comparison, ...]
    unit: Literal["utterance", "speaker"]
    n_units: int
    n_unknown: int


def compare_tables(
    tables: Sequence[PredictionTable],
    truth: Truth,
    *,
    all_pairs: bool = False,
    by_speaker: bool = False,
    rows: str = "same",
    include_training_rows: bool = False,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> ComparisonReport:
    """Compare every table with the first one, or every two of them.

    Args:
        tables: at least two, of one emotion set, under different names.
        truth: true labels, and speakers for `by_speaker`. Rows without a true label inside the set
            are dropped; an abstention is wrong.
        all_pairs: compare every two tables, the later one against the earlier one.
        by_speaker: take speakers instead of utterances for independent, see `compare_labels`.
        rows: `same` demands that all tables cover the same utterances; `intersection` keeps those
            that are in all.
        include_training_rows: also score rows that tables were trained on.
        n_resamples: bootstrap resamples behind each interval, and random assignments behind each
            test.
        seed: the same seed gives the same report, whatever other tables are compared.

    Raises:
        BadValueError: if there are fewer than two tables, two have one name, their utterances
            differ, one is not in the truth, a table was trained on what is scored, or speakers are
            asked for but unknown.
        ClassOrderError: if tables and truth differ in class order.
    """
    from abhinaya.data.predictions import align_tables
    from abhinaya.evaluation.caveats import require_unseen
    from abhinaya.evaluation.scoring import labelled_rows, score_table

    _check_names([table.name for table in tables])
    for table in tables[1:]:
        tables[0].emotions.require_same_order(
            table.emotions, what=f"Table {table.name!r}", where=f"table {tables[0].name!r}"
        )
    aligned = align_tables(tables, rows=rows)
    settings: dict[str, Any] = {"n_resamples": n_resamples, "seed": seed}
    scores = tuple(score_table(t, truth, by_speaker=by_speaker, **settings) for t in aligned)

    # The utterances of all tables are the same now.
    scored = labelled_rows(aligned[0].utterances, truth, by_speaker=by_speaker)
    if not include_training_rows:
        require_unseen(aligned, Texts(aligned[0].utterances).take(scored.indices))
    true, n_classes = scored.labels, len(truth.emotions)
    labels = [table.labels[scored.indices] for table in aligned]
    settings["groups"] = scored.groups
    intervals = [
        bootstrap_interval(true, predicted, n_classes, metric="accuracy", **settings)
        for predicted in labels
    ]
    every = range(len(tables))
    pairs = list(combinations(every, 2)) if all_pairs else [(0, other) for other in every[1:]]
    comparisons = []
    for other, own in pairs:
        macro_f1, accuracy = compare_labels(true, labels[own], labels[other], n_classes, **settings)
        right, other_right = labels[own] == true, labels[other] == true
        comparisons.append(
            Comparison(
                table=tables[own].name,
                against=tables[other].name,
                macro_f1=macro_f1,
                accuracy=accuracy,
                n_only_table=int((right & ~other_right).sum()),
                n_only_against=int((other_right & ~right).sum()),
            )
        )
    return ComparisonReport(
        scores=scores,
        accuracy_intervals=tuple(intervals),
        comparisons=_correct(comparisons),
        unit="speaker" if by_speaker else "utterance",
        n_units=len(true) if scored.groups is None else number_groups(scored.groups)[1],
        n_unknown=scored.speakers.count(None),
    )


def _check_names(names: Sequence[str]) -> None:
    if len(names) < 2:
        raise BadValueError(
            f"A comparison needs at least two tables, got {len(names)}. Name the table to compare "
            "with first, then the others."
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadValueError(
            f"{names.count(twice[0])} tables are named {twice[0]!r}. "
            "Rename one with NAME=TABLE on the command line."
        )


def _correct(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Correct each metric by Holm's procedure over all comparisons."""
    of_f1 = holm([comparison.macro_f1.p for comparison in comparisons])
    of_accuracy = holm([comparison.accuracy.p for comparison in comparisons])
    return tuple(
        replace(
            comparison,
            macro_f1=replace(comparison.macro_f1, p_holm=p_f1),
            accuracy=replace(comparison.accuracy, p_holm=p_accuracy),
        )
        for comparison, p_f1, p_accuracy in zip(comparisons, of_f1, of_accuracy, strict=True)
    )
