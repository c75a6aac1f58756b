"""Per-speaker standardisation of embeddings before the head.

Every voice moves the embeddings of all its utterances in the same direction. Removing each
speaker's own mean and spread, and putting those of the whole table in their place, takes that away
and leaves the head the kind of numbers that it was trained on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from abhinaya.errors import BadValueError
from ensembling.speakers.rows import (
    Adapted,
    SpeakerRows,
    group_speakers,
    keep_all,
    require_min_utts,
)
from ensembling.voting.soft_votes import softmax

__all__ = ["standardize_columns", "standardize_rows", "standardize_speakers"]

FloatArray = NDArray[np.float64]


def standardize_rows(rows: SpeakerRows, *, shrinkage: float = 2.0, min_utts: int = 2) -> Adapted:
    """Apply the head to embeddings that are standardized per speaker.

    Kept as they are: rows that abstained or lack a speaker or an embedding, and speakers with fewer
    than `min_utts` of the others. Rows without a speaker still count in the statistics of the
    whole table.

    Args:
        rows: a table with embeddings and head of its own.
        shrinkage: see `standardize_speakers`.
        min_utts: smallest number of usable utterances of a speaker that is adapted to.

    Raises:
        BadValueError: if no speaker is known, the table lacks embeddings or head or has another
            table's, or a number is out of range.
    """
    require_min_utts(min_utts)
    rows.require_speakers()
    purpose = "standardising per speaker"
    embeddings = rows.require_embeddings(purpose)
    head = rows.require_head(purpose)
    if not rows.has_own_embeddings:
        raise BadValueError(
            f"Table {rows.name!r} has another table's embeddings, whose head would replace its "
            "predictions when they are standardised per speaker. Standardise the other table, "
            "and fuse afterwards."
        )
    has_embedding = rows.has_embedding
    groups, status = group_speakers(rows, has_embedding, min_utts)
    # In the order of the names, so that rounding does not depend on the order of the table.
    order = rows.by_utterance
    whole = embeddings[order[has_embedding[order]]]
    labels, probs = keep_all(rows)
    moved = standardize_speakers(
        [embeddings[idx] for _, idx in groups],
        whole.mean(axis=0),
        whole.std(axis=0),
        shrinkage=shrinkage,
    )
    for (_, idx), vectors in zip(groups, moved, strict=True):
        probs[idx] = softmax(head.logits(vectors))
        labels[idx] = probs[idx].argmax(axis=1)
    return Adapted(labels, probs, tuple(status))


def standardize_columns(vectors: FloatArray) -> FloatArray:
    """Give each column mean 0 and standard deviation 1; one without spread only mean 0.

    The numbers are those of scikit-learn's StandardScaler to the bit, without its checks: of a
    speaker's few utterances they take ten times as long as the work.

    Args:
        vectors: finite, shape (n, D).

    Source: Chan, Golub & LeVeque, "Algorithms for computing the sample variance", 1983.

    Example:
        >>> standardize_columns(np.array([[1.0, 5.0], [3.0, 5.0]])).tolist()
        [[-1.0, 0.0], [1.0, 0.0]]
    """
    n_rows = len(vectors)
    mean = vectors.sum(axis=0) / n_rows
    centred = vectors - mean
    var = ((centred**2).sum(axis=0) - centred.sum(axis=0) ** 2 / n_rows) / n_rows
    # What rounding alone makes of a constant column is no spread.
    eps = np.finfo(np.float64).eps
    is_constant = var <= n_rows * eps * var + (n_rows * mean * eps) ** 2
    return np.asarray(centred / np.where(is_constant, 1.0, np.sqrt(var)))


def standardize_speakers(
    speakers: list[FloatArray], mean: FloatArray, std: FloatArray, *, shrinkage: float = 0.0
) -> list[FloatArray]:
    """Give each speaker's vectors the mean and spread of the whole.

    x' = (x - mean_s) / std_s * std + mean, per dimension. The statistics of a speaker with n
    utterances are shrunk towards those of the whole, as if `shrinkage` further utterances looked
    like it: with w = n / (n + shrinkage), mean_s = w * (own mean) + (1 - w) * mean, and std_s ** 2
    = w * (own variance, divisor n) + (1 - w) * std ** 2. So one utterance barely moves, and many
    move fully. At shrinkage 0 it is the plain formula. A dimension without spread only has its
    mean moved.

    Args:
        speakers: vectors of each speaker, shape (n, D) each.
        mean: of all rows, shape (D,).
        std: standard deviation of all rows, shape (D,).
        shrinkage: pseudo-utterances, at least 0.

    Raises:
        BadValueError: if the shrinkage is negative.

    Example:
        >>> x = np.array([[1.0], [3.0]])
        >>> standardize_speakers([x], np.array([10.0]), np.array([4.0]))[0].tolist()
        [[6.0], [14.0]]
    """
    if not shrinkage >= 0:
        raise BadValueError(
            f"shrinkage is {shrinkage}, expected 0 or more pseudo-utterances; 0 trusts each "
            "speaker's own statistics fully."
        )
    moved = []
    for vectors in speakers:
        weight = len(vectors) / (len(vectors) + shrinkage)
        own_mean = weight * vectors.mean(axis=0) + (1 - weight) * mean
        own_std = np.sqrt(weight * vectors.var(axis=0) + (1 - weight) * std**2)
        # Rounding leaves a constant dimension some 1e-17 of spread.
        has_spread = own_std > 1e-12 * (np.abs(own_mean) + 1)
        ratio = np.where(has_spread, std / np.where(has_spread, own_std, 1.0), 1.0)
        moved.append(np.asarray((vectors - own_mean) * ratio + mean))
    return moved
