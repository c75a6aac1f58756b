from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from abhinaya.errors import BadValueError, UnknownNameError
from abhinaya.evaluation.metrics import scores
from ensembling.aligned import align_predictions
from ensembling.learned.stacked_models import fit_forest, forest_probs
from ensembling.learned.stacking import STACKING, stacking_features
from ensembling.voting.soft_votes import soft_vote

MODELS = ("logistic", "forest", "mlp")
QUICK = {"forest": {"n_trees": 10}, "mlp": {"n_steps": 30}, "logistic": {}}


def test_features_are_centred_log_probabilities_side_by_side(aligned_of):
    # log2 of 1/2, 1/4, 1/4 is -1, -2, -2 with mean -5/3; an abstention says nothing.
    aligned = aligned_of([[0.5, 0.25, 0.25], None], [[1 / 3] * 3, [0.25, 0.5, 0.25]])
    ln2 = np.log(2)
    expected = [
        [2 / 3 * ln2, -ln2 / 3, -ln2 / 3, 0, 0, 0],
        [0, 0, 0, -ln2 / 3, 2 / 3 * ln2, -ln2 / 3],
    ]
    np.testing.assert_allclose(stacking_features(aligned, [False, False]), expected, atol=1e-12)
    plain = stacking_features(aligned, [False, False], kind="probs")
    third = [1 / 3] * 3
    np.testing.assert_allclose(plain, [[0.5, 0.25, 0.25, *third], [*third, 0.25, 0.5, 0.25]])


def test_features_of_a_table_of_labels_are_its_labels(aligned_of):
    aligned = aligned_of([2, None])
    third = 1 / 3
    np.testing.assert_allclose(
        stacking_features(aligned, [True]), [[-third, -third, 2 * third], [0, 0, 0]], atol=1e-12
    )
    np.testing.assert_allclose(
        stacking_features(aligned, [True], kind="probs"), [[0, 0, 1], [third] * 3]
    )


def theirs(model, features, truth, seed):
    if model == "logistic":
        fitted = LogisticRegression(C=0.5, class_weight="balanced", max_iter=2000)
    elif model == "forest":
        fitted = RandomForestClassifier(
            10, max_depth=10, min_samples_leaf=5, class_weight="balanced", random_state=seed
        )
    else:
        # Classes of the corpus have the same number of rows, so balancing repeats none.
        fitted = MLPClassifier((16,), solver="lbfgs", alpha=30.0, max_iter=30, random_state=seed)
    return fitted.fit(features, truth)


