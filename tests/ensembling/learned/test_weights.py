from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from abhinaya.errors import UnknownNameError
from ensembling.aligned import align_predictions
from ensembling.learned.weights import WEIGHTS

NOBODY_KNOWN = [None] * 4


def test_weights_are_the_f1_of_each_class_where_the_member_spoke(aligned_of):
    # Truth 0 0 1 1. m0 says 0 0 0 1: class 0 has 2 * 2 / (2 + 3) = .8, class 1 2 * 1 / (2 + 1),
    # class 2 none. m1 says - 1 1 -: of the truths 0 and 1, F1 of 0 is 0, of 1 is 2 / (1 + 2).
    aligned = aligned_of([0, 0, 0, 1], [None, 1, 1, None])
    truth = np.array([0, 0, 1, 1])
    fitted = WEIGHTS.fit(aligned, truth, NOBODY_KNOWN, {})
    np.testing.assert_allclose(fitted["weights"], [[0.8, 2 / 3, 0], [0, 2 / 3, 0]], rtol=1e-12)
    # The macro-F1 over all three classes, for each class alike.
    per_member = WEIGHTS.fit(aligned, truth, NOBODY_KNOWN, {"per": "member"})["weights"]
    np.testing.assert_allclose(per_member, [[22 / 45] * 3, [2 / 9] * 3], rtol=1e-12)


def test_weights_agree_with_scikit_learn(make_corpus):
    tables, truth, speakers = make_corpus()
    fitted = WEIGHTS.fit(align_predictions(tables), truth, speakers, {})
    for ours, table in zip(fitted["weights"], tables, strict=True):
        theirs = f1_score(truth, table.labels, average=None)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_weights_let_the_expert_of_a_class_overrule_two_others(aligned_of):
    aligned = aligned_of([2, None], [1, None], [1, None])
    weights = [[0.1, 0.1, 0.9], [0.9, 0.4, 0.1], [0.9, 0.4, 0.1]]
    fused = WEIGHTS.apply({"weights": weights}, aligned, [None] * 2)
    # class 2: .9; class 1: .4 + .4
    assert fused.labels.tolist() == [2, -1]
    np.testing.assert_allclose(fused.probs[0], [0, 0.8 / 1.7, 0.9 / 1.7], rtol=1e-12)


def test_weights_of_a_member_that_never_spoke_are_zero(aligned_of):
    aligned = aligned_of([0, 1], [None, None])
    fitted = WEIGHTS.fit(aligned, np.array([0, 1]), [None] * 2, {})
    assert fitted["weights"] == [[1, 1, 0], [0, 0, 0]]
    assert WEIGHTS.apply(fitted, aligned, [None] * 2).labels.tolist() == [0, 1]


def test_weights_unknown_option_or_value_raises(aligned_of):
    aligned, truth = aligned_of([0, 1]), np.array([0, 1])
    with pytest.raises(UnknownNameError, match="option of the rule 'weights' 'by'"):
        WEIGHTS.fit(aligned, truth, [None] * 2, {"by": "class"})
    with pytest.raises(UnknownNameError, match="option per of the rule 'weights' 'klass'"):
        WEIGHTS.fit(aligned, truth, [None] * 2, {"per": "klass"})
