"""The loss of a config, and every loss by name.

A config's `LossConfig` becomes, by `build_loss`, an `EmotionLoss`; the formulas are functions in
`abhinaya.nn.losses.functions`, and all of them can be imported from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from abhinaya.errors import BadShapeError
from abhinaya.nn.losses.class_counts import (
    class_balanced_weights,
    inverse_frequency_weights,
    ldam_margins,
    reweight_targets,
)
from abhinaya.nn.losses.config import LossConfig, Reduction, absorbed_prior, require_counts
from abhinaya.nn.losses.functions import (
    adaptive_focal_loss,
    ldam_loss,
    logit_adjustment_loss,
    soft_cross_entropy,
    soft_kl_divergence,
    vector_scaling_loss,
    weighted_cross_entropy,
    weighted_focal_loss,
)

__all__ = [
    "AdaptiveFocalLoss",
    "EmotionLoss",
    "LossConfig",
    "absorbed_prior",
    "adaptive_focal_loss",
    "build_loss",
    "class_balanced_weights",
    "inverse_frequency_weights",
    "ldam_loss",
    "ldam_margins",
    "logit_adjustment_loss",
    "reweight_targets",
    "soft_cross_entropy",
    "soft_kl_divergence",
    "vector_scaling_loss",
    "weighted_cross_entropy",
    "weighted_focal_loss",
]


class EmotionLoss(nn.Module):
    """A loss with its class weights and counts on board, so that `.to(device)` moves them too.

    The tensors are no parameters and are not saved with the model.

    Args:
        function: called as function(logits, targets, **tensors).
        uses_soft_targets: whether targets are vote distributions (B, K), not class indices (B,).
        tensors: class weights and class counts, shape (K,), as far as the function takes them.

    Attributes:
        weighs_classes: whether class weights apply now; training may turn them off for a while.
    """

    def __init__(
        self, function: Callable[..., Tensor], *, uses_soft_targets: bool, **tensors: Tensor
    ) -> None:
        super().__init__()
        self._function = function
        self._uses_soft_targets = uses_soft_targets
        self.weighs_classes = True
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)

    @property
    def uses_soft_targets(self) -> bool:
        """Whether targets are vote distributions (B, K) instead of class indices (B,)."""
        return self._uses_soft_targets

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return scalar float32 loss of a batch.

        Args:
            logits: unnormalised scores, shape (B, K).
            targets: class indices, shape (B,), or vote distributions, shape (B, K).
        """
        tensors = dict(self.named_buffers(recurse=False))
        if not self.weighs_classes:
            tensors.pop("class_weights", None)
        return self._function(logits, targets, **tensors)


