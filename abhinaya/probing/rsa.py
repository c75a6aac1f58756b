"""Do languages arrange the emotions alike? Representational similarity of class centroids.

Kriegeskorte et al., "Representational similarity analysis", 2008,
https://doi.org/10.3389/neuro.06.004.2008.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from abhinaya.errors import BadValueError

__all__ = ["Geometry", "compare_geometry"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Geometry:
    """How alike the groups are.

    Args:
        distances: cosine distances of class centroids by group, shape (K, K).
        correlations: Spearman's, of the upper triangles of each pair of groups.
        mean: of the correlations.
        p: share of label shuffles, this order among them, with such a mean or a larger one.
        shuffled: mean of the means over shuffles.
    """

    distances: Mapping[str, FloatArray]
    correlations: Mapping[tuple[str, str], float]
    mean: float
    p: float
    shuffled: float


def compare_geometry(
    groups: Mapping[str, tuple[FloatArray, IntArray]],
    n_classes: int,
    *,
    n_shuffles: int = 1_000,
    seed: int = 0,
) -> Geometry:
    """Compare the distances of class centroids between groups, such as languages.

    One test for all pairs together: labels are shuffled among the rows of each group.

    Args:
        groups: vectors (N, D) and class indices (N,) by name.
        n_classes: K.
        n_shuffles: of the test.
        seed: of the shuffles.

    Raises:
        BadValueError: if there are fewer than two groups or three classes.
    """
    if len(groups) < 2 or n_classes < 3:
        raise BadValueError(
            f"Geometries are compared between two corpora or more, over three classes or more; got "
            f"{len(groups)} and {n_classes}. Leave rsa out, or name more."
        )
    upper = np.triu_indices(n_classes, 1)
    rng = np.random.default_rng(seed)
    distances, ranks = {}, []
    for name, (vectors, labels) in groups.items():
        own = _distances(vectors, labels[None], n_classes)
        drawn = rng.permuted(np.tile(labels, (n_shuffles, 1)), axis=1)
        distances[name] = own[0]
        every = np.concatenate([own, _distances(vectors, drawn, n_classes)])
        ranks.append(_standard_ranks(every[:, *upper]))
    names = list(groups)
    # One correlation per pair of groups and draw; draw 0 is the truth.
    found = {
        (names[a], names[b]): (ranks[a] * ranks[b]).sum(axis=1)
        for a, b in combinations(range(len(names)), 2)
    }
    means = np.mean(list(found.values()), axis=0)
    return Geometry(
        distances,
        {pair: float(values[0]) for pair, values in found.items()},
        float(means[0]),
        float((means >= means[0] - 1e-12).mean()),
        float(means[1:].mean()) if n_shuffles else np.nan,
    )


def _distances(vectors: FloatArray, labels: IntArray, n_classes: int) -> FloatArray:
    """Return cosine distances (R, K, K) of the centroids under each row of labels (R, N)."""
    centroids = np.stack(
        [(labels == k) / (labels == k).sum(1, keepdims=True) @ vectors for k in range(n_classes)],
        axis=1,
    )
    lengths = np.linalg.norm(centroids, axis=2, keepdims=True)
    unit = centroids / np.where(lengths > 0, lengths, 1.0)
    return np.asarray(1 - unit @ unit.transpose(0, 2, 1))


def _standard_ranks(values: FloatArray) -> FloatArray:
    """Return ranks along the last axis, centred, of length 1: their products sum to Spearman's."""
    from scipy.stats import rankdata

    ranks = rankdata(values, axis=1)
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(ranks, axis=1, keepdims=True)
    return np.asarray(ranks / np.where(lengths > 0, lengths, 1.0))
