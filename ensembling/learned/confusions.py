"""Labels alone, read through what each member is known to confuse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.errors import BadValueError
from ensembling.aligned import AlignedTables
from ensembling.learned.log_odds import class_shares
from ensembling.learned.recipes import Fused, LearnedRule, fuse, read_choice, read_options
from ensembling.voting.dawid_skene import dawid_skene, log_likelihoods, smoothed
from ensembling.voting.soft_votes import softmax

__all__ = ["CONFUSIONS"]

_DEFAULTS: dict[str, Any] = {"model": "naive-bayes", "smoothing": 1.0, "target": []}


class _Confusions:
    """Bayes' rule on the members' labels, with the confusions that they showed on labelled data.

    Probabilities are not looked at, so that every table takes part alike.

    Options:
        model: `naive-bayes` multiplies the likelihoods of what the members said; `dawid-skene`
            first estimates the confusions anew on the rows that the recipe is applied to, together
            with those from the labelled data. What a row gets then depends on the rows beside it.
        smoothing: added to every count of a confusion.
        target: class shares where the result will be used, in class order. Default: all alike.
    """

    name = "confusions"

    def fit(
        self,
        aligned: AlignedTables,
        truth: NDArray[np.int64],
        speakers: Sequence[str | None],
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        settings = read_options(self.name, options, _DEFAULTS)
        model = read_choice(self.name, "model", settings["model"], ("naive-bayes", "dawid-skene"))
        if settings["smoothing"] <= 0:
            raise BadValueError(
                f"The option smoothing of the rule 'confusions' is {settings['smoothing']}, "
                "expected a positive number."
            )
        n_classes = len(aligned.emotions)
        target = np.full(n_classes, 1 / n_classes)
        if settings["target"]:
            target = class_shares(settings["target"], aligned, "The option target")
        counts = np.zeros((len(aligned.names), n_classes, n_classes))
        for member, labels in enumerate(aligned.labels):
            has_voted = labels >= 0
            np.add.at(counts[member], (truth[has_voted], labels[has_voted]), 1)
        return {
            "model": model,
            "smoothing": settings["smoothing"],
            "counts": counts.tolist(),
            "target": target.tolist(),
        }

    def apply(
        self, parameters: Mapping[str, Any], aligned: AlignedTables, speakers: Sequence[str | None]
    ) -> Fused:
        counts, smoothing = np.array(parameters["counts"]), parameters["smoothing"]
        if parameters["model"] == "dawid-skene":
            confusions = dawid_skene(
                aligned.labels, len(aligned.emotions), known=counts, smoothing=smoothing
            ).confusions
        else:
            confusions = smoothed(counts, smoothing)
        log_posterior = log_likelihoods(aligned.labels, confusions) + np.log(parameters["target"])
        return fuse(softmax(log_posterior), aligned)


CONFUSIONS: LearnedRule = _Confusions()
"""Naive Bayes on labels; see `ensembling.learned.recipes.LearnedRule`."""
