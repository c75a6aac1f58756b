"""Losses for classes of very unequal size, on class indices and on vote distributions.

Every function takes logits of any floating type and computes in float32, also under autocast, where
the logarithm of a small probability would otherwise lose its digits. Values of targets and counts
are checked on the CPU only: on an accelerator the look would stall the device at every step.

Class weights, shape (K,), say how much a row of each class counts. `reduction` says how a batch
becomes one number: "mean" divides the sum of the weighted losses by the number of rows,
"weight-normalised" by the sum of the rows' weights, which is what torch's weighted cross-entropy
does. Either way a batch is the one at hand: with gradient accumulation, one micro-batch.

Written from the papers named below; the tests hold the numbers of published implementations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from abhinaya.errors import BadShapeError, BadValueError, UnknownNameError, list_some
from abhinaya.nn.losses.class_counts import ldam_margins, reweight_targets
from abhinaya.nn.losses.config import Reduction, require_counts

__all__ = [
    "adaptive_focal_loss",
    "ldam_loss",
    "logit_adjustment_loss",
    "soft_cross_entropy",
    "soft_kl_divergence",
    "vector_scaling_loss",
    "weighted_cross_entropy",
    "weighted_focal_loss",
]

_SUM_TOLERANCE = 1e-3  # half-precision shares of votes still pass


def weighted_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    class_weights: Tensor | None = None,
    *,
    reduction: Reduction = "weight-normalised",
) -> Tensor:
    """Return cross-entropy in which a row counts as much as its class weighs.

    Args:
        logits: unnormalised scores, shape (B, K).
        targets: class indices, shape (B,), values in [0, K).
        class_weights: shape (K,), positive; None weighs all classes alike.
        reduction: the default is that of torch.

    Returns:
        Scalar float32 loss.

    Raises:
        BadShapeError: if B or K differ between the arguments, or the batch is empty.
        BadValueError: if a target on the CPU is no class index.
    """
    _check_class_indices(logits, targets)
    losses = F.cross_entropy(logits.float(), targets.long(), reduction="none")
    weights = _row_weights(logits, targets, class_weights)
    return _reduce(losses * weights, weights, reduction)


def weighted_focal_loss(
    logits: Tensor,
    targets: Tensor,
    class_weights: Tensor | None = None,
    *,
    gamma: float = 2.0,
    reduction: Reduction = "mean",
    broadcast_compat: bool = False,
) -> Tensor:
    """Return cross-entropy that fades out the rows already answered well.

    With p the probability given to the true class y, one row costs
    w[y] * (1 - p) ** gamma * -log(p). The published code of the Abhinaya system multiplies each
    row's cost with each row's weight, so that its mean is mean(cost) * mean(weight): there the
    weights scale the step and favour no class. `broadcast_compat` reproduces that.

    Source: Lin et al., "Focal Loss for Dense Object Detection", 2017, eq. 5, arXiv:1708.02002;
    the published variant: arXiv:2505.18217.

    Args:
        logits: unnormalised scores, shape (B, K).
        targets: class indices, shape (B,), values in [0, K).
        class_weights: shape (K,), positive; None weighs all classes alike.
        gamma: 0 turns the fading off; must not be negative.
        reduction: the default is that of the published system.
        broadcast_compat: weigh as published; wants the reduction "mean".

    Returns:
        Scalar float32 loss.

    Raises:
        BadShapeError: if B or K differ between the arguments, or the batch is empty.
        BadValueError: if gamma is negative, a target on the CPU is no class index, or
            `broadcast_compat` meets another reduction.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
        >>> loss = weighted_focal_loss(logits, torch.tensor([0, 1]), torch.ones(2))
        >>> round(loss.item(), 4)
        0.0875
    """
    _require_not_negative("gamma", gamma)
    if broadcast_compat and reduction != "mean":
        raise BadValueError(
            f"reduction is {reduction!r}, but broadcast_compat reproduces a plain mean. "
            "Pass reduction='mean' or leave broadcast_compat out."
        )
    _check_class_indices(logits, targets)
    log_p = -F.cross_entropy(logits.float(), targets.long(), reduction="none")  # (B,)
    # expm1 keeps the digits of 1 - p near p = 1; at 0 the gradient of a root would be infinite.
    not_p = (-torch.expm1(log_p)).clamp(min=torch.finfo(torch.float32).tiny)
    losses = -(not_p**gamma) * log_p
    weights = _row_weights(logits, targets, class_weights)
    if broadcast_compat:
        return losses.mean() * weights.mean()
    return _reduce(losses * weights, weights, reduction)


def adaptive_focal_loss(
    logits: Tensor,
    targets: Tensor,
    class_weights: Tensor | None = None,
    *,
    gammas: Tensor,
    edges: Tensor,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return `weighted_focal_loss` with a gamma for each bin of p; see `AdaptiveFocalLoss`."""
    _check_class_indices(logits, targets)
    log_p = -F.cross_entropy(logits.float(), targets.long(), reduction="none")  # (B,)
    gamma = gammas[torch.bucketize(log_p.detach().exp(), edges, right=True)]
    not_p = (-torch.expm1(log_p)).clamp(min=torch.finfo(torch.float32).tiny)  # as above
    losses = -(torch.where(gamma < 0, 1 + log_p.exp(), not_p) ** gamma.abs()) * log_p
    weights = _row_weights(logits, targets, class_weights)
    return _reduce(losses * weights, weights, reduction)


