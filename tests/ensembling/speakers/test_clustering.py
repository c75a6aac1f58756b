from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
from sklearn.cluster import KMeans

from ensembling.speakers.clustering import cluster_points


@pytest.mark.parametrize("width", [1, 2, 8, 16, 300])
@pytest.mark.parametrize("n_steps", [0, 2])
def test_k_means_equals_scikit_learn(width, n_steps):
    rng = np.random.default_rng(width)
    for seed in range(10):
        points = rng.normal(size=(int(rng.integers(10, 120)), width))
        if n_steps:
            # Points on a grid, as shares of a vote are, have equal distances everywhere.
            points = (points * n_steps).round() / n_steps
        for n_clusters in (2, 5, 8):
            ours = cluster_points(points, n_clusters, seed=seed)
            if n_clusters >= len(np.unique(points, axis=0)):
                continue
            theirs = KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(points)
            numbered = {old: new for new, old in enumerate(dict.fromkeys(theirs.tolist()))}
            assert ours.tolist() == [numbered[old] for old in theirs.tolist()]


def test_k_means_is_that_of_the_class_where_its_parts_have_other_names(monkeypatch):
    points = np.random.default_rng(1).normal(size=(30, 3))
    quick = cluster_points(points, 4)
    monkeypatch.setitem(sys.modules, "sklearn.cluster._kmeans", ModuleType("other"))
    assert cluster_points(points, 4).tolist() == quick.tolist()
