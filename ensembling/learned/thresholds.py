"""Offsets per class that raise macro-F1: rare classes win with less probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.evaluation.metrics import scores
from ensembling.aligned import AlignedTables
from ensembling.learned.recipes import Fused, LearnedRule, fuse, read_choice, read_options
from ensembling.voting.soft_votes import log_probs, mean_probs, require_probs, softmax

__all__ = ["THRESHOLDS", "best_offset"]

_MAX_ROUNDS = 20
_IMPROVEMENT = 1e-12
_MARGIN = 1.0


def best_offset(
    logs: NDArray[np.float64],
    truth: NDArray[np.int64],
    offsets: NDArray[np.float64],
    class_idx: int,
) -> float:
    """Find the offset of one class that gives the highest macro-F1 while the others stay.

    Utterance u goes to class k once its offset exceeds t[u], the lead of its best rival. So
    macro-F1 is a step function of the offset, and one pass over the sorted t gives all its values.
    Of several best steps the widest is taken, in its middle: a narrow one is luck.

    Args:
        logs: log probabilities, shape (U, K).
        truth: true class indices, shape (U,).
        offsets: of all classes, shape (K,); that of `class_idx` is ignored.
        class_idx: k.
    """
    n_utts, n_classes = logs.shape
    rivals = logs + offsets
    rivals[:, class_idx] = -np.inf
    rival = rivals.argmax(axis=1)
    turns = rivals.max(axis=1) - logs[:, class_idx]
    order = turns.argsort(kind="stable")
    turns, rival, truth = turns[order], rival[order], truth[order]

    # Row n: counts when the first n utterances go to class k and the others to their rivals.
    classes = np.arange(n_classes)
    lost = np.zeros((n_utts + 1, n_classes))
    lost[1:] = (rival[:, None] == classes).cumsum(axis=0)
    n_predicted = lost[-1] - lost
    n_predicted[:, class_idx] = np.arange(n_utts + 1)
    lost_correct = np.zeros((n_utts + 1, n_classes))
    lost_correct[1:] = ((rival == truth)[:, None] & (rival[:, None] == classes)).cumsum(axis=0)
    n_correct = lost_correct[-1] - lost_correct
    n_correct[1:, class_idx] = (truth == class_idx).cumsum()
    support = np.bincount(truth, minlength=n_classes)
    whole = support + n_predicted
    macro_f1 = np.divide(2 * n_correct, whole, out=np.zeros_like(whole), where=whole > 0).mean(1)

    edges = np.concatenate([[turns[0] - _MARGIN], turns, [turns[-1] + _MARGIN]])
    widths = np.diff(edges)
    # Utterances that turn at the same offset cannot be told apart.
    macro_f1[widths == 0] = -1
    is_best = macro_f1 >= macro_f1.max() - _IMPROVEMENT
    step = int(np.where(is_best, widths, -1).argmax())
    return float((edges[step] + edges[step + 1]) / 2)


class _Thresholds:
    """The class with the highest log probability plus offset, of the members' mean.

    The offsets start at zero and are improved class by class, by `best_offset`, until none gains.
    A step that does not raise macro-F1 on the labelled data is not taken, so it never falls there.

    Options:
        mean: `arithmetic` or `geometric` mean of the members' probabilities.
    """

    name = "thresholds"

    def fit(
        self,
        aligned: AlignedTables,
        truth: NDArray[np.int64],
        speakers: Sequence[str | None],
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        settings = read_options(self.name, options, {"mean": "arithmetic"})
        mean = read_choice(self.name, "mean", settings["mean"], ("arithmetic", "geometric"))
        n_classes = len(aligned.emotions)

        def macro_f1(offsets: NDArray[np.float64]) -> float:
            fused = self.apply({"offsets": offsets, "mean": mean}, aligned, speakers)
            return scores(truth, fused.labels, n_classes).macro_f1

        require_probs(aligned)
        means = mean_probs(aligned, geometric=mean == "geometric")
        has_any = ~np.isnan(means).any(axis=1)
        logs = log_probs(means[has_any])
        offsets = np.zeros(n_classes)
        best = macro_f1(offsets)
        for _ in range(_MAX_ROUNDS if has_any.any() else 0):
            before = best
            for class_idx in range(n_classes):
                candidate = offsets.copy()
                candidate[class_idx] = best_offset(logs, truth[has_any], offsets, class_idx)
                value = macro_f1(candidate)
                if value > best + _IMPROVEMENT:
                    offsets, best = candidate, value
            if best == before:
                break
        return {"offsets": offsets.tolist(), "mean": mean}

    def apply(
        self, parameters: Mapping[str, Any], aligned: AlignedTables, speakers: Sequence[str | None]
    ) -> Fused:
        require_probs(aligned)
        means = mean_probs(aligned, geometric=parameters["mean"] == "geometric")
        return fuse(softmax(log_probs(means) + np.asarray(parameters["offsets"])), aligned)


THRESHOLDS: LearnedRule = _Thresholds()
"""Offsets per class tuned for macro-F1; see `ensembling.learned.recipes.LearnedRule`."""