def vector_scaling_loss(
    logits: Tensor,
    targets: Tensor,
    class_counts: Tensor,
    class_weights: Tensor | None = None,
    *,
    gamma: float = 0.3,
    tau: float = 1.0,
    reduction: Reduction = "weight-normalised",
) -> Tensor:
    """Return cross-entropy on logits that are shrunk and lowered the more, the rarer the class.

    With n[c] rows and share pi[c] of class c, logit z[c] enters as
    (n[c] / max n) ** gamma * z[c] + tau * log pi[c]. That is for training; predict with raw
    logits.

    Source: Kini et al., "Label-Imbalanced and Group-Sensitive Classification under
    Overparameterization", NeurIPS 2021, arXiv:2103.01550.

    Args:
        logits: unnormalised scores, shape (B, K).
        targets: class indices, shape (B,), values in [0, K).
        class_counts: rows per class, shape (K,), at least 1 each.
        class_weights: shape (K,), positive; None weighs all classes alike.
        gamma: 0 leaves the scale alone and gives logit adjustment; must not be negative.
        tau: 0 leaves the offset away.
        reduction: the default is that of the published system.

    Returns:
        Scalar float32 loss.

    Raises:
        BadShapeError: if B or K differ between the arguments, or the batch is empty.
        BadValueError: if gamma is negative, or on the CPU a target is no class index or a class has
            no row.
    """
    _require_not_negative("gamma", gamma)
    _check_counts(logits, class_counts)
    counts = class_counts.float()
    adjusted = logits.float() * (counts / counts.max()) ** gamma
    adjusted = adjusted + tau * (counts / counts.sum()).log()
    return weighted_cross_entropy(adjusted, targets, class_weights, reduction=reduction)


def logit_adjustment_loss(
    logits: Tensor,
    targets: Tensor,
    class_counts: Tensor,
    class_weights: Tensor | None = None,
    *,
    tau: float = 1.0,
    reduction: Reduction = "weight-normalised",
) -> Tensor:
    """Return cross-entropy on z + tau * log pi, which frees z from the class prior.

    Source: Menon et al., "Long-tail Learning via Logit Adjustment", ICLR 2021, eq. 10,
    arXiv:2007.07314. Arguments, result and errors as for `vector_scaling_loss` at gamma = 0.
    """
    return vector_scaling_loss(
        logits, targets, class_counts, class_weights, gamma=0.0, tau=tau, reduction=reduction
    )


def ldam_loss(
    logits: Tensor,
    targets: Tensor,
    class_counts: Tensor,
    class_weights: Tensor | None = None,
    *,
    max_margin: float = 0.5,
    scale: float = 30.0,
    reduction: Reduction = "weight-normalised",
) -> Tensor:
    """Return cross-entropy in which the true class has to win by a margin.

    The true logit is lowered by its class's `ldam_margins`, then all logits are multiplied by
    `scale`. The paper's logits are cosines in [-1, 1]; for others margin and scale need a search.

    Source: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
    NeurIPS 2019, arXiv:1906.07413.

    Args:
        logits: unnormalised scores, shape (B, K).
        targets: class indices, shape (B,), values in [0, K).
        class_counts: rows per class, shape (K,), at least 1 each.
        class_weights: shape (K,), positive; None weighs all classes alike.
        max_margin: margin of the rarest class.
        scale: factor of the logits, above 0.
        reduction: the default is that of the paper's code.

    Returns:
        Scalar float32 loss.

    Raises:
        BadShapeError: if B or K differ between the arguments, or the batch is empty.
        BadValueError: if on the CPU a target is no class index or a class has no row.
    """
    _check_class_indices(logits, targets)
    _check_counts(logits, class_counts)
    margins = F.one_hot(targets.long(), logits.shape[1]) * ldam_margins(class_counts, max_margin)
    adjusted = scale * (logits.float() - margins)  # (B, K)
    return weighted_cross_entropy(adjusted, targets, class_weights, reduction=reduction)


