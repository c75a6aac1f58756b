"""Small transformers over the frames of several encoders, and how they meet.

Frames of different encoders differ in number, width and rate, so nothing is joined frame by frame:
legs meet in their means over real frames, or by attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from abhinaya.nn.pooling import MeanPooling

__all__ = ["CrossFusion", "DeepFusion"]


class _Fusion(nn.Module):
    """What both kinds have: projections to one width, layers, and the mean of each leg.

    Args:
        n_inputs: width of the frames of each leg.
        width: D of the legs.
        n_layers: transformer layers of each leg.
        n_heads: attention heads.
        feed_forward: width inside a layer.
        dropout: of everything here.

    Attributes:
        layer_class: of torch's layers.
        n_features: width of the result.
    """

    layer_class: type[nn.Module]
    n_features: int

    def __init__(
        self,
        n_inputs: Sequence[int],
        *,
        width: int,
        n_layers: int,
        n_heads: int,
        feed_forward: int,
        dropout: float,
    ) -> None:
        super().__init__()
        # Two linear layers as published. The norm is ours: encoders differ in scale by far.
        self.projections = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(n_in),
                nn.Linear(n_in, width),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(width, width),
            )
            for n_in in n_inputs
        )
        kind = {"activation": "gelu", "batch_first": True, "norm_first": True}
        self.legs = nn.ModuleList(
            nn.ModuleList(
                self.layer_class(width, n_heads, feed_forward, dropout, **kind)
                for _ in range(n_layers)
            )
            for _ in n_inputs
        )
        self.pooling = MeanPooling(width)

    def project(self, frames: Sequence[Tensor]) -> list[Tensor]:
        """Return the frames of each leg in the legs' width."""
        return [project(x) for project, x in zip(self.projections, frames, strict=True)]

    def means(self, hidden: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
        """Return the mean over real frames of each leg, shape (B, D)."""
        return [self.pooling(h, mask) for h, mask in zip(hidden, masks, strict=True)]


class DeepFusion(_Fusion):
    """Legs that are fused at three depths, after the description of MEDUSA's DeepSER.

    Chatzichristodoulou et al., "MEDUSA", Interspeech 2025, arXiv:2506.09556: legs of two linear and
    two single-head transformer layers with mean pooling, "fused at three depths". The description
    leaves open what fusing is; this is our reading. With h_0 the projected frames of a leg, h_1 and
    h_2 those after its first and second transformer layer, m_d the means of h_d of all legs side by
    side, and F_d a linear layer with layer norm, GELU and dropout:

        f_0 = F_0(m_0), f_1 = F_1([f_0, m_1]), f_2 = F_2([f_1, m_2])

    and f_2 goes into the head. So every depth sees all legs, and what the depth before made of
    them. Depths are one more than the layers, whatever their number.

    Args:
        n_inputs: as in `_Fusion`, like all others.
        sizes: the same.
    """

    layer_class = nn.TransformerEncoderLayer

    def __init__(self, n_inputs: Sequence[int], **sizes: Any) -> None:
        super().__init__(n_inputs, **sizes)
        width, n_legs = sizes["width"], len(n_inputs)
        self.n_features = width
        self.joins = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width * (n_legs + (depth > 0)), width),
                nn.LayerNorm(width),
                nn.GELU(),
                nn.Dropout(sizes["dropout"]),
            )
            for depth in range(sizes["n_layers"] + 1)
        )

    def forward(self, frames: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
        """Return one vector of each utterance, shape (B, D).

        Args:
            frames: of each leg, shape (B, T, D') of its own.
            masks: of each leg, True where there is signal, shape (B, T).
        """
        hidden = self.project(frames)
        first, *joins = self.joins
        fused: Tensor = first(torch.cat(self.means(hidden, masks), dim=1))
        for join, layers in zip(joins, _by_depth(self.legs), strict=True):
            hidden = [
                layer(h, src_key_padding_mask=~mask)
                for layer, h, mask in zip(layers, hidden, masks, strict=True)
            ]
            fused = join(torch.cat([fused, *self.means(hidden, masks)], dim=1))
        return fused


class CrossFusion(_Fusion):
    """Legs that attend to their own frames and then to those of all others, layer by layer.

    The kind of fusion that UNICAMP's system of the same challenge names (cross-modal attention),
    here of torch's decoder layers and without recurrent ones. The means of all legs, side by side,
    go into the head.

    Args:
        n_inputs: as in `_Fusion`, like all others; of two legs at least.
        sizes: the same.
    """

    layer_class = nn.TransformerDecoderLayer

    def __init__(self, n_inputs: Sequence[int], **sizes: Any) -> None:
        super().__init__(n_inputs, **sizes)
        self.n_features = sizes["width"] * len(n_inputs)

    def forward(self, frames: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
        """Return one vector of each utterance, shape (B, legs x D); see `DeepFusion.forward`."""
        hidden = self.project(frames)
        for layers in _by_depth(self.legs):
            hidden = [
                layer(
                    h,
                    torch.cat(_others(hidden, idx), dim=1),
                    tgt_key_padding_mask=~masks[idx],
                    memory_key_padding_mask=~torch.cat(_others(masks, idx), dim=1),
                )
                for idx, (layer, h) in enumerate(zip(layers, hidden, strict=True))
            ]
        return torch.cat(self.means(hidden, masks), dim=1)


def _by_depth(legs: Any) -> list[tuple[nn.Module, ...]]:
    """Return the layers of all legs, depth by depth."""
    return list(zip(*legs, strict=True))


def _others(values: Sequence[Tensor], idx: int) -> list[Tensor]:
    return [value for place, value in enumerate(values) if place != idx]