class AdaptiveFocalLoss(EmotionLoss):
    """AdaFocal: a focal loss whose gamma follows the calibration of the model, bin by bin.

    A row that gives p to its true class costs w (1 - p) ** gamma * -log p; where gamma is below 0,
    w (1 + p) ** -gamma * -log p. Each bin of p has its own gamma. After every evaluation `adapt`
    cuts the confidences of the validation rows into bins of equal size. With c the mean confidence
    of a bin and a its accuracy, gamma becomes gamma * exp(rate * (c - a)), below 0
    gamma * exp(rate * (a - c)): more fading where the model claims too much. A gamma weaker than
    0.2 changes its sign; all stay in [-2, 20].

    Source: Ghosh, Schaaf and Gormley, "AdaFocal: Calibration-aware Adaptive Focal Loss", NeurIPS
    2022, arXiv:2211.11838, with its constants. "Adaptive focal loss" has no one meaning; this one
    is our choice.

    Args:
        class_weights: shape (K,), positive; None weighs all classes alike.
        gamma: of every bin until the first evaluation, above 0.
        rate: how fast gamma follows.
        bins: how many.
        reduction: as of the other losses.
    """

    gammas: Tensor
    edges: Tensor

    def __init__(
        self,
        class_weights: Tensor | None = None,
        *,
        gamma: float = 1.0,
        rate: float = 1.0,
        bins: int = 15,
        reduction: Reduction = "mean",
    ) -> None:
        tensors = {} if class_weights is None else {"class_weights": class_weights}
        function = partial(adaptive_focal_loss, reduction=reduction)
        super().__init__(function, uses_soft_targets=False, **tensors)
        self.rate = rate
        # Unlike weights, these are learned: a checkpoint that training resumes from has them.
        self.register_buffer("gammas", torch.full((bins,), float(gamma)))
        self.register_buffer("edges", torch.arange(1, bins) / bins)

    @torch.no_grad()
    def adapt(self, logits: Tensor, targets: Tensor) -> None:
        """Set bins and gammas by all validation rows.

        Args:
            logits: shape (B, K).
            targets: class indices, shape (B,).
        """
        confidences, predicted = logits.float().softmax(dim=1).max(dim=1)
        n_bins = len(self.gammas)
        edges = confidences.quantile(torch.arange(1, n_bins) / n_bins)
        bins = torch.bucketize(confidences, edges, right=True)
        excess = confidences - (predicted == targets).float()
        gaps = bins.bincount(excess, n_bins) / bins.bincount(minlength=n_bins).clamp(min=1)
        gammas = self.gammas.cpu()
        gammas = gammas * (self.rate * gaps * gammas.sign()).exp()
        gammas = torch.where(gammas.abs() < 0.2, -0.2 * gammas.sign(), gammas)
        self.gammas.copy_(gammas.clamp(-2, 20))
        self.edges.copy_(edges)


def build_loss(config: LossConfig, class_counts: Sequence[int]) -> EmotionLoss:
    """Return the loss that a config describes.

    Args:
        config: name and options; its own `class_counts` replace the argument.
        class_counts: rows per class among the training rows, in class order, length K.

    Raises:
        BadShapeError: if the config has another number of counts or weights than there are classes.
        BadValueError: if the loss needs counts and a class has no row.

    Example:
        >>> loss = build_loss(LossConfig(name="focal"), class_counts=[30, 10])
        >>> round(loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).item(), 4)
        0.1733
    """
    n_classes = len(class_counts)
    counts = config.class_counts or class_counts
    _require_per_class("class_counts", counts, n_classes)

    tensors = {}
    if config.class_weights == "inverse":
        tensors["class_weights"] = inverse_frequency_weights(counts)
    elif config.class_weights == "class-balanced":
        assert config.beta is not None  # LossConfig fills it in
        tensors["class_weights"] = class_balanced_weights(counts, config.beta)
    elif isinstance(config.class_weights, tuple):
        _require_per_class("class_weights", config.class_weights, n_classes)
        tensors["class_weights"] = torch.tensor(config.class_weights, dtype=torch.float32)
    if config.name in ("ldam", "logit-adjustment", "vector-scaling") or config.reweight_targets:
        tensors["class_counts"] = torch.tensor(require_counts(counts))

    options = {key: value for key, value in config.options.items() if key != "reweight_targets"}
    if config.name == "adaptive-focal":
        return AdaptiveFocalLoss(tensors.get("class_weights"), **options)
    functions: dict[str, Callable[..., Tensor]] = {
        "class-balanced": weighted_cross_entropy,
        "cross-entropy": weighted_cross_entropy,
        "focal": weighted_focal_loss,
        "kl-divergence": soft_kl_divergence,
        "ldam": ldam_loss,
        "logit-adjustment": logit_adjustment_loss,
        "soft-cross-entropy": soft_cross_entropy,
        "vector-scaling": vector_scaling_loss,
    }
    return EmotionLoss(
        partial(functions[config.name], **options),
        uses_soft_targets=config.uses_soft_targets,
        **tensors,
    )


def _require_per_class(name: str, values: Sequence[float], n_classes: int) -> None:
    if len(values) != n_classes:
        raise BadShapeError(
            f"{name} of the loss has {len(values)} numbers, expected {n_classes}: one per class, "
            f"in class order. Correct the loss's {name}, or remove it to use the training rows."
        )
