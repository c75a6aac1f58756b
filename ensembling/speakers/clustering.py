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
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        # A mixture that is not settled after 100 rounds still gives clusters.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if clustering == "k-means":
            return _k_means(points, n_clusters, seed)
        if clustering == "agglomerative":
            model = AgglomerativeClustering(n_clusters, linkage="ward")
        else:
            model = GaussianMixture(n_clusters, covariance_type="spherical", random_state=seed)
            points = _rotate(points)
        return np.asarray(model.fit_predict(points))


def _k_means(points: FloatArray, n_clusters: int, seed: int) -> NDArray[np.int64]:
    """Return what scikit-learn's KMeans says, without what surrounds it.

    A speaker has few points: seven tenths of the time of `KMeans.fit` goes into checks and into
    drawing one start after the other. Tests hold the two to each other.
    """
    from sklearn.cluster import KMeans

    try:
        from sklearn.cluster._kmeans import _is_same_clustering, _kmeans_single_lloyd
    except ImportError:  # a private part, which another version may have renamed
        model = KMeans(n_clusters, n_init=_N_STARTS, random_state=seed)
        return np.asarray(model.fit_predict(points))

    # Unwrapped: setting the threads of BLAS for each start takes a tenth of the time.
    run_start = getattr(_kmeans_single_lloyd, "__wrapped__", _kmeans_single_lloyd)
    tolerance = 1e-4 * np.mean(np.var(points, axis=0))
    points = np.ascontiguousarray(points - points.mean(axis=0))
    weights = np.ones(len(points))
    best, least = None, np.inf
    for centres in _draw_starts(points, n_clusters, np.random.RandomState(seed)):
        labels, inertia, _, _ = run_start(points, weights, centres, tol=tolerance)
        # Rounding makes the same clusters, numbered otherwise, a little better.
        if best is None or (inertia < least and not _is_same_clustering(labels, best, n_clusters)):
            best, least = labels, inertia
    return np.asarray(best)


def _draw_starts(
    points: FloatArray, n_clusters: int, random_state: np.random.RandomState
) -> FloatArray:
    """Draw the centres of all starts of k-means++ at once, shape (S, k, D).

    The steps are scikit-learn's, on arrays that have the start as a further axis; each is a call
    for all starts, where calls are what takes time.

    Source: Arthur & Vassilvitskii, "k-means++: The Advantages of Careful Seeding", 2007; of
    2 + log k candidates for a centre the best is kept.
    """
    n_points, n_candidates = len(points), 2 + int(np.log(n_clusters))
    draws = random_state.random_sample((_N_STARTS, 1 + (n_clusters - 1) * n_candidates))
    norms, starts = np.einsum("ij,ij->i", points, points), np.arange(_N_STARTS)
    ones = np.ones((n_points, 1))

    def distances(idx: NDArray[np.int64]) -> FloatArray:
        """Return squared distances of points at `idx`, shape (S, C), to all, (S, C, N)."""
        found: FloatArray = points[idx] @ points.T  # (S, C, N)
        found *= -2
        found += norms[idx][:, :, np.newaxis]
        found += norms
        return np.maximum(found, 0, out=found)

    shares = np.cumsum(np.ones(n_points) / n_points)
    chosen = np.empty((_N_STARTS, n_clusters), dtype=np.int64)
    chosen[:, 0] = (shares / shares[-1]).searchsorted(draws[:, 0], side="right")
    closest = distances(chosen[:, :1])  # (S, 1, N)
    potential = (closest @ ones)[:, 0]  # (S, 1)
    for place in range(1, n_clusters):
        first = 1 + (place - 1) * n_candidates
        drawn = draws[:, first : first + n_candidates] * potential  # (S, C)
        idx = (closest.cumsum(axis=2) < drawn[:, :, np.newaxis]).sum(axis=2)
        idx = np.minimum(idx, n_points - 1)
        candidates = distances(idx)
        np.minimum(closest, candidates, out=candidates)
        potentials = (candidates @ ones)[:, :, 0]  # (S, C)
        best = potentials.argmin(axis=1)
        chosen[:, place] = idx[starts, best]
        potential = potentials[starts, best][:, np.newaxis]
        closest = candidates[starts, best][:, np.newaxis]
    return points[chosen]


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
