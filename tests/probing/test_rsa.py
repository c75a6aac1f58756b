"""Planted geometries: shared, shared in part, and none; against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cosine
from scipy.stats import spearmanr

from abhinaya.errors import BadValueError
from abhinaya.probing.rsa import compare_geometry

N_CLASSES = 5


def group(centroids, seed: int, noise: float = 0.3):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(200) % N_CLASSES)
    return centroids[labels] + noise * rng.standard_normal((200, centroids.shape[1])), labels


def centroids_of(seed: int):
    return np.random.default_rng(seed).standard_normal((N_CLASSES, 8))


def test_a_shared_geometry_is_found_and_chance_is_not():
    shared = centroids_of(0)
    groups = {name: group(shared, seed) for seed, name in enumerate(("de", "en", "zh"))}
    found = compare_geometry(groups, N_CLASSES, n_shuffles=300)
    assert found.mean > 0.9
    assert found.p == pytest.approx(1 / 301)
    assert abs(found.shuffled) < 0.1
    assert set(found.correlations) == {("de", "en"), ("de", "zh"), ("en", "zh")}


def test_unrelated_geometries_are_not_significant():
    groups = {name: group(centroids_of(s + 7), s) for s, name in enumerate(("de", "en", "zh"))}
    found = compare_geometry(groups, N_CLASSES, n_shuffles=300)
    assert abs(found.mean) < 0.5
    assert found.p > 0.05


def test_distances_and_correlation_are_scipys():
    groups = {"a": group(centroids_of(1), 1), "b": group(centroids_of(2), 2)}
    found = compare_geometry(groups, N_CLASSES, n_shuffles=1)
    triangles = []
    for name, (vectors, labels) in groups.items():
        means = [vectors[labels == k].mean(0) for k in range(N_CLASSES)]
        pairs = [(i, j) for i in range(N_CLASSES) for j in range(i + 1, N_CLASSES)]
        triangles.append([cosine(means[i], means[j]) for i, j in pairs])
        ours = [found.distances[name][i, j] for i, j in pairs]
        np.testing.assert_allclose(ours, triangles[-1], rtol=1e-10)
    theirs = spearmanr(*triangles).statistic
    assert found.correlations["a", "b"] == pytest.approx(theirs)
    assert found.mean == pytest.approx(theirs)


def test_one_group_or_two_classes_are_refused():
    with pytest.raises(BadValueError, match="got 1 and 5"):
        compare_geometry({"a": group(centroids_of(0), 0)}, N_CLASSES)
    rows = (np.eye(2), np.array([0, 1]))
    with pytest.raises(BadValueError, match="got 2 and 2"):
        compare_geometry({"a": rows, "b": rows}, 2)
