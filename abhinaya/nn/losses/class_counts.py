"""What the number of rows per class turns into: class weights, margins, re-weighted votes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from abhinaya.errors import BadValueError
from abhinaya.nn.losses.config import require_counts

__all__ = [
    "class_balanced_weights",
    "inverse_frequency_weights",
    "ldam_margins",
    "reweight_targets",
]


def inverse_frequency_weights(class_counts: Sequence[int]) -> Tensor:
    """Return weights N / (K n[c]): each class weighs the same in total, a mean row weighs one.

    Args:
        class_counts: n, rows per class, length K, at least 1 each; N is their sum.

    Returns:
        Weights, shape (K,), float32.

    Raises:
        BadValueError: if a class has no row.

    Example:
        >>> inverse_frequency_weights([30, 10]).tolist()
        [0.6666666865348816, 2.0]
    """
    counts = torch.tensor(require_counts(class_counts), dtype=torch.float64)
    return (counts.sum() / (len(counts) * counts)).float()


def class_balanced_weights(class_counts: Sequence[int], beta: float = 0.999) -> Tensor:
    """Return weights (1 - beta) / (1 - beta ** n[c]), scaled to sum to K.

    The idea: further rows of a class overlap with the earlier ones, so n rows are worth
    (1 - beta ** n) / (1 - beta). At beta = 0 all weights are one; towards 1 they go as 1 / n.

    Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019,
    section 4, arXiv:1901.05555.

    Args:
        class_counts: n, rows per class, length K, at least 1 each.
        beta: in [0, 1); the paper tries 0.9 to 0.9999.

    Returns:
        Weights, shape (K,), float32.

    Raises:
        BadValueError: if a class has no row, or beta lies outside [0, 1).

    Example:
        >>> class_balanced_weights([1, 2], beta=0.5).tolist()
        [1.2000000476837158, 0.800000011920929]
    """
    if not 0 <= beta < 1:
        raise BadValueError(
            f"beta is {beta}, expected a number in [0, 1). "
            "For weights by inverse count use inverse_frequency_weights."
        )
    counts = torch.tensor(require_counts(class_counts), dtype=torch.float64)
    weights = (1 - beta) / (1 - beta**counts)
    return (weights * len(counts) / weights.sum()).float()


def ldam_margins(class_counts: Tensor, max_margin: float = 0.5) -> Tensor:
    """Return margins proportional to n[c] ** -1/4; that of the rarest class is `max_margin`.

    Source: Cao et al., NeurIPS 2019, section 3.2, arXiv:1906.07413.

    Args:
        class_counts: n, rows per class, shape (K,), at least 1 each.
        max_margin: in units of the logits.

    Returns:
        Margins, shape (K,), float32.

    Example:
        >>> ldam_margins(torch.tensor([16, 1, 256])).tolist()
        [0.25, 0.5, 0.125]
    """
    counts = class_counts.float()
    return max_margin * (counts.min() / counts) ** 0.25


def reweight_targets(targets: Tensor, class_counts: Tensor) -> Tensor:
    """Vote distributions divided by the class prior and scaled to sum to one again.

    A vote for a rare class then counts for more than one for a common class; a row on which all
    agree stays as it is.

    Args:
        targets: share of votes per class, shape (B, K), rows sum to one.
        class_counts: rows per class, shape (K,), at least 1 each.

    Returns:
        Distributions, shape (B, K), float32.

    Example:
        >>> reweight_targets(torch.tensor([[0.5, 0.5]]), torch.tensor([30, 10])).tolist()
        [[0.25, 0.75]]
    """
    weighted = targets.float() / class_counts.float()
    return weighted / weighted.sum(dim=-1, keepdim=True)
