"""Losses of what is learned beside the class; an unknown truth is NaN and does not count.

Like those of the classes they compute in float32, and a batch is the one at hand: with gradient
accumulation, one micro-batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ccc_loss", "share_loss", "squared_error"]

_EPSILON = 1e-8  # of a denominator that is 0 where nothing varies


def ccc_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """Return 1 minus the concordance correlation coefficient of the known rows of a batch.

    CCC = 2 cov(p, t) / (var(p) + var(t) + (mean(p) - mean(t))^2), variances divided by the number
    of rows. A truth that does not vary has a CCC of 0, whose gradient is 0 too. Of fewer than two
    known rows there is no CCC: the loss is 0, and so is its gradient.

    Source: Lin, "A Concordance Correlation Coefficient to Evaluate Reproducibility", Biometrics
    45(1), 1989.

    Args:
        predicted: shape (B,).
        truth: shape (B,), NaN where unknown.

    Returns:
        Scalar in [0, 2].

    Example:
        >>> p, t = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 3.0, 4.0])
        >>> round(ccc_loss(p, t).item(), 4)  # 1 - 2 * 2/3 / (2/3 + 2/3 + 1)
        0.4286
    """
    known = ~truth.isnan()
    n_known = known.sum()
    pairs = [torch.where(known, values.float(), 0.0) for values in (predicted, truth)]
    means = [values.sum() / n_known.clamp(min=1) for values in pairs]
    p, t = (torch.where(known, v - mean, 0.0) for v, mean in zip(pairs, means, strict=True))
    n_rows = n_known.clamp(min=1)
    spread = (p.square().sum() + t.square().sum()) / n_rows + (means[0] - means[1]).square()
    ccc = 2 * (p * t).sum() / n_rows / (spread + _EPSILON)
    return (1 - ccc) * (n_known >= 2)


def squared_error(predicted: Tensor, truth: Tensor) -> Tensor:
    """Return the squared error of the known rows, divided by the number of all.

    So a known row counts as much whatever stands beside it, and a batch may be split.

    Args:
        predicted: shape (B,).
        truth: shape (B,), NaN where unknown.
    """
    known = ~truth.isnan()
    errors = predicted.float() - torch.where(known, truth, 0.0)
    return torch.where(known, errors.square(), 0.0).mean()


def share_loss(logits: Tensor, shares: Tensor) -> Tensor:
    """Return binary cross-entropy against shares in [0, 1], over the known rows, as above.

    Args:
        logits: shape (B, N), of N answers that do not exclude each other.
        shares: shape (B, N), NaN where unknown.
    """
    known = ~shares.isnan()
    targets = torch.where(known, shares, 0.0)
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    return torch.where(known, losses, 0.0).mean()
