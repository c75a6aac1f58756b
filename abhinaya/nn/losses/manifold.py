"""Manifold mixup: the vectors of two rows of a batch become one, and so do their losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from abhinaya.nn.recipe.mixing import ManifoldMixing

__all__ = ["Mix", "draw_mix"]


@dataclass(frozen=True)
class Mix:
    """How the rows of one batch are mixed.

    Args:
        share: of the row itself, in [0, 1].
        partners: the row that each is mixed with, shape (B,).
    """

    share: float
    partners: Tensor

    def vectors(self, pooled: Tensor) -> Tensor:
        """Return the mixed vectors, shape (B, D)."""
        return self.share * pooled + (1 - self.share) * pooled[self.partners.to(pooled.device)]

    def loss(
        self, function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor
    ) -> Tensor:
        """Return the loss of mixed rows: that of either label, weighted."""
        theirs = labels[self.partners.to(labels.device)]
        return self.share * function(logits, labels) + (1 - self.share) * function(logits, theirs)


def draw_mix(config: ManifoldMixing, n_rows: int) -> Mix | None:
    """Draw how a batch is mixed; None where chance leaves it alone.

    All is drawn from torch's generator of the CPU, which a checkpoint holds: a resumed run draws
    what an undisturbed one does.
    """
    if torch.rand((), device="cpu").item() >= config.probability:
        return None
    share = torch.distributions.Beta(config.alpha, config.alpha).sample().item()
    return Mix(share, torch.randperm(n_rows, device="cpu"))