@pytest.mark.filterwarnings("ignore:lbfgs failed")
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("features", ["log-probs", "probs"])
@pytest.mark.parametrize("model", MODELS)
def test_probabilities_are_those_of_scikit_learn_after_json(
    make_corpus, model, features, n_classes
):
    tables, truth, speakers = make_corpus(n_utts=200, n_classes=n_classes, n_abstained=10)
    fresh, _, _ = make_corpus(n_utts=50, n_classes=n_classes, seed=1)
    aligned, other = align_predictions(tables), align_predictions(fresh)
    options = {"model": model, "features": features, **QUICK[model]}
    options |= {"c": 0.5} if model == "logistic" else {"seed": 7}
    fitted = json.loads(json.dumps(STACKING.fit(aligned, truth, speakers, options)))

    ours = STACKING.apply(fitted, other, [None] * 50)

    answered = aligned.has_voted.any(axis=0)
    label_only = [False] * 3
    x = stacking_features(aligned, label_only, kind=features)[answered]
    reference = theirs(model, x, truth[answered], 7)
    expected = reference.predict_proba(stacking_features(other, label_only, kind=features))
    np.testing.assert_allclose(ours.probs, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(ours.labels, expected.argmax(axis=1))


def test_forest_compares_in_single_precision_like_scikit_learn():
    # Whole numbers give thresholds at halves; a hair above is a half in single precision.
    rng = np.random.default_rng(0)
    features = rng.integers(0, 6, size=(200, 3)).astype(float)
    truth = (features.sum(axis=1) > 7).astype(int)
    ours = fit_forest(features, truth, n_trees=5, max_depth=4, min_leaf=2, balanced=False, seed=3)
    reference = RandomForestClassifier(5, max_depth=4, min_samples_leaf=2, random_state=3).fit(
        features, truth
    )
    for shift in (-0.5, 0.0, 0.5, 0.5 + 1e-12):
        np.testing.assert_allclose(
            forest_probs(ours, features + shift),
            reference.predict_proba(features + shift),
            rtol=1e-12,
        )


@pytest.mark.parametrize("model", MODELS)
def test_stacking_learns_which_member_to_believe(make_corpus, model):
    # A member that is right, and two that know nothing.
    options = {"n_utts": 400, "strengths": (3.0, 0.0, 0.0)}
    tables, truth, speakers = make_corpus(**options)
    fresh, fresh_truth, _ = make_corpus(**options, seed=1)
    fitted = STACKING.fit(
        align_predictions(tables), truth, speakers, {"model": model, **QUICK[model]}
    )
    other = align_predictions(fresh)
    learned = STACKING.apply(fitted, other, [None] * 400).labels
    plain = soft_vote(other).labels
    gain = scores(fresh_truth, learned, 4).macro_f1 - scores(fresh_truth, plain, 4).macro_f1
    assert gain > 0.1


@pytest.mark.parametrize("model", MODELS)
def test_stacking_balanced_finds_the_rare_class(make_corpus, model):
    tables, truth, _ = make_corpus(n_utts=400, n_classes=2, strengths=(1.0,))
    # Of class 1 a tenth stays.
    keep = np.flatnonzero((truth == 0) | (np.arange(400) < 40))
    aligned, truth = align_predictions(tables).take(keep), truth[keep]
    found = {}
    for balanced in (True, False):
        options = {"model": model, "balanced": balanced, **QUICK[model]}
        fitted = STACKING.fit(aligned, truth, [None] * len(truth), options)
        found[balanced] = (STACKING.apply(fitted, aligned, [None] * len(truth)).labels == 1).sum()
    assert found[True] > 2 * found[False]


@pytest.mark.parametrize("model", MODELS)
def test_stacking_class_without_rows_gets_no_probability(make_corpus, model):
    tables, truth, speakers = make_corpus()
    aligned = align_predictions(tables)
    keep = np.flatnonzero(truth != 2)
    fitted = STACKING.fit(
        aligned.take(keep), truth[keep], [None] * len(keep), {"model": model, **QUICK[model]}
    )
    fused = STACKING.apply(fitted, aligned, speakers)
    assert (fused.probs[:, 2] == 0).all()
    np.testing.assert_allclose(fused.probs.sum(axis=1), 1, rtol=1e-9)


def test_stacking_takes_tables_of_labels_and_abstentions(make_corpus):
    tables, truth, speakers = make_corpus(
        n_utts=200, strengths=(2.0, 2.0), label_only=("m1",), n_abstained=40
    )
    aligned = align_predictions(tables)
    fitted = STACKING.fit(aligned, truth, speakers, {})
    assert fitted["label_only"] == [False, True]
    fused = STACKING.apply(fitted, aligned, speakers)
    nobody = ~aligned.has_voted.any(axis=0)
    assert nobody.sum() >= 3
    np.testing.assert_array_equal(fused.labels == -1, nobody)
    np.testing.assert_array_equal(np.isnan(fused.probs[:, 0]), nobody)
    # A member fitted on probabilities must bring them; one fitted on labels need not.
    with pytest.raises(BadValueError, match="only labels from 'm1'"):
        STACKING.apply({**fitted, "label_only": [False, False]}, aligned, speakers)


def test_stacking_of_no_rows_is_empty(make_corpus):
    tables, truth, speakers = make_corpus()
    aligned = align_predictions(tables)
    for model in MODELS:
        fitted = STACKING.fit(aligned, truth, speakers, {"model": model, **QUICK[model]})
        assert STACKING.apply(fitted, aligned.take([]), []).probs.shape == (0, 4)


def test_stacking_seed_decides_what_is_random(make_corpus):
    tables, truth, speakers = make_corpus()
    aligned = align_predictions(tables)
    for model in ("forest", "mlp"):
        fits = [
            STACKING.fit(aligned, truth, speakers, {"model": model, "seed": seed, **QUICK[model]})
            for seed in (1, 1, 2)
        ]
        assert fits[0] == fits[1]
        assert fits[0] != fits[2]


def test_stacking_wrong_options_and_data_raise(make_corpus, aligned_of):
    tables, truth, speakers = make_corpus()
    aligned = align_predictions(tables)
    for options, error, message in (
        ({"model": "forrest"}, UnknownNameError, r"'forrest'. Did you mean 'forest'\?"),
        ({"model": "logistic", "n_trees": 3}, UnknownNameError, "'stacking' 'n_trees'"),
        ({"features": "logits"}, UnknownNameError, "option features of .* 'logits'"),
        ({"c": 0}, BadValueError, "option c of the rule 'stacking' is 0.0, expected a positive"),
    ):
        with pytest.raises(error, match=message):
            STACKING.fit(aligned, truth, speakers, options)
    with pytest.raises(BadValueError, match="at least two classes, got 1"):
        STACKING.fit(aligned, np.zeros(60, dtype=int), speakers, {})
    with pytest.raises(BadValueError, match="at least two classes, got 0"):
        STACKING.fit(aligned_of([None, None]), np.array([0, 1]), [None] * 2, {})
    mixed = aligned_of([[1.0, 0, 0], 1])
    with pytest.raises(BadValueError, match="only labels from 'm0' on 1 of 2"):
        STACKING.fit(mixed, np.array([0, 1]), [None] * 2, {})
