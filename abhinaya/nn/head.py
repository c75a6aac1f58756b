"""The classifier on top of an utterance's vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from abhinaya.errors import BadValueError, UnknownNameError

__all__ = ["EmotionHead"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}
_NORMS = ("layer", "none")


class EmotionHead(nn.Module):
    """Logits, and the embedding that they are a linear function of.

    Layers: `fc` -> `ln` if the norm is "layer" -> activation -> dropout -> `out`; the names are
    those of published checkpoints. Without hidden units: only `out`, a linear probe. The head
    computes in the type of its weights, also under autocast: it is small, and logits in bfloat16
    would tie.

    Args:
        n_inputs: width of the vector, as given by the pooling's `output_size`.
        n_classes: K.
        hidden: number of hidden units; 0 for a linear probe, which has no norm, activation or
            dropout.
        norm: "layer" (WavLM member) or "none" (SALMONN and LLaMA members).
        activation: "relu" (published) or "gelu".
        dropout: share of hidden units zeroed in training, in [0, 1).

    Raises:
        BadValueError: if a size or the dropout is out of range.
        UnknownNameError: if norm or activation is not one of the above.

    Example:
        >>> head = EmotionHead(n_inputs=6, n_classes=8, hidden=4).eval()
        >>> logits, embedding = head(torch.zeros(2, 6))
        >>> tuple(logits.shape), tuple(embedding.shape)
        ((2, 8), (2, 4))
    """

    def __init__(
        self,
        n_inputs: int,
        n_classes: int,
        hidden: int = 1024,
        norm: str = "layer",
        activation: str = "relu",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        _check(n_inputs, n_classes, hidden, norm, activation, dropout)
        self.hidden = hidden
        if hidden:
            self.fc = nn.Linear(n_inputs, hidden)
            self.ln = nn.LayerNorm(hidden) if norm == "layer" else nn.Identity()
            self.activation = _ACTIVATIONS[activation]()
            self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden or n_inputs, n_classes)

    @property
    def last_linear(self) -> nn.Linear:
        """The layer from embedding to logits."""
        return self.out

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and embeddings of a batch.

        Args:
            pooled: one vector per utterance, shape (B, n_inputs), any floating type.

        Returns:
            logits: shape (B, K), equal to embedding @ out.weight.T + out.bias.
            embedding: exactly what enters the last linear layer, in training after dropout; shape
                (B, hidden), or (B, n_inputs) without hidden units.
        """
        with torch.autocast(pooled.device.type, enabled=False):
            embedding = pooled.to(self.out.weight.dtype)
            if self.hidden:
                embedding = self.dropout(self.activation(self.ln(self.fc(embedding))))
            return self.out(embedding), embedding


def _check(
    n_inputs: int, n_classes: int, hidden: int, norm: str, activation: str, dropout: float
) -> None:
    if n_inputs < 1 or n_classes < 2 or hidden < 0:
        raise BadValueError(
            f"An emotion head got n_inputs={n_inputs}, n_classes={n_classes}, hidden={hidden}; "
            "expected at least 1 input, 2 classes and 0 hidden units. Correct the head's sizes."
        )
    if norm not in _NORMS:
        raise UnknownNameError("norm", norm, _NORMS)
    if activation not in _ACTIVATIONS:
        raise UnknownNameError("activation", activation, _ACTIVATIONS)
    if not 0 <= dropout < 1:
        raise BadValueError(
            f"dropout is {dropout}, expected a share in [0, 1). At 1 nothing would reach the "
            "output; 0 turns it off."
        )
