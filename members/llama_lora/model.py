"""A causal language model as a backbone: token ids go in, its last hidden states come out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from abhinaya.errors import BadValueError, list_some
from abhinaya.nn.backbone import Backbone
from abhinaya.nn.lora import add_lora, save_lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["LanguageModelBackbone", "add_adapters"]


class LanguageModelBackbone(Backbone):
    """Normalised last hidden states of a causal language model, one per token.

    A token sees those before it only, and padding stands behind the text and is masked, so a row's
    features do not depend on its neighbours. There is no head over the vocabulary.

    Args:
        encoder: the bare language model, frozen but for its adapters.
    """

    encoder: PreTrainedModel

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.n_features = int(encoder.config.get_text_config().hidden_size)
        self.norm = nn.LayerNorm(self.n_features)

    def forward_pretrained(self, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return last hidden states, after the model's own final norm, and the mask as it came.

        Args:
            input_ids: shape (B, L), padded on the right.
            mask: True where a token is real, shape (B, L).

        Returns:
            states: shape (B, 1, L, D).
            mask: shape (B, L).
        """
        output = self.encoder(input_ids=input_ids, attention_mask=mask.long())
        return output.last_hidden_state.unsqueeze(1), mask

    def forward_trained(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return layer-normalised states (B, L, D), and the mask as it came."""
        return self.norm(states.squeeze(1).to(self.norm.weight.dtype)), mask

    def save_adapter(self, folder: Path) -> bool:
        """Write the adapters so that PEFT loads them into the causal language model."""
        prefix = f"{self.encoder.base_model_prefix}."
        return save_lora(
            self.encoder, folder, prefix=prefix, base=str(self.encoder.config.name_or_path)
        )


def add_adapters(
    encoder: PreTrainedModel,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    target_modules: Sequence[str],
) -> None:
    """Put low-rank adapters into a language model, after a look whether it has such layers.

    Args:
        encoder: the bare language model; changed in place.
        rank: see `add_lora`, as for the others.
        alpha: see there.
        dropout: see there.
        target_modules: ends of the layers' names.

    Raises:
        BadValueError: if a name belongs to no linear layer; the message lists those there are.
    """
    layers = [
        name for name, layer in encoder.named_modules() if isinstance(layer, nn.Linear | Conv1D)
    ]
    absent = [
        target
        for target in target_modules
        if not any(f".{name}".endswith(f".{target}") for name in layers)
    ]
    if absent:
        known = sorted({name.rpartition(".")[2] for name in layers})
        raise BadValueError(
            f"lora.target_modules names {list_some(absent)}, but no linear layer of the "
            f"{type(encoder).__name__} {encoder.config.name_or_path!r} is called so. Its layers "
            f"are called {', '.join(known)}. Correct lora.target_modules."
        )
    add_lora(encoder, rank=rank, alpha=alpha, dropout=dropout, target_modules=list(target_modules))
