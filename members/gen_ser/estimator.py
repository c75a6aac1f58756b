"""The network that estimates a class encoding from a point on the bridge."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from abhinaya.errors import BadValueError

__all__ = ["AdaptiveNorm", "Estimator"]

_N_TIME_FEATURES = 64


class AdaptiveNorm(nn.Module):
    """RMS normalisation whose scale is one plus a linear function of the time; one at first.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, elementwise_affine=False)
        self.scale = nn.Linear(width, width)
        nn.init.zeros_(self.scale.weight)
        nn.init.zeros_(self.scale.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return normalised x, shape (B, D), given time features of the same shape."""
        normed: Tensor = self.norm(x) * (1 + self.scale(time))
        return normed


class _Layer(nn.Module):
    """A transformer layer that normalises first."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = AdaptiveNorm(width)
        self.attention = nn.MultiheadAttention(width, n_heads, batch_first=True)
        self.feed_forward_norm = AdaptiveNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        token = self.attention_norm(x, time).unsqueeze(1)
        heard, _ = self.attention(token, token, token, need_weights=False)
        x = x + self.dropout(heard.squeeze(1))
        fed: Tensor = self.dropout(self.feed_forward(self.feed_forward_norm(x, time)))
        return x + fed


class Estimator(nn.Module):
    """Encodings (B, D) from points (B, D), conditions (B, D) and times.

    Point and condition are joined, projected to D and pass transformer layers. How they would be
    cut into several tokens is not published; here they are one, over which attention is a linear
    map.

    Args:
        width: D.
        n_layers: transformer layers.
        n_heads: attention heads.
        dropout: after attention and feed-forward.

    Raises:
        BadValueError: if the heads do not divide the width.
    """

    frequencies: Tensor

    def __init__(self, width: int, *, n_layers: int, n_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % n_heads:
            raise BadValueError(
                f"estimator.n_heads is {n_heads}, which does not divide the width {width} of the "
                "features. Choose a divisor of it."
            )
        # From one to a thousand radians between the times 0 and 1.
        frequencies = torch.logspace(0, 3, _N_TIME_FEATURES // 2)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.time = nn.Sequential(
            nn.Linear(_N_TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.project = nn.Linear(2 * width, width)
        self.layers = nn.ModuleList(_Layer(width, n_heads, dropout) for _ in range(n_layers))
        self.norm = AdaptiveNorm(width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, condition: Tensor, t: Tensor) -> Tensor:
        """Return the estimate; `t` is one time for all, shape (), or one per row, shape (B, 1)."""
        angles = t.expand(len(x), 1) * self.frequencies
        time = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        x = self.project(torch.cat([x, condition], dim=1))
        for layer in self.layers:
            x = layer(x, time)
        estimate: Tensor = self.out(self.norm(x, time))
        return estimate
