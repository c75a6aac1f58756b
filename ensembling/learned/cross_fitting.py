"""Cross-fitting: every row is scored by parameters that never saw it, nor its speaker."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.texts import Texts
from abhinaya.errors import BadValueError
from abhinaya.evaluation.bootstrap import number_groups
from ensembling.aligned import AlignedTables
from ensembling.learned.recipes import Fused, LearnedRule

__all__ = ["cross_fit", "fewer_folds", "speaker_folds"]


def speaker_folds(
    truth: NDArray[np.int64], speakers: Sequence[str | None], *, n_folds: int = 5, seed: int = 0
) -> NDArray[np.int64]:
    """Deal utterances into the folds that they are held out in.

    All utterances of a speaker are in one fold; one of an unknown speaker stands for itself. Within
    that, the classes are spread evenly over the folds.

    Args:
        truth: true class indices, shape (U,).
        speakers: speaker of each utterance, None where unknown.
        n_folds: number of folds.
        seed: of the shuffle before the speakers are dealt out.

    Returns:
        Fold of each utterance, shape (U,), values in [0, n_folds).

    Raises:
        BadValueError: if there are fewer than two folds, fewer speakers than folds, or no class has
            as many utterances as there are folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    group_idx, n_groups = number_groups(speakers)
    n_most = int(np.bincount(truth).max(initial=0))
    if n_folds < 2 or n_groups < n_folds or n_most < n_folds:
        advice = "Choose another number with --folds, or label more data."
        if min(n_groups, n_most) < 2:
            advice = "No number of --folds helps; label more data."
        raise BadValueError(
            f"{n_folds} folds cannot be made from {len(truth)} labelled utterances of "
            f"{n_groups} {'speaker' if n_groups == 1 else 'speakers'}, {n_most} in the largest "
            "class: at least two folds are needed, and as many speakers, and utterances of one "
            f"class, as folds. {advice}"
        )
    # Where every group is one utterance, the faster splitter does the same.
    is_grouped = n_groups < len(truth)
    splitter = StratifiedGroupKFold if is_grouped else StratifiedKFold
    folds = np.zeros(len(truth), dtype=np.int64)
    with warnings.catch_warnings():
        # A class with fewer utterances than folds is simply absent from some.
        warnings.filterwarnings("ignore", message="The least populated class")
        splits = splitter(n_folds, shuffle=True, random_state=seed).split(
            np.zeros(len(truth)), truth, group_idx if is_grouped else None
        )
        for fold, (_, held_out) in enumerate(splits):
            folds[held_out] = fold
    return folds


def fewer_folds(truth: NDArray[np.int64], speakers: Sequence[str | None], *, n_folds: int) -> int:
    """Return how many of these folds can be made, at least 2, for rows as in `speaker_folds`.

    Example:
        >>> fewer_folds(np.array([0, 0, 0, 1]), ["a", "b", "b", "c"], n_folds=5)
        3
    """
    n_most = int(np.bincount(truth).max(initial=0))
    return max(2, min(n_folds, number_groups(speakers)[1], n_most))


def cross_fit(
    rule: LearnedRule,
    aligned: AlignedTables,
    truth: NDArray[np.int64],
    speakers: Sequence[str | None],
    options: Mapping[str, Any],
    folds: NDArray[np.int64],
) -> Fused:
    """Apply the rule to every utterance as fitted on the other folds.

    Args:
        rule: the rule.
        aligned: what the members say about U utterances.
        truth: true class indices, shape (U,), values in [0, K).
        speakers: speaker of each utterance, None where unknown.
        options: the rule's settings.
        folds: fold that each utterance is held out in, shape (U,).

    Returns:
        Labels and, where the rule gives them in every fold, probabilities of all U utterances.
    """
    labels = np.empty(len(aligned), dtype=np.int64)
    probs: NDArray[np.float64] | None = np.empty((len(aligned), len(aligned.emotions)))
    for fold in np.unique(folds):
        seen, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        seen_speakers = Texts(speakers).take(seen)
        parameters = rule.fit(aligned.take(seen), truth[seen], seen_speakers, options)
        held_out_speakers = Texts(speakers).take(held_out)
        fused = rule.apply(parameters, aligned.take(held_out), held_out_speakers)
        labels[held_out] = fused.labels
        if fused.probs is None:
            probs = None
        elif probs is not None:
            probs[held_out] = fused.probs
    return Fused(labels, probs)