def soft_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    class_weights: Tensor | None = None,
    *,
    class_counts: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return cross-entropy against a distribution q of votes: the sum over classes of -w q log p.

    Where all votes agree it equals `weighted_cross_entropy`.

    Args:
        logits: unnormalised scores, shape (B, K).
        targets: share of votes per class, shape (B, K), rows sum to one.
        class_weights: shape (K,), positive; None weighs all classes alike. A row's weight is the
            mean of the class weights under its votes.
        class_counts: rows per class, shape (K,); if given, `reweight_targets` runs first.
        reduction: see the module.

    Returns:
        Scalar float32 loss.

    Raises:
        BadShapeError: if B or K differ between the arguments, or the batch is empty.
        BadValueError: if on the CPU a row is negative somewhere or does not sum to one within
            0.001, or a class has no row.
    """
    votes, weights = _votes_and_weights(logits, targets, class_weights, class_counts)
    losses = -(votes * weights * logits.float().log_softmax(dim=1)).sum(dim=1)  # (B,)
    return _reduce(losses, (votes * weights).sum(dim=1), reduction)


def soft_kl_divergence(
    logits: Tensor,
    targets: Tensor,
    class_weights: Tensor | None = None,
    *,
    class_counts: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return KL(q || p) from a distribution q of votes: the sum over classes of w q log(q / p).

    Its gradient is that of `soft_cross_entropy`; its minimum is zero, at p = q. Classes without
    votes add nothing. Arguments, result and errors as there.
    """
    votes, weights = _votes_and_weights(logits, targets, class_weights, class_counts)
    log_p = logits.float().log_softmax(dim=1)
    losses = ((torch.xlogy(votes, votes) - votes * log_p) * weights).sum(dim=1)  # (B,)
    return _reduce(losses, (votes * weights).sum(dim=1), reduction)


def _votes_and_weights(
    logits: Tensor, targets: Tensor, class_weights: Tensor | None, class_counts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Vote distributions (B, K), re-weighted if there are counts, and class weights (K,)."""
    _check_logits(logits)
    if targets.shape != logits.shape:
        raise BadShapeError(
            f"targets has shape {tuple(targets.shape)}, expected vote distributions of shape "
            f"{tuple(logits.shape)} like the logits. A loss on class indices is cross-entropy."
        )
    votes = targets.float()
    if _may_look_into(votes):
        sums = votes.sum(dim=1)
        # Written so that a NaN counts as wrong too.
        wrong = ~(((sums - 1).abs() <= _SUM_TOLERANCE) & (votes >= 0).all(dim=1))
        if wrong.any():
            rows = wrong.nonzero().flatten().tolist()
            raise BadValueError(
                f"targets is no distribution in row {list_some(rows)} of the batch; the first is "
                f"{votes[rows[0]].tolist()}. Expected shares of votes that are not negative and "
                "sum to one. Divide the vote counts by their sum, and leave out rows without votes."
            )
    if class_counts is not None:
        _check_counts(logits, class_counts)
        votes = reweight_targets(votes, class_counts)
    if class_weights is None:
        return votes, votes.new_ones(logits.shape[1])
    _check_per_class("class_weights", logits, class_weights)
    return votes, class_weights.float()


def _row_weights(logits: Tensor, targets: Tensor, class_weights: Tensor | None) -> Tensor:
    """Weight of each row's class, shape (B,), float32."""
    if class_weights is None:
        return torch.ones(len(targets), device=logits.device)
    _check_per_class("class_weights", logits, class_weights)
    return class_weights.float()[targets.long()]


def _reduce(weighted_losses: Tensor, row_weights: Tensor, reduction: Reduction) -> Tensor:
    if reduction not in ("mean", "weight-normalised"):
        raise UnknownNameError("reduction", reduction, ("mean", "weight-normalised"))
    if reduction == "mean":
        return weighted_losses.mean()
    return weighted_losses.sum() / row_weights.sum()


def _may_look_into(tensor: Tensor) -> bool:
    """Tell whether reading values costs nothing: on the CPU, outside compiled graphs."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def _check_logits(logits: Tensor) -> None:
    if logits.ndim != 2 or 0 in logits.shape:
        raise BadShapeError(
            f"logits has shape {tuple(logits.shape)}, expected (B, K) with at least one row. "
            "The mean loss of an empty batch is undefined; skip such a batch."
        )


def _check_class_indices(logits: Tensor, targets: Tensor) -> None:
    _check_logits(logits)
    if targets.shape != logits.shape[:1] or targets.is_floating_point():
        raise BadShapeError(
            f"targets has shape {tuple(targets.shape)} and type {targets.dtype}, expected "
            f"{len(logits)} class indices, one per row of the logits. Vote distributions go with "
            "soft-cross-entropy or kl-divergence."
        )
    if _may_look_into(targets):
        n_classes = logits.shape[1]
        rows = ((targets < 0) | (targets >= n_classes)).nonzero().flatten().tolist()
        if rows:
            raise BadValueError(
                f"targets is {int(targets[rows[0]])} in row {rows[0]} of the batch ({len(rows)} "
                f"such rows), expected class indices from 0 to {n_classes - 1}. Rows labelled "
                "outside the emotion set have no index; leave them out of the selection."
            )


def _check_per_class(name: str, logits: Tensor, values: Tensor) -> None:
    if values.shape != logits.shape[1:]:
        raise BadShapeError(
            f"{name} has shape {tuple(values.shape)}, expected ({logits.shape[1]},): one number "
            "per column of the logits, in class order."
        )


def _check_counts(logits: Tensor, class_counts: Tensor) -> None:
    _check_per_class("class_counts", logits, class_counts)
    if _may_look_into(class_counts):
        require_counts(class_counts.tolist())


def _require_not_negative(name: str, value: float) -> None:
    if value < 0:
        raise BadValueError(
            f"{name} is {value}, expected 0 or more. At 0 it has no effect; below, it would favour "
            "what the loss is meant to hold back."
        )
