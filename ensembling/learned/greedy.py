"""Forward selection with replacement: members are added one by one while the mean improves.

Source: Caruana, Niculescu-Mizil, Crew and Ksikes, "Ensemble Selection from Libraries of Models",
ICML 2004: replacement (section 2.1), the best single one first (2.2), bagged selection (2.3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.errors import BadValueError
from abhinaya.evaluation.metrics import scores
from ensembling.aligned import AlignedTables
from ensembling.learned.opinions import WeighedOpinions, member_opinions
from ensembling.learned.recipes import LearnedRule, fuse, read_options

__all__ = ["GREEDY", "select_members"]

_IMPROVEMENT = 1e-12
_DEFAULTS = {"steps": 30, "bags": 1, "share": 0.5, "seed": 0}


def select_members(
    aligned: AlignedTables, truth: NDArray[np.int64], candidates: Sequence[int], n_steps: int
) -> NDArray[np.int64]:
    """Count how often each member is added, shape (M,).

    In each step the candidate is added, possibly again, with which the mean's macro-F1 is highest,
    of several the first. In the end the selection is cut back to where the score was highest.

    Args:
        aligned: what M members say about U utterances.
        truth: true class indices, shape (U,).
        candidates: members that may be added, at least one.
        n_steps: how many are added.
    """
    opinions, n_classes = member_opinions(aligned), len(aligned.emotions)
    total = np.zeros((len(aligned), n_classes))
    added: list[int] = []
    best, n_best = -math.inf, 0
    for _ in range(n_steps):
        values = []
        for member in candidates:
            fused = fuse(total + opinions[member], aligned)
            values.append(scores(truth, fused.labels, n_classes).macro_f1)
        chosen = candidates[int(np.argmax(values))]
        added.append(chosen)
        total += opinions[chosen]
        if max(values) > best + _IMPROVEMENT:
            best, n_best = max(values), len(added)
    return np.bincount(added[:n_best], minlength=len(aligned.names))


class _Greedy(WeighedOpinions):
    """The mean of the members that forward selection chose, each as often as it was chosen.

    Members without probabilities take part with their labels.

    Options:
        steps: members added in one selection.
        bags: number of selections, whose counts are added up. More than one is for dozens of
            members, where a single selection follows the accidents of few rows; of five members
            each bag leaves out too many.
        share: part of the members that one of several bags may choose from.
        seed: of the parts.
    """

    name = "greedy"

    def fit(
        self,
        aligned: AlignedTables,
        truth: NDArray[np.int64],
        speakers: Sequence[str | None],
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        settings = read_options(self.name, options, _DEFAULTS)
        n_steps, n_bags, share = settings["steps"], settings["bags"], settings["share"]
        if n_steps < 1 or n_bags < 1 or not 0 < share <= 1 or settings["seed"] < 0:
            raise BadValueError(
                f"The rule 'greedy' was given steps={n_steps}, bags={n_bags}, share={share}, "
                f"seed={settings['seed']}, expected at least one step and one bag, a share above 0 "
                "and up to 1, and a seed that is not negative."
            )
        n_members = len(aligned.names)
        rng = np.random.default_rng(settings["seed"])
        n_candidates = n_members if n_bags == 1 else math.ceil(share * n_members)
        counts = np.zeros(n_members, dtype=np.int64)
        for _ in range(n_bags):
            candidates = np.sort(rng.permutation(n_members)[:n_candidates]).tolist()
            counts += select_members(aligned, truth, candidates, n_steps)
        return {"weights": (counts / counts.sum()).tolist()}


GREEDY: LearnedRule = _Greedy()
"""Ensemble selection; see `ensembling.learned.recipes.LearnedRule`."""
