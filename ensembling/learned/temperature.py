"""Members made as sure of themselves as they deserve, before their probabilities are averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembling.aligned import AlignedTables
from ensembling.learned.recipes import Fused, LearnedRule, fuse, read_choice, read_options
from ensembling.voting.soft_votes import log_probs, mean_probs, require_probs, softmax

__all__ = ["TEMPERATURE", "fit_temperature", "sharpen"]

_LOG_RANGE = (-4.0, 4.0)

# Utterances that a loss is computed of at a time.
_BLOCK = 8_192


def fit_temperature(probs: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """Find the temperature at which probabilities fit the labels best.

    Minimises the mean of -log softmax(log p / T)[y] over T between e^-4 and e^4; in log T there is
    one minimum.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017, section 4.2,
    arXiv:1706.04599.

    Args:
        probs: class probabilities, shape (U, K), without NaN.
        truth: true class indices, shape (U,).

    Returns:
        T > 0; above 1 the member was too sure. 1 without utterances.
    """
    from scipy.optimize import minimize_scalar

    if len(truth) == 0:
        return 1.0
    # With logs below their largest by d: log sum over c of e^(-d_c / T), plus d_y / T.
    logs = log_probs(probs)
    below = np.ascontiguousarray((logs - logs.max(axis=1, keepdims=True)).T)  # (K, U)
    of_truth = below[truth, np.arange(len(truth))].mean()
    starts = range(0, len(truth), _BLOCK)

    def mean_loss(log_t: float) -> float:
        scale = np.exp(-log_t)
        # A block at a time stays in the processor's cache.
        sums = (np.exp(below[:, at : at + _BLOCK] * scale).sum(axis=0) for at in starts)
        return float(sum(np.log(one).sum() for one in sums) / len(truth) - of_truth * scale)

    best = minimize_scalar(mean_loss, bounds=_LOG_RANGE, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x))


def sharpen(probs: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Return p ** (1 / T), scaled to sum to one, shape (U, K); NaN rows stay NaN."""
    return softmax(log_probs(probs) / temperature)


class _Temperature:
    """A temperature for each member, then the mean of their probabilities.

    Options:
        mean: `arithmetic` or `geometric`.
    """

    name = "temperature"

    def fit(
        self,
        aligned: AlignedTables,
        truth: NDArray[np.int64],
        speakers: Sequence[str | None],
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        settings = read_options(self.name, options, {"mean": "arithmetic"})
        mean = read_choice(self.name, "mean", settings["mean"], ("arithmetic", "geometric"))
        require_probs(aligned)
        takes_part = aligned.has_voted & aligned.has_probs
        temperatures = [
            fit_temperature(probs[rows], truth[rows])
            for probs, rows in zip(aligned.probs, takes_part, strict=True)
        ]
        return {"temperatures": temperatures, "mean": mean}

    def apply(
        self, parameters: Mapping[str, Any], aligned: AlignedTables, speakers: Sequence[str | None]
    ) -> Fused:
        require_probs(aligned)
        probs = np.empty(aligned.probs.shape)
        for idx, temperature in enumerate(parameters["temperatures"]):
            probs[idx] = sharpen(aligned.probs[idx], temperature)
        means = mean_probs(aligned.with_probs(probs), geometric=parameters["mean"] == "geometric")
        return fuse(means, aligned)


TEMPERATURE: LearnedRule = _Temperature()
"""A temperature per member; see `ensembling.learned.recipes.LearnedRule`."""
