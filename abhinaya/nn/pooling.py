"""From frames to one vector per utterance.

A mask says which frames are signal; without one, every frame counts. What stands in masked frames,
NaN included, changes neither result nor gradient. All computing is in float32, also under autocast
and for half-precision input: variances and long sums do not survive bfloat16. An utterance without
a single frame is an error on the CPU; elsewhere looking would stall the device, and its row is NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abhinaya.errors import BadShapeError, BadValueError, UnknownNameError

__all__ = ["AttentionPooling", "AttentiveStatisticsPooling", "MeanPooling", "build_pooling"]

_MIN_VARIANCE = 1e-5  # as published: a standard deviation is never below 0.00316


class AttentiveStatisticsPooling(nn.Module):
    """Mean and standard deviation over time, with frames weighted by learned attention.

    With a = softmax over frames of v . tanh(W x + b): mean = sum a x, and
    std = sqrt(sum a (x - mean) ** 2), the variance kept at or above 1e-5. The parameters are called
    `attention` (v) and `sap_linear` (W, b), as in published checkpoints.

    Source: Okabe et al., "Attentive Statistics Pooling for Deep Speaker Embedding", Interspeech
    2018, arXiv:1803.10963; without the offset k, which softmax cancels.

    Args:
        n_features: D, width of a frame.
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features
        self.sap_linear = nn.Linear(n_features, n_features)
        self.attention = nn.Parameter(torch.empty(n_features, 1))
        nn.init.xavier_normal_(self.attention)

    @property
    def output_size(self) -> int:
        """Width of the result, 2 D."""
        return 2 * self.n_features

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return means, then standard deviations, of every utterance.

        Args:
            frames: shape (B, T, D), any floating type.
            mask: True where there is signal, shape (B, T), bool; None if everywhere.

        Returns:
            Shape (B, 2 D), float32.

        Raises:
            BadShapeError: if the shapes do not fit.
            BadValueError: if the mask is not boolean, or on the CPU leaves an utterance no frame.
        """
        _check(frames, mask, self.n_features)
        with torch.autocast(frames.device.type, enabled=False):
            frames = _clean(frames, mask)
            weights = self._attend(frames, mask)
            mean = weights @ frames  # (B, 1, D)
            # Centred first: E[x^2] - E[x]^2 loses all digits where the mean is large. Around the
            # mean the gradient with respect to it is zero, so none is computed.
            variance = weights @ (frames - mean.detach()).square()
            std = variance.clamp(min=_MIN_VARIANCE).sqrt()
            return torch.cat([mean, std], dim=2).squeeze(1)  # (B, 2 D)

    def _attend(self, frames: Tensor, mask: Tensor | None) -> Tensor:
        """Return the weight of each frame, shape (B, 1, T); those of an utterance sum to one."""
        hidden = F.linear(frames, self.sap_linear.weight.float(), self.sap_linear.bias.float())
        scores = (hidden.tanh_() @ self.attention.float()).squeeze(2)  # (B, T)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(dim=1).unsqueeze(1)


class AttentionPooling(AttentiveStatisticsPooling):
    """The mean of `AttentiveStatisticsPooling`, without the standard deviation.

    Args:
        n_features: D, width of a frame.
    """

    @property
    def output_size(self) -> int:
        """Width of the result, D."""
        return self.n_features

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return sum a x of every utterance, shape (B, D), float32; arguments as above."""
        _check(frames, mask, self.n_features)
        with torch.autocast(frames.device.type, enabled=False):
            frames = _clean(frames, mask)
            return (self._attend(frames, mask) @ frames).squeeze(1)


class MeanPooling(nn.Module):
    """Mean over time.

    Args:
        n_features: D, width of a frame.
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features

    @property
    def output_size(self) -> int:
        """Width of the result, D."""
        return self.n_features

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return mean of every utterance, shape (B, D), float32.

        Arguments and errors as for `AttentiveStatisticsPooling.forward`.
        """
        _check(frames, mask, self.n_features)
        frames = _clean(frames, mask)
        if mask is None:
            return frames.mean(dim=1)
        return frames.sum(dim=1) / mask.sum(dim=1, keepdim=True)


_POOLINGS: dict[str, Callable[[int], AttentiveStatisticsPooling | MeanPooling]] = {
    "attention": AttentionPooling,
    "attentive-statistics": AttentiveStatisticsPooling,
    "mean": MeanPooling,
}


def build_pooling(name: str, n_features: int) -> AttentiveStatisticsPooling | MeanPooling:
    """Return the pooling of that name; its `output_size` is the width of what it returns.

    Args:
        name: `attention`, `attentive-statistics` or `mean`.
        n_features: D, width of a frame.

    Raises:
        UnknownNameError: if there is no such pooling.

    Example:
        >>> build_pooling("attentive-statistics", 1024).output_size
        2048
    """
    if name not in _POOLINGS:
        raise UnknownNameError("pooling", name, _POOLINGS)
    return _POOLINGS[name](n_features)


def _clean(frames: Tensor, mask: Tensor | None) -> Tensor:
    """Return frames in float32, zero outside the mask: 0 x NaN would still be NaN."""
    return frames.float() if mask is None else frames.float().masked_fill(~mask.unsqueeze(2), 0.0)


def _check(frames: Tensor, mask: Tensor | None, n_features: int) -> None:
    if frames.ndim != 3 or frames.shape[2] != n_features or frames.shape[1] == 0:
        raise BadShapeError(
            f"frames has shape {tuple(frames.shape)}, expected (B, T, {n_features}) with at least "
            "one frame. Build the pooling with the width of the encoder's frames."
        )
    if mask is None:
        return
    if mask.shape != frames.shape[:2]:
        raise BadShapeError(
            f"mask has shape {tuple(mask.shape)}, expected {tuple(frames.shape[:2])} like the "
            "frames. A mask over samples must first be reduced to frames."
        )
    if mask.dtype != torch.bool:
        raise BadValueError(
            f"mask has type {mask.dtype}, expected torch.bool, True where there is signal. "
            "Pass mask.bool()."
        )
    # Only where reading values costs nothing and no graph is being recorded.
    if mask.device.type == "cpu" and not torch.compiler.is_compiling():
        empty = (~mask.any(dim=1)).nonzero().flatten().tolist()
        if empty:
            raise BadValueError(
                f"mask has no True frame in row {empty[0]} of the batch ({len(empty)} such rows), "
                "expected at least one. Leave out utterances too short for the encoder."
            )
