"""How well a classifier's further tasks are done on the validation rows."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from abhinaya.evaluation.concordance import ccc
from abhinaya.nn.attribute_heads import AttributeHeads

__all__ = ["attribute_metrics"]


def attribute_metrics(
    heads: AttributeHeads, outputs: NDArray[np.float32], targets: NDArray[np.float32]
) -> dict[str, float]:
    """Return the CCC of each attribute, where there is one, and the loss of all tasks.

    Args:
        heads: of the model.
        outputs: what they predict, shape (U, N).
        targets: the truth, NaN where unknown.
    """
    columns = enumerate(heads.config.regressed)
    found = {f"ccc_{name}": ccc(outputs[:, idx], targets[:, idx]) for idx, name in columns}
    loss = heads.loss(torch.from_numpy(outputs), torch.from_numpy(targets)).item()
    return {key: value for key, value in found.items() if not math.isnan(value)} | {"loss": loss}
