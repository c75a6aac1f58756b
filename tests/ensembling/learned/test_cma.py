from __future__ import annotations

import sys

import numpy as np
import pytest

from abhinaya.errors import BadValueError, MissingPackageError, UnknownNameError
from abhinaya.evaluation.metrics import scores
from ensembling.aligned import align_predictions
from ensembling.learned.cma import CMA
from ensembling.voting.soft_votes import soft_vote


def test_weights_raise_macro_f1_over_the_plain_mean_where_members_differ(make_corpus):
    tables, truth, speakers = make_corpus(n_utts=400, strengths=(2.5, 0.3, 0.2, 0.1))
    aligned = align_predictions(tables)
    fitted = CMA.fit(aligned, truth, speakers, {})
    found = scores(truth, CMA.apply(fitted, aligned, speakers).labels, 4).macro_f1
    plain = scores(truth, soft_vote(aligned).labels, 4).macro_f1
    assert found > plain + 0.05
    weights = np.array(fitted["weights"])
    assert weights.shape == (4, 1)
    assert weights.argmax() == 0
    assert CMA.fit(aligned, truth, speakers, {}) == fitted
    per_class = CMA.fit(aligned, truth, speakers, {"per": "class", "generations": 5})
    assert np.array(per_class["weights"]).shape == (4, 4)


def test_a_heavy_penalty_leaves_the_plain_mean(make_corpus):
    tables, truth, speakers = make_corpus()
    aligned = align_predictions(tables)
    fitted = CMA.fit(aligned, truth, speakers, {"penalty": 1e6})
    assert fitted["weights"] == [[1.0]] * 3
    labels = CMA.apply(fitted, aligned, speakers).labels
    np.testing.assert_array_equal(labels, soft_vote(aligned).labels)


def test_one_member_needs_no_search(aligned_of):
    aligned = aligned_of([0, 1])
    assert CMA.fit(aligned, np.array([0, 1]), [None] * 2, {})["weights"] == [[1.0]]


def test_cma_wrong_options_or_missing_package_raise(aligned_of, monkeypatch):
    aligned, truth, nobody = aligned_of([0, 1], [1, 1]), np.array([0, 1]), [None] * 2
    with pytest.raises(BadValueError, match=r"generations=0, penalty=0.01, seed=0, expected at"):
        CMA.fit(aligned, truth, nobody, {"generations": 0})
    with pytest.raises(UnknownNameError, match="option per of the rule 'cma' 'table'"):
        CMA.fit(aligned, truth, nobody, {"per": "table"})
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(MissingPackageError, match=r"abhinaya\[search\]"):
        CMA.fit(aligned, truth, nobody, {})
