"""Clusters among the few utterances of one speaker."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from abhinaya.errors import BadValueError, UnknownNameError

__all__ = ["Clustering", "cluster_points"]

FloatArray = NDArray[np.float64]

Clustering = Literal["k-means", "agglomerative", "gaussian-mixture"]
"""Ways to cluster; all are scikit-learn's."""

# Twelve points in eight clusters have many local optima; a start costs a third of a millisecond.
_N_STARTS = 10


def cluster_points(
    points: FloatArray, n_clusters: int, *, clustering: Clustering = "k-means", seed: int = 0
) -> NDArray[np.int64]:
    """Return the cluster of each point.

    There are never more clusters than distinct points; with as many, every point is its own
    cluster. Otherwise: k-means with the best of ten k-means++ starts; agglomerative clustering with
    Ward's linkage; or a mixture of Gaussians, each with one variance for all directions of the
    subspace that the points span.

    The points go to k-means as they are. A rotation into fewer dimensions would keep all distances,
    but k-means++ meets exact ties (of two neighbours far from all others, either lowers the
    potential by the same amount), which rounding settles: other numbers, other starts.

    Args:
        points: shape (N, D), finite.
        n_clusters: clusters wanted, at least 1.
        clustering: `k-means`, `agglomerative` or `gaussian-mixture`.
        seed: of the random starts.

    Returns:
        Cluster indices, shape (N,), numbered in order of first appearance: point 0 is in cluster 0.

    Raises:
        UnknownNameError: if the clustering is unknown.
        BadValueError: if there are no points or no clusters.

    Example:
        >>> cluster_points(np.array([[0.0], [9.0], [0.1], [9.1]]), 2).tolist()
        [0, 1, 0, 1]
    """
    if clustering not in get_args(Clustering):
        raise UnknownNameError("clustering", clustering, get_args(Clustering))
    if len(points) == 0 or n_clusters < 1:
        raise BadValueError(
            f"{n_clusters} clusters of {len(points)} points cannot be made, expected at least one "
            "of each. Leave out speakers without utterances."
        )
    which = _number_distinct(points)
    if n_clusters >= which.max() + 1:
        return which
    if n_clusters == 1:
        return np.zeros(len(points), dtype=np.int64)
    return _number_by_appearance(_fit(points, n_clusters, clustering, seed))


def _fit(
    points: FloatArray, n_clusters: int, clustering: Clustering, seed: int
) -> NDArray[np.int64]:
    from sklearn.cluster import AgglomerativeClustering, KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        # A mixture that is not settled after 100 rounds still gives clusters.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if clustering == "k-means":
            model = KMeans(n_clusters, n_init=_N_STARTS, random_state=seed)
        elif clustering == "agglomerative":
            model = AgglomerativeClustering(n_clusters, linkage="ward")
        else:
            model = GaussianMixture(n_clusters, covariance_type="spherical", random_state=seed)
            points = _rotate(points)
        return np.asarray(model.fit_predict(points))


def _rotate(points: FloatArray) -> FloatArray:
    """Turn points into at most N dimensions, with the same distances between them.

    With the centred points X, the eigenvectors V and eigenvalues w of X Xᵀ give V sqrt(w), whose
    rows have the same inner products as those of X.
    """
    n_points, width = points.shape
    if width <= n_points:
        return points
    centred = points - points.mean(axis=0)
    values, vectors = np.linalg.eigh(centred @ centred.T)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)))


def _number_distinct(points: FloatArray) -> NDArray[np.int64]:
    """Number points in order of first appearance, equal ones alike."""
    # Adding 0 turns -0 into 0; bytes are far faster here than np.unique over rows.
    return _number_by_appearance([row.tobytes() for row in points + 0.0])


def _number_by_appearance(values: Sequence[bytes] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)
