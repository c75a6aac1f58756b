"""Class encodings, the bridge between them and the features, and the way back along it.

Wang et al., "Gen-SER", ICASSP 2026, arXiv:2601.20573. Time 0 is the class encoding x_0, time 1 are
the features x_1. The paper's text fixes what these functions do; where its formulas were not
readable we derived them, which the docstrings say.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from abhinaya.errors import BadValueError

__all__ = ["Bridge", "sample", "taxonomy"]


def taxonomy(n_classes: int, n_features: int) -> Tensor:
    """Return the encodings of the classes i = 1..K: sin(2 pi i n / N), n = 0..N-1.

    They are mutually orthogonal and of norm sqrt(N / 2). From N / 2 on the sine would be zero or
    repeat itself, hence K < N / 2. Formula derived by us.

    Args:
        n_classes: K.
        n_features: N.

    Returns:
        Shape (K, N).

    Raises:
        BadValueError: if there is one class, or N is too small for K.
    """
    if n_classes < 2:
        raise BadValueError(
            f"gen-ser got n_classes={n_classes}, expected at least 2: one class leaves nothing to "
            "tell apart. Prepare a corpus with more labels."
        )
    if 2 * n_classes >= n_features:
        raise BadValueError(
            f"{n_classes} classes need encodings of at least {2 * n_classes + 1} numbers, but the "
            f"features of base have {n_features}. Choose a base of larger width."
        )
    # Whole turns are taken off before the sine, which would lose digits on large arguments.
    turns = torch.outer(torch.arange(1, n_classes + 1), torch.arange(n_features)) % n_features
    return torch.sin(2 * math.pi * turns.double() / n_features).float()


@dataclass(frozen=True)
class Bridge:
    """Gaussians between x_0 and x_1, with mean (1 - s) x_0 + s x_1 and deviation sigma.

    s = 1 / (1 + exp(-k (t - 1/2))) and sigma = sigma_max sqrt(t (1 - t)), both derived by us from
    the names that the paper gives them.

    Args:
        slope: k.
        sigma_max: twice the largest deviation, which is that of t = 1/2.
        t_min: least time that is used, above 0.
        t_max: largest one, below 1.
    """

    slope: float
    sigma_max: float
    t_min: float
    t_max: float

    def share(self, t: Tensor) -> Tensor:
        """Return s, the share of the features in the mean."""
        return torch.sigmoid(self.slope * (t - 0.5))

    def share_slope(self, t: Tensor) -> Tensor:
        """Return ds/dt = k s (1 - s)."""
        return self.slope * self.share(t) * (1 - self.share(t))

    def deviation(self, t: Tensor) -> Tensor:
        """Return sigma."""
        return self.sigma_max * (t * (1 - t)).sqrt()

    def log_deviation_slope(self, t: Tensor) -> Tensor:
        """Return (dsigma/dt) / sigma = (1 - 2 t) / (2 t (1 - t))."""
        return (1 - 2 * t) / (2 * t * (1 - t))

    def mean(self, code: Tensor, features: Tensor, t: Tensor) -> Tensor:
        """Return the mean at time t between encodings x_0 and features x_1, both (B, N)."""
        share = self.share(t)
        return (1 - share) * code + share * features

    def velocity(self, x: Tensor, code: Tensor, features: Tensor, t: Tensor) -> Tensor:
        """Return dx/dt on the path through `x` at time t, shape (B, N)."""
        away = x - self.mean(code, features, t)
        return self.log_deviation_slope(t) * away + self.share_slope(t) * (features - code)


def sample(
    estimate: Callable[[Tensor, Tensor], Tensor],
    features: Tensor,
    bridge: Bridge,
    *,
    n_steps: int,
    method: Literal["exact", "euler"] = "exact",
    noise: Tensor | None = None,
) -> Tensor:
    """Take the features back in time; return the last estimate of the encodings, shape (B, N).

    Each step moves x by the current estimate and then estimates anew, so `n_steps` steps call the
    network once more than that. `euler` multiplies the velocity by the step, as published; with few
    steps or times near 0 and 1 it overshoots. `exact` solves the equation between two times for an
    estimate that stays: x keeps its distance from the mean, in deviations. Ours, and stable.

    Args:
        estimate: from x (B, N) and the time, shape (), to encodings (B, N).
        features: x_1, where it starts.
        bridge: the path.
        n_steps: M, at least 1.
        method: the step.
        noise: standard normal numbers (B, N), for a start beside the features; None for none.
    """
    times = torch.linspace(bridge.t_max, bridge.t_min, n_steps + 1, device=features.device)
    x = features if noise is None else features + bridge.deviation(times[0]) * noise
    code = estimate(x, times[0])
    for t, t_next in pairwise(times):
        if method == "exact":
            ratio = (t_next * (1 - t_next) / (t * (1 - t))).sqrt()
            away = x - bridge.mean(code, features, t)
            x = bridge.mean(code, features, t_next) + ratio * away
        else:
            x = x - (t - t_next) * bridge.velocity(x, code, features, t)
        code = estimate(x, t_next)
    return code
