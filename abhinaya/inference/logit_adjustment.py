"""Logits freed from the class prior of training, where the loss has not seen to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from abhinaya.errors import CheckpointError
from abhinaya.nn.classifier import EmotionClassifier

__all__ = ["adjust_logits", "facts_of_adjustment"]


def adjust_logits(
    model: EmotionClassifier, tau: float | None, facts: Mapping[str, Any], checkpoint: Path
) -> list[float] | None:
    """Take pi ** tau out of what a model predicts, by the bias of its last layer.

    With pi the share of a class among the training rows and a what training has absorbed already
    (`absorbed_prior`), the logit of a class becomes z - (tau * log pi - log a), so that in all
    pi ** tau is gone. At 0 the prior that training absorbed is put back.

    Source: Menon et al., "Long-tail Learning via Logit Adjustment", ICLR 2021, eq. 9,
    arXiv:2007.07314.

    Args:
        model: changed in place.
        tau: None changes nothing.
        facts: of the checkpoint.
        checkpoint: where they lie, for the message.

    Returns:
        The class prior absorbed from now on, pi ** tau scaled to sum to one; None for none.

    Raises:
        CheckpointError: if the facts do not have one row or more of each class.
    """
    absorbed: list[float] | None = facts.get("absorbed_prior")
    if tau is None:
        return absorbed
    counts = facts.get("class_counts") or []
    bias = model.head.last_linear.bias
    if len(counts) != len(bias) or min(counts) < 1:
        raise CheckpointError(
            f"inference.logit_adjustment is {tau:g}, but class_counts in "
            f"{str(checkpoint / 'facts.json')!r} is {counts or 'absent'}, and the prior of "
            f"{len(bias)} classes needs a training row of each. Remove it, or train the run again."
        )
    powers = tau * np.log(np.array(counts) / sum(counts))
    change = powers - (0 if absorbed is None else np.log(absorbed))
    with torch.no_grad():
        bias.sub_(torch.from_numpy(change).to(bias))
    shares = np.exp(powers)
    return (shares / shares.sum()).tolist() if tau else None


def facts_of_adjustment(tau: float | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a checkpoint's facts decides a table; nothing without an adjustment."""
    if tau is None:
        return {}
    return {key: facts.get(key) for key in ("class_counts", "absorbed_prior")}
