"""What each member says as one row of probabilities, labels included, and their weighted sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembling.aligned import AlignedTables
from ensembling.learned.recipes import Fused, fuse

__all__ = ["WeighedOpinions", "member_opinions", "weigh_opinions"]


class WeighedOpinions:
    """A rule whose only parameters are `weights`, of members or of their classes."""

    def apply(
        self, parameters: Mapping[str, Any], aligned: AlignedTables, speakers: Sequence[str | None]
    ) -> Fused:
        """Add up the members' opinions by weight; see `LearnedRule.apply`."""
        weights = np.array(parameters["weights"])
        return fuse(weigh_opinions(member_opinions(aligned), weights), aligned)


def member_opinions(aligned: AlignedTables) -> NDArray[np.float64]:
    """Return probabilities, shape (M, U, K): zeros for an abstention, one for a bare label."""
    one_hot = np.eye(len(aligned.emotions) + 1)[aligned.labels, :-1]  # ABSTAIN takes the last row
    is_given = (aligned.has_voted & aligned.has_probs)[:, :, None]
    return np.where(is_given, aligned.probs, one_hot)


def weigh_opinions(
    opinions: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Add up opinions by weight, shape (U, K).

    Where only members without weight spoke, they count alike.

    Args:
        opinions: of `member_opinions`, shape (M, U, K).
        weights: not negative, shape (M,), or (M, K) for one per class.
    """
    per_class = weights if weights.ndim == 2 else weights[:, None]
    total = np.asarray((opinions * per_class[:, None, :]).sum(axis=0))
    unheard = total.sum(axis=1) == 0
    total[unheard] = opinions[:, unheard].sum(axis=0)
    return total
