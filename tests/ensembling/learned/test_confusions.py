from __future__ import annotations

import numpy as np
import pytest
from sklearn.naive_bayes import CategoricalNB

from abhinaya.errors import BadValueError, UnknownNameError
from ensembling.aligned import align_predictions
from ensembling.learned.confusions import CONFUSIONS


def test_naive_bayes_equals_that_of_scikit_learn(make_corpus):
    tables, truth, _ = make_corpus(n_utts=120)
    aligned, nobody = align_predictions(tables), [None] * 120
    fitted = CONFUSIONS.fit(aligned, truth, nobody, {"smoothing": 0.5})
    oracle = CategoricalNB(alpha=0.5, class_prior=[0.25] * 4, min_categories=4)
    oracle.fit(aligned.labels.T, truth)
    found = CONFUSIONS.apply(fitted, aligned, nobody)
    np.testing.assert_allclose(found.probs, oracle.predict_proba(aligned.labels.T), rtol=1e-9)


def test_target_shares_multiply_the_posterior_and_abstentions_say_nothing(aligned_of):
    aligned = aligned_of([0, None, None, 0], [1, 1, None, 0])
    # Said by true class, smoothing 1, two classes: m0 class 0 [[2+1, 0+1], [0+1, 0+1]] ...
    counts = [[[2, 0], [0, 0]], [[1, 1], [0, 2]]]
    parameters = {"model": "naive-bayes", "smoothing": 1.0, "counts": counts}
    two = aligned_of([0, None, None, 0], [1, 1, None, 0], n_classes=2)
    found = CONFUSIONS.apply({**parameters, "target": [0.5, 0.5]}, two, [None] * 4)
    # Row 0: class 0 3/4 * 2/4, class 1 1/2 * 3/4: a tie, which the first member settles.
    np.testing.assert_allclose(found.probs[0], [0.5, 0.5])
    assert found.labels.tolist() == [0, 1, -1, 0]
    assert np.isnan(found.probs[2]).all()
    found = CONFUSIONS.apply({**parameters, "target": [0.2, 0.8]}, two, [None] * 4)
    np.testing.assert_allclose(found.probs[0], [0.2, 0.8])
    fitted = CONFUSIONS.fit(aligned, np.array([0, 1, 1, 0]), [None] * 4, {"target": [1, 1, 2]})
    assert fitted["target"] == [0.25, 0.25, 0.5]
    assert fitted["counts"] == [
        [[2, 0, 0], [0, 0, 0], [0, 0, 0]],
        [[1, 1, 0], [0, 1, 0], [0, 0, 0]],
    ]


def test_dawid_skene_learns_from_the_rows_it_is_applied_to(make_corpus):
    few, few_truth, _ = make_corpus(n_utts=16, seed=1)
    many, truth, _ = make_corpus(n_utts=2000, seed=2, strengths=(2.0, 1.0, 0.5))
    aligned, nobody = align_predictions(many), [None] * 2000
    correct = {}
    for model in ("naive-bayes", "dawid-skene"):
        fitted = CONFUSIONS.fit(align_predictions(few), few_truth, [None] * 16, {"model": model})
        correct[model] = (CONFUSIONS.apply(fitted, aligned, nobody).labels == truth).mean()
    # 16 labelled rows say little of twelve classes' confusions, 2,000 without labels more.
    assert correct["dawid-skene"] > correct["naive-bayes"] + 0.02


def test_confusions_wrong_options_raise(aligned_of):
    aligned, truth = aligned_of([0, 1]), np.array([0, 1])
    with pytest.raises(BadValueError, match=r"option smoothing of the rule 'confusions' is 0\.0"):
        CONFUSIONS.fit(aligned, truth, [None] * 2, {"smoothing": 0})
    with pytest.raises(UnknownNameError, match="'confusions' 'bayes'"):
        CONFUSIONS.fit(aligned, truth, [None] * 2, {"model": "bayes"})
    with pytest.raises(BadValueError, match=r"The option target is \[1\], expected 3 positive"):
        CONFUSIONS.fit(aligned, truth, [None] * 2, {"target": [1]})
