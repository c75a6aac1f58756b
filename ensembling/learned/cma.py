"""Weights found by an evolution strategy that looks at macro-F1 itself.

Source: Hansen and Ostermeier, "Completely Derandomized Self-Adaptation in Evolution Strategies",
Evolutionary Computation 9, 2001, as the package cmaes implements it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.errors import BadValueError, MissingPackageError
from abhinaya.evaluation.metrics import scores
from ensembling.aligned import AlignedTables
from ensembling.learned.opinions import WeighedOpinions, member_opinions, weigh_opinions
from ensembling.learned.recipes import LearnedRule, fuse, read_choice, read_options

__all__ = ["CMA"]

_SPREAD = 0.3
"""Of the first generation: weights mostly within a third of one another."""

_DEFAULTS = {"per": "member", "generations": 60, "penalty": 0.01, "seed": 0}


class _Cma(WeighedOpinions):
    """The weighted mean of the members, weights chosen for the highest macro-F1.

    What is maximised is macro-F1 less a penalty on the mean square of the logarithms of the
    weights, so that a weight departs from one only for what the rows bear out. Members without
    probabilities take part with their labels.

    Options:
        per: `member` for one weight each, `class` for one for each member and class.
        generations: of the search.
        penalty: its strength.
        seed: of the search.
    """

    name = "cma"

    def fit(
        self,
        aligned: AlignedTables,
        truth: NDArray[np.int64],
        speakers: Sequence[str | None],
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        settings = read_options(self.name, options, _DEFAULTS)
        per = read_choice(self.name, "per", settings["per"], ("member", "class"))
        generations, penalty, seed = (settings[k] for k in ("generations", "penalty", "seed"))
        if generations < 1 or penalty < 0 or seed < 0:
            raise BadValueError(
                f"The rule 'cma' was given generations={generations}, penalty={penalty}, "
                f"seed={seed}, expected at least one generation, and a penalty and a seed that are "
                "not negative."
            )
        try:
            import cmaes
        except ImportError as err:
            raise MissingPackageError("cmaes", "the rule 'cma'", "search") from err
        n_classes = len(aligned.emotions)
        weights = np.ones((len(aligned.names), n_classes if per == "class" else 1))
        spoke = aligned.has_voted.any(axis=1)
        opinions, shape = member_opinions(aligned)[spoke], weights[spoke].shape

        def loss(log_weights: NDArray[np.float64]) -> float:
            said = weigh_opinions(opinions, np.exp(log_weights).reshape(shape))
            value = scores(truth, fuse(said, aligned).labels, n_classes).macro_f1
            return float(penalty * np.square(log_weights).mean() - value)

        best = np.zeros(shape[0] * shape[1])
        least = loss(best)
        if len(best) > 1:  # one weight alone decides nothing
            search = cmaes.CMA(mean=best, sigma=_SPREAD, seed=seed)
            for _ in range(generations):
                tried = [search.ask() for _ in range(search.population_size)]
                found = [(one, loss(one)) for one in tried]
                search.tell(found)
                one, value = min(found, key=lambda pair: pair[1])
                if value < least:
                    best, least = one, value
        weights[spoke] = np.exp(best).reshape(shape)
        return {"weights": weights.tolist()}


CMA: LearnedRule = _Cma()
"""Weights by CMA-ES; see `ensembling.learned.recipes.LearnedRule`."""
