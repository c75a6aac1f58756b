"""Ballots weighed by how good each member was on labelled data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.evaluation.metrics import scores
from ensembling.aligned import AlignedTables
from ensembling.learned.recipes import Fused, LearnedRule, fuse, read_choice, read_options
from ensembling.voting.soft_votes import weighted_vote

__all__ = ["WEIGHTS"]


class _Weights:
    """A ballot counts as much as the F1 of its member for the class that it names.

    Each member's F1 is taken over the utterances on which it did not abstain. Works on labels, so
    also for tables without probabilities. Where members share their errors it gains nothing on a
    vote with a good tiebreaker, or loses; the rules on probabilities gain.

    Options:
        per: `class` weighs a ballot by its member's F1 of that class, `member` by its macro-F1.
    """

    name = "weights"

    def fit(
        self,
        aligned: AlignedTables,
        truth: NDArray[np.int64],
        speakers: Sequence[str | None],
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        settings = read_options(self.name, options, {"per": "class"})
        per = read_choice(self.name, "per", settings["per"], ("class", "member"))
        n_classes = len(aligned.emotions)
        weights = np.zeros((len(aligned.names), n_classes))
        for member, (labels, has_voted) in enumerate(
            zip(aligned.labels, aligned.has_voted, strict=True)
        ):
            if has_voted.any():
                result = scores(truth[has_voted], labels[has_voted], n_classes)
                weights[member] = result.f1 if per == "class" else result.macro_f1
        return {"weights": weights.tolist()}

    def apply(
        self, parameters: Mapping[str, Any], aligned: AlignedTables, speakers: Sequence[str | None]
    ) -> Fused:
        weights = np.array(parameters["weights"])
        return fuse(weighted_vote(aligned.labels, weights, len(aligned.emotions)).shares, aligned)


WEIGHTS: LearnedRule = _Weights()
"""Votes weighed by F1 on labelled data; see `ensembling.learned.recipes.LearnedRule`."""
