"""Stacking: a classifier that learns whom to believe when, from the members' probabilities.

Source: Wolpert, "Stacked generalization", 1992.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.errors import BadValueError
from ensembling.aligned import AlignedTables
from ensembling.learned import stacked_models
from ensembling.learned.recipes import Fused, LearnedRule, fuse, read_choice, read_options
from ensembling.voting.soft_votes import log_probs, require_probs

__all__ = ["STACKING", "stacking_features"]

_MODELS: dict[str, tuple[Callable[..., dict[str, Any]], Callable[..., NDArray[np.float64]]]] = {
    "logistic": (stacked_models.fit_logistic, stacked_models.logistic_probs),
    "forest": (stacked_models.fit_forest, stacked_models.forest_probs),
    "mlp": (stacked_models.fit_mlp, stacked_models.mlp_probs),
}
_DEFAULTS: dict[str, Any] = {
    "model": "logistic",
    "features": "log-probs",
    "balanced": True,
}
_MODEL_DEFAULTS: dict[str, dict[str, Any]] = {
    "logistic": {"c": 0.1},
    "forest": {"n_trees": 100, "max_depth": 10, "min_leaf": 5, "seed": 0},
    "mlp": {"hidden": 16, "alpha": 30.0, "n_steps": 100, "seed": 0},
}


def stacking_features(
    aligned: AlignedTables, label_only: Sequence[bool], *, kind: str = "log-probs"
) -> NDArray[np.float64]:
    """Put K numbers of each member side by side: what the classifier sees, shape (U, M * K).

    Args:
        aligned: what the members say.
        label_only: for each member whether its labels are used in place of probabilities: a label
            is a probability of one, and stays a 1 among zeros also as `log-probs`.
        kind: `probs`, or `log-probs`, from which each row's mean over the classes is taken off. A
            member that abstained says what carries no opinion: 1 / K, or zeros.

    Raises:
        BadValueError: if a member not named in `label_only` gives labels without probabilities.
    """
    require_probs(aligned.members(np.flatnonzero(~np.asarray(label_only))))
    n_classes = len(aligned.emotions)
    blocks = []
    for labels, probs, is_label_only in zip(aligned.labels, aligned.probs, label_only, strict=True):
        has_voted = labels >= 0
        if is_label_only:
            values = np.eye(n_classes)[labels]  # an abstention takes some row, replaced below
        else:
            has_voted &= ~np.isnan(probs).any(axis=1)
            values = log_probs(probs) if kind == "log-probs" else probs
        if kind == "log-probs":
            values = values - values.mean(axis=1, keepdims=True)
        nothing = 0.0 if kind == "log-probs" else 1 / n_classes
        blocks.append(np.where(has_voted[:, None], values, nothing))
    return np.concatenate(blocks, axis=1)


class _Stacking:
    """A classifier on the probabilities of all members, concatenated.

    Tables without any probabilities take part with their labels.

    Options:
        model: `logistic` (multinomial logistic regression), `forest` (random forest) or `mlp` (one
            hidden layer).
        features: `log-probs` or `probs`.
        balanced: whether all classes weigh alike, as macro-F1 wants it.
        c: inverse strength of the logistic regression's penalty.
        n_trees, max_depth, min_leaf, seed: of the forest.
        hidden, alpha, n_steps, seed: units, penalty, steps and first weights of the network.
    """

    name = "stacking"

    def fit(
        self,
        aligned: AlignedTables,
        truth: NDArray[np.int64],
        speakers: Sequence[str | None],
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        model = str(options.get("model", _DEFAULTS["model"]))
        read_choice(self.name, "model", model, list(_MODELS))
        settings = read_options(self.name, options, {**_DEFAULTS, **_MODEL_DEFAULTS[model]})
        kind = read_choice(self.name, "features", settings["features"], ("log-probs", "probs"))
        own = {key: settings[key] for key in _MODEL_DEFAULTS[model]}
        _require_positive({key: value for key, value in own.items() if key != "seed"})
        label_only = [
            bool(voted.any() and not given.any())
            for voted, given in zip(aligned.has_voted, aligned.has_probs, strict=True)
        ]
        features = stacking_features(aligned, label_only, kind=kind)
        # A row on which nobody said anything teaches the classifier only the prior.
        is_said = aligned.has_voted.any(axis=0)
        features, truth = features[is_said], truth[is_said]
        classes = np.unique(truth)
        if len(classes) < 2:
            raise BadValueError(
                f"Stacking needs labelled utterances of at least two classes, got {len(classes)} "
                "among those that a member answered. Label more data, or use fewer --folds."
            )
        fit_model, _ = _MODELS[model]
        return {
            "model": model,
            "features": kind,
            "label_only": label_only,
            "classes": classes.tolist(),
            **fit_model(features, truth, balanced=settings["balanced"], **own),
        }

    def apply(
        self, parameters: Mapping[str, Any], aligned: AlignedTables, speakers: Sequence[str | None]
    ) -> Fused:
        features = stacking_features(aligned, parameters["label_only"], kind=parameters["features"])
        probs = np.zeros((len(aligned), len(aligned.emotions)))
        if len(aligned):
            _, model_probs = _MODELS[parameters["model"]]
            probs[:, parameters["classes"]] = model_probs(parameters, features)
        return fuse(probs, aligned)


def _require_positive(numbers: Mapping[str, float]) -> None:
    for key, value in numbers.items():
        if value <= 0:
            raise BadValueError(
                f"The option {key} of the rule 'stacking' is {value}, expected a positive number."
            )


STACKING: LearnedRule = _Stacking()
"""A classifier on the members' probabilities; see `ensembling.learned.recipes.LearnedRule`."""
