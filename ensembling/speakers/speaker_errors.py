"""What wrong speakers do to speaker adaptation: speakers made wrong on purpose, and the curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from abhinaya.data.labels import ABSTAIN
from abhinaya.errors import BadValueError, UnknownNameError
from abhinaya.evaluation.metrics import scores
from ensembling.aligned import align_truth
from ensembling.speakers.smooth_tables import rows_of_table
from ensembling.speakers.variants import NONE, adapt, lacking_for, usable_variants

if TYPE_CHECKING:
    from abhinaya.data.predictions import PredictionTable
    from abhinaya.evaluation.scoring import Truth

__all__ = ["KINDS", "CurvePoint", "ErrorKind", "corrupt_speakers", "robustness_curve"]

ErrorKind = Literal["merged", "split", "shuffled"]
"""How speakers can be wrong: two taken for one, one for two, or utterances given to others."""

KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)
"""All of them."""


@dataclass(frozen=True)
class CurvePoint:
    """The score of one adaptation under one amount of one kind of error.

    Args:
        kind: how the speakers are wrong.
        share: how many of them, in [0, 1]; see `corrupt_speakers`.
        variant: the adaptation, or `none`.
        macro_f1: mean over the repeats.
    """

    kind: ErrorKind
    share: float
    variant: str
    macro_f1: float


def corrupt_speakers(
    speakers: Sequence[str | None], kind: ErrorKind, share: float, *, seed: int = 0
) -> tuple[str | None, ...]:
    """Speakers with errors; unknown ones stay unknown.

    - `merged`: that share of the speakers is each taken for another one, drawn among the rest.
    - `split`: that share of the speakers each falls apart into two, utterance by utterance at
      random, as evenly as possible; one with a single utterance stays whole.
    - `shuffled`: that share of the utterances exchange their speakers at random.

    Shares are rounded to whole speakers or utterances. With one seed, a larger share hits those
    that a smaller one hits, and more.

    Args:
        speakers: U names, null where unknown.
        kind: the kind of error.
        share: in [0, 1].
        seed: of the draw.

    Raises:
        UnknownNameError: if the kind is unknown.
        BadValueError: if the share is out of range.

    Example:
        >>> corrupt_speakers(["a", "a", "b", None], "shuffled", 1.0, seed=1)
        ('a', 'b', 'a', None)
    """
    if kind not in KINDS:
        raise UnknownNameError("kind of speaker error", kind, KINDS)
    if not 0 <= share <= 1:
        raise BadValueError(
            f"share is {share}, expected a number from 0 (all speakers right) to 1 (none)."
        )
    rng = np.random.default_rng(seed)
    wrong = list(speakers)
    if kind == "shuffled":
        known = [idx for idx, name in enumerate(speakers) if name is not None]
        order = [known[place] for place in rng.permutation(len(known))]
        hit = order[: round(share * len(order))]
        for idx, other in zip(hit, hit[1:] + hit[:1], strict=True):
            wrong[idx] = speakers[other]
        return tuple(wrong)
    names = sorted({name for name in speakers if name is not None})
    order = [int(place) for place in rng.permutation(len(names))]
    n_hit = round(share * len(names))
    # Drawn for all, so that a larger share changes nothing about those hit before.
    draws = rng.random(len(names))
    if kind == "merged":
        # Somebody has to remain to be taken for.
        n_hit = min(n_hit, max(len(names) - 1, 0))
        for place in range(n_hit):
            rest = order[n_hit:]
            taken_for = names[rest[int(draws[place] * len(rest))]]
            wrong = [
                taken_for if name == names[order[place]] else new
                for name, new in zip(speakers, wrong, strict=True)
            ]
        return tuple(wrong)
    for place in range(n_hit):
        name = names[order[place]]
        own = [idx for idx, other in enumerate(speakers) if other == name]
        second = f"{name} (second half)"
        while second in names:
            second += "'"
        shuffled = np.random.default_rng([seed, order[place]]).permutation(own)
        for idx in shuffled[: len(own) // 2]:
            wrong[idx] = second
    return tuple(wrong)


def robustness_curve(
    table: PredictionTable,
    truth: Truth,
    *,
    embeddings: PredictionTable | None = None,
    variants: Sequence[str] = (),
    kinds: Sequence[ErrorKind] = KINDS,
    shares: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
    n_repeats: int = 3,
    seed: int = 0,
    n_jobs: int = 1,
) -> list[CurvePoint]:
    """Macro-F1 of each adaptation when more and more speakers are wrong.

    Args:
        table: the table to adapt; all its rows are adapted, those with a true label scored.
        truth: true labels, and the speakers that are made wrong.
        embeddings: another table that lends its embeddings.
        variants: adaptations out of `ensembling.speakers.variants.VARIANTS`; by default those of
            the gate that the table has the numbers for. `none` is always there to compare with.
        kinds: kinds of errors.
        shares: amounts of errors.
        n_repeats: draws of wrong speakers, whose scores are averaged.
        seed: of the first draw.
        n_jobs: processes; -1 for one per core.

    Returns:
        One point per kind, share and variant, in this order.

    Raises:
        BadValueError: if no row has a true label, no speaker is known, the table lacks what a
            variant needs, or a number is out of range.
        UnknownNameError: if a kind or variant is unknown.
    """
    if n_repeats < 1:
        raise BadValueError(f"n_repeats is {n_repeats}, expected at least 1.")
    labels, speakers = align_truth(table.utterances, truth)
    rows = rows_of_table(table, speakers, embeddings)
    rows.require_speakers()
    for name in variants:
        lacking = lacking_for(name, rows)
        if lacking:
            raise BadValueError(f"The adaptation {name!r} cannot be tried: {lacking}.")
    chosen = [NONE, *(variants or usable_variants(rows))]
    is_scored = labels != ABSTAIN
    points = []
    for kind in kinds:
        for share in shares:
            sums = dict.fromkeys(chosen, 0.0)
            for repeat in range(n_repeats):
                wrong = corrupt_speakers(speakers, kind, share, seed=seed + repeat)
                for name in chosen:
                    adapted = adapt(replace(rows, speakers=wrong), name, n_jobs=n_jobs)
                    sums[name] += scores(
                        labels[is_scored], adapted.labels[is_scored], rows.n_classes
                    ).macro_f1
            points += [
                CurvePoint(kind, share, name, total / n_repeats) for name, total in sums.items()
            ]
    return points
