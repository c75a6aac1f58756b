"""What a classifier predicts beside the class, from the same embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from abhinaya.nn.losses.attributes import ccc_loss, share_loss, squared_error
from abhinaya.nn.recipe.attributes import AttributesConfig

__all__ = ["AttributeHeads"]


class AttributeHeads(nn.Module):
    """One linear layer per task on the input of the last linear layer of the classes.

    So all tasks shape the layer before it, and what they say of a row of several segments follows
    from the mean embedding, as its logits do. Arousal, valence and dominance are 1 + 6 sigmoid(z),
    inside [1, 7], as in MEDUSA. Like the classes' head it computes in the type of its weights, also
    under autocast.

    Args:
        n_inputs: width of the embedding.
        config: which tasks, and what each weighs.
    """

    def __init__(self, n_inputs: int, config: AttributesConfig) -> None:
        super().__init__()
        self.config = config
        self.out = nn.ModuleDict(
            {task: nn.Linear(n_inputs, width) for task, width in config.widths.items()}
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return outputs (B, N): values of the attributes first, then logits of the others.

        Args:
            embeddings: shape (B, n_inputs), as the classes' head returns them.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            outputs = [
                1 + 6 * layer(embeddings).sigmoid()
                if task in self.config.regressed
                else layer(embeddings)
                for task, layer in self.out.items()
            ]
        return torch.cat(outputs, dim=1)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the weighted sum of the losses of all tasks.

        Args:
            outputs: from `forward`, shape (B, N).
            targets: the truth in the same columns, NaN where unknown.
        """
        regression = ccc_loss if self.config.loss == "ccc" else squared_error
        total = outputs.new_zeros(())
        at = 0
        for task, width in self.config.widths.items():
            ours, truth = outputs[:, at : at + width], targets[:, at : at + width]
            at += width
            if task in self.config.regressed:
                found = regression(ours[:, 0], truth[:, 0])
            else:
                found = share_loss(ours, truth)
            total = total + getattr(self.config, task) * found
        return total
