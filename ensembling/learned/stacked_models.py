"""Classifiers of scikit-learn as plain numbers: fitted there, stored as JSON, evaluated in numpy.

A recipe can so be read, checked and used anywhere, also with another version of scikit-learn; a
pickle promises none of this, and `skops` writes other bytes each time and cannot vouch for the
nodes of a forest, which scikit-learn follows without checking their bounds.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembling.voting.soft_votes import softmax

__all__ = [
    "fit_forest",
    "fit_logistic",
    "fit_mlp",
    "forest_probs",
    "logistic_probs",
    "mlp_probs",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Parameters = dict[str, Any]

_NO_CHILD = -1


def fit_logistic(features: FloatArray, truth: IntArray, *, c: float, balanced: bool) -> Parameters:
    """Fit a multinomial logistic regression.

    Args:
        features: shape (U, D).
        truth: true class indices, shape (U,), at least two different ones.
        c: inverse strength of the L2 penalty.
        balanced: whether all classes weigh alike.

    Returns:
        `weight`, C lists of D numbers, and `bias`, C numbers, for the C classes that occur.
    """
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        C=c, class_weight="balanced" if balanced else None, max_iter=2000
    ).fit(features, truth)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # two classes: the log-odds of the second one alone
        weight = np.concatenate([np.zeros_like(weight), weight])
        bias = np.concatenate([np.zeros_like(bias), bias])
    return {"weight": weight.tolist(), "bias": bias.tolist()}


def logistic_probs(parameters: Mapping[str, Any], features: FloatArray) -> FloatArray:
    """Return probabilities of the C classes, shape (U, C)."""
    return softmax(features @ np.array(parameters["weight"]).T + np.array(parameters["bias"]))


def fit_mlp(
    features: FloatArray,
    truth: IntArray,
    *,
    hidden: int,
    alpha: float,
    n_steps: int,
    balanced: bool,
    seed: int,
) -> Parameters:
    """Fit a network with one hidden layer of rectified units.

    Args:
        features: shape (U, D).
        truth: true class indices, shape (U,), at least two different ones.
        hidden: number of hidden units.
        alpha: strength of the L2 penalty.
        n_steps: steps of L-BFGS at most, each over all rows.
        balanced: whether the rows of a class are repeated until it has about as many as the
            largest.
        seed: of the first weights.

    Returns:
        `weights` and `biases`, one entry per layer; the last layer has C outputs for the C classes
        that occur.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    if balanced:
        counts = np.bincount(truth)
        repeats = np.rint(counts.max() / np.maximum(counts, 1)).astype(np.int64)
        rows = np.repeat(np.arange(len(truth)), repeats[truth])
        features, truth = features[rows], truth[rows]
    # Tens of features and thousands of rows: a second-order method needs no learning rate.
    model = MLPClassifier(
        (hidden,), solver="lbfgs", alpha=alpha, max_iter=n_steps, random_state=seed
    )
    with warnings.catch_warnings():
        # The number of steps is a setting, not a limit that must not be reached.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, truth)
    weights, biases = list(model.coefs_), list(model.intercepts_)
    if weights[-1].shape[1] == 1:  # two classes: the log-odds of the second one alone
        weights[-1] = np.concatenate([np.zeros_like(weights[-1]), weights[-1]], axis=1)
        biases[-1] = np.concatenate([np.zeros(1), biases[-1]])
    return {"weights": [w.tolist() for w in weights], "biases": [b.tolist() for b in biases]}


def mlp_probs(parameters: Mapping[str, Any], features: FloatArray) -> FloatArray:
    """Return probabilities of the C classes, shape (U, C)."""
    *hidden_layers, last = zip(parameters["weights"], parameters["biases"], strict=True)
    values = features
    for weight, bias in hidden_layers:
        values = np.maximum(values @ np.array(weight) + np.array(bias), 0.0)
    return softmax(values @ np.array(last[0]) + np.array(last[1]))


def fit_forest(
    features: FloatArray,
    truth: IntArray,
    *,
    n_trees: int,
    max_depth: int,
    min_leaf: int,
    balanced: bool,
    seed: int,
) -> Parameters:
    """Fit a random forest.

    Args:
        features: shape (U, D).
        truth: true class indices, shape (U,).
        n_trees: number of trees.
        max_depth: questions asked at most; keeps a recipe at some MB.
        min_leaf: rows in a leaf at least.
        balanced: whether all classes weigh alike.
        seed: of the draws of rows and features.

    Returns:
        `trees`, each with `feature` and `threshold` of every node's question, `left` and `right`
        (node to go to if the feature is at most the threshold, or is above; -1 in a leaf), and
        `probs`, C numbers for each leaf in the order of nodes.
    """
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(
        n_trees,
        max_depth=max_depth,
        min_samples_leaf=min_leaf,
        class_weight="balanced" if balanced else None,
        random_state=seed,
        n_jobs=-1,  # each tree has a seed of its own, so the number of cores changes nothing
    ).fit(features, truth)
    trees = []
    for estimator in forest.estimators_:
        tree = estimator.tree_
        is_leaf = tree.children_left == _NO_CHILD
        # Older versions hold weighted counts here, newer ones shares.
        values = tree.value[is_leaf, 0, :]
        trees.append(
            {
                "feature": np.where(is_leaf, 0, tree.feature).tolist(),
                "threshold": np.where(is_leaf, 0.0, tree.threshold).tolist(),
                "left": tree.children_left.tolist(),
                "right": tree.children_right.tolist(),
                "probs": (values / values.sum(axis=1, keepdims=True)).tolist(),
            }
        )
    return {"trees": trees}


def forest_probs(parameters: Mapping[str, Any], features: FloatArray) -> FloatArray:
    """Return probabilities of the C classes, shape (U, C): the mean over the trees' leaves."""
    # scikit-learn compares features in single precision with thresholds in double.
    single = features.astype(np.float32)
    rows = np.arange(len(features))
    per_tree = []
    for tree in parameters["trees"]:
        question, threshold, left, right = (
            np.array(tree[key]) for key in ("feature", "threshold", "left", "right")
        )
        is_leaf = left == _NO_CHILD
        leaf_idx = is_leaf.cumsum() - 1
        node = np.zeros(len(features), dtype=np.int64)
        while not is_leaf[node].all():
            goes_left = single[rows, question[node]] <= threshold[node]
            onward = np.where(goes_left, left[node], right[node])
            node = np.where(is_leaf[node], node, onward)
        per_tree.append(np.array(tree["probs"])[leaf_idx[node]])
    return np.asarray(np.mean(per_tree, axis=0))
