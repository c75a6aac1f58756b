"""Iterative nullspace projection: take out of vectors what tells who speaks.

Ravfogel et al., "Null It Out: Guarding Protected Attributes by Iterative Nullspace Projection",
2020, arXiv:2004.07667. A linear classifier of speakers is fitted, the vectors are projected onto
the nullspace of its weights, and so on until it is at chance.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.errors import BadValueError

__all__ = ["NullSpace", "decode_linearly", "find_null_space", "halve_within"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class NullSpace:
    """What was found.

    Args:
        projection: P, shape (D, D), symmetric with P P = P.
        accuracies: of each round's classifier on rows that it was not fitted on, the last one after
            all projections.
        chance: share of the most frequent speaker among these rows.
        threshold: accuracies up to it are what chance gives in 95 % of draws of so many rows.
        rank: directions that were taken out.
    """

    projection: FloatArray
    accuracies: tuple[float, ...]
    chance: float
    threshold: float
    rank: int

    @property
    def is_at_chance(self) -> bool:
        """Tell whether the last classifier was."""
        return self.accuracies[-1] <= self.threshold


def find_null_space(
    vectors: FloatArray,
    speakers: NDArray[np.str_],
    *,
    seed: int,
    max_rounds: int = 30,
) -> NullSpace:
    """Find what to take out until speakers cannot be told from each other, at most so many times.

    Args:
        vectors: shape (N, D), standardised.
        speakers: shape (N,).
        seed: of the 70/30 halves within each speaker.
        max_rounds: classifiers that are fitted at most.

    Raises:
        BadValueError: if there is one speaker, or one has a single row.
    """
    from scipy.stats import binom

    train, test = halve_within(speakers, seed)
    width = vectors.shape[1]
    taken = np.zeros((width, 0))  # orthonormal
    chance = _largest_share(speakers[test])
    threshold = float(binom.ppf(0.95, len(test), chance)) / len(test)
    accuracies: list[float] = []
    for n_done in range(max_rounds + 1):
        projected = vectors - vectors @ taken @ taken.T
        classifier, accuracy = _fit(projected, speakers, train, test)
        accuracies.append(accuracy)
        if accuracy <= threshold or n_done == max_rounds or taken.shape[1] == width:
            break
        directions = classifier.coef_.T  # (D, speakers)
        directions = directions - taken @ (taken.T @ directions)
        left, sizes, _ = np.linalg.svd(directions, full_matrices=False)
        new = left[:, sizes > 1e-6 * sizes.max()]
        taken, _ = np.linalg.qr(np.concatenate([taken, new], axis=1)[:, :width])
    return NullSpace(
        np.eye(width) - taken @ taken.T, tuple(accuracies), chance, threshold, taken.shape[1]
    )


def decode_linearly(
    vectors: FloatArray, speakers: NDArray[np.str_], *, seed: int
) -> tuple[float, float]:
    """Return accuracy and chance of telling speakers apart, 70/30 within each speaker.

    Raises:
        BadValueError: if there is one speaker, or one has a single row.
    """
    train, test = halve_within(speakers, seed)
    return _fit(vectors, speakers, train, test)[1], _largest_share(speakers[test])


def halve_within(speakers: NDArray[np.str_], seed: int) -> tuple[IntArray, IntArray]:
    """Return 70 % of the rows of each speaker, and the other 30 %; at least one row in both.

    Raises:
        BadValueError: if there is one speaker, or one has a single row.
    """
    names, counts = np.unique(speakers, return_counts=True)
    if len(names) < 2:
        raise BadValueError(
            "Speakers are told apart only where there are two, but one part of the corpus has "
            f"{names.tolist()}. Leave inlp out for this corpus."
        )
    if counts.min() < 2:
        raise BadValueError(
            f"The speaker {str(names[counts.argmin()])!r} has one row, so it cannot be in training "
            "and test. Leave inlp out for this corpus, or the speaker out of its select."
        )
    rng = np.random.default_rng(seed)
    train: list[int] = []
    for name, count in zip(names, counts, strict=True):
        rows = rng.permutation(np.flatnonzero(speakers == name))
        train += rows[: min(max(round(0.7 * count), 1), count - 1)].tolist()
    is_train = np.zeros(len(speakers), dtype=bool)
    is_train[train] = True
    return np.flatnonzero(is_train), np.flatnonzero(~is_train)


def _fit(
    vectors: FloatArray, speakers: NDArray[np.str_], train: IntArray, test: IntArray
) -> tuple[Any, float]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression(max_iter=200)
    with warnings.catch_warnings():  # near chance there is little to converge to
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(vectors[train], speakers[train])
    return classifier, float((classifier.predict(vectors[test]) == speakers[test]).mean())


def _largest_share(speakers: NDArray[np.str_]) -> float:
    return float(np.unique(speakers, return_counts=True)[1].max() / len(speakers))
