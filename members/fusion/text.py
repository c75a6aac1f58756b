"""A published encoder of text: what it reads of a transcript, and its hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from abhinaya.errors import BadValueError, CheckpointError
from abhinaya.member import Utterance
from abhinaya.nn.backbone import Backbone, freeze
from abhinaya.nn.weight_files import (
    builds_skeletons,
    check_loading_report,
    read_model_config,
    unusable,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TextBackbone", "TokenInputs", "load_text_encoder", "longest_text"]

_MODEL_TYPES = (
    "bert",
    "deberta-v2",
    "distilbert",
    "electra",
    "modernbert",
    "roberta",
    "xlm-roberta",
)

# For guessing masked words, or classes: nothing of it is used here.
_NOT_THE_ENCODER = (
    "classifier.",
    "cls.",
    "decoder.",
    "discriminator_predictions.",
    "generator_",
    "head.",
    "lm_head.",
    "lm_predictions.",
    "mask_predictions.",
    "vocab_",
)


class TextBackbone(Backbone):
    """Hidden states of each token; neighbours in the batch change nothing.

    Args:
        encoder: what `load_text_encoder` gives.
        frozen: whether nothing of it is trained.
        layer_weights: return all hidden states (embeddings, then every block) instead of the last.
    """

    def __init__(self, encoder: PreTrainedModel, *, frozen: bool, layer_weights: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.layer_weights = layer_weights
        self.n_features = int(encoder.config.hidden_size)
        if frozen:
            freeze(encoder)

    @property
    def encode_settings(self) -> dict[str, Any]:
        """The option that changes what `forward_pretrained` returns."""
        return {"layer_weights": self.layer_weights}

    def forward_pretrained(self, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden states (B, N, L, D) and the mask of tokens, both of shape (B, L)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=mask.long(),
                output_hidden_states=self.layer_weights,
            )
            if not self.layer_weights:
                return outputs.last_hidden_state.unsqueeze(1), mask
            # That of the last block lacks the final norm in some families.
            states = [*outputs.hidden_states[:-1], outputs.last_hidden_state]
            return torch.stack(states, dim=1), mask

    def forward_trained(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last hidden state (B, L, D), and the mask as it came."""
        return states[:, -1], mask


class TokenInputs:
    """Token ids of the transcript with the tokenizer's own special tokens, padded on the right.

    Nothing in a transcript is taken for a special token.

    Args:
        tokenizer: of the encoder.
        max_tokens: longer texts lose their end, but keep the token that closes them.
        longest: tokens that the encoder knows positions for.

    Raises:
        BadValueError: if `max_tokens` is more.
    """

    needs_audio = False
    needs_text = True

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int, longest: int
    ) -> None:
        longest = min(longest, tokenizer.model_max_length)
        if max_tokens > longest:
            raise BadValueError(
                f"text.max_tokens is {max_tokens}, but the text encoder reads {longest} at most. "
                "Set it to that or less."
            )
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        pad = tokenizer.pad_token_id
        self._pad = pad if isinstance(pad, int) else 0

    def encode(self, utterance: Utterance) -> dict[str, Any]:
        """Return `input_ids`, one to `max_tokens` of them.

        Raises:
            BadValueError: if there is no transcript.
        """
        if utterance.text is None:
            raise BadValueError(
                f"{utterance.name!r} comes without a transcript, which the text encoder needs. "
                "Set data.transcripts to sources that have one."
            )
        # Not cut by the tokenizer: that is a state of it, and threads share it.
        encoded: Any = self.tokenizer(utterance.text, split_special_tokens=True, verbose=False)
        ids = list(encoded["input_ids"])
        if len(ids) > self.max_tokens:
            ids = [*ids[: self.max_tokens - 1], ids[-1]]
        return {"input_ids": ids or [self._pad]}

    def collate(self, encoded: list[dict[str, Any]]) -> dict[str, Any]:
        """Return `input_ids` and `mask`, both of shape (B, L)."""
        rows = [torch.tensor(row["input_ids"]) for row in encoded]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self._pad)
        lengths = torch.tensor([len(row) for row in rows])
        return {"input_ids": ids, "mask": torch.arange(ids.shape[1]) < lengths[:, None]}


def longest_text(base: str) -> int:
    """Return how many tokens an encoder knows positions for; `base` as for `load_text_encoder`."""
    config = read_text_config(base)
    # RoBERTa counts positions from behind its padding token on.
    offset = config.pad_token_id + 1 if "roberta" in config.model_type else 0
    return int(config.max_position_embeddings) - offset


def load_text_encoder(base: str) -> PreTrainedModel:
    """Load a published text encoder in float32, every key of its file accounted for.

    Args:
        base: folder with config.json and weights, or hub id such as `FacebookAI/roberta-large`.

    Raises:
        CheckpointError: if it is another kind of model, or its weights do not fit.
    """
    config = read_text_config(base)
    make_model: Any = AutoModel  # its methods have no types
    if builds_skeletons():
        with torch.device("meta"):
            encoder = make_model.from_config(config, dtype=torch.float32)
    else:
        try:
            encoder, report = make_model.from_pretrained(
                base,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # Reported below, with the others.
            )
        except Exception as err:  # a damaged file can fail in any way
            raise unusable(f"text.base {base!r}", err) from err
        check_loading_report(
            report,
            encoder,
            base,
            may_be_missing=lambda key: key.startswith("pooler."),
            may_be_left_over=lambda key: key.startswith(_NOT_THE_ENCODER),
        )
    if hasattr(encoder, "pooler"):
        # Of the first token alone; parameters without a gradient would stop distributed training.
        encoder.pooler = None
    return cast("PreTrainedModel", encoder.eval())


def read_text_config(base: str) -> Any:
    """Read the config of a text encoder, after a look whether it is one.

    Raises:
        CheckpointError: if it is none.
    """
    try:
        config = read_model_config(base)
    except OSError as err:
        raise unusable(f"text.base {base!r}", err) from err
    if config.model_type not in _MODEL_TYPES:
        raise CheckpointError(
            f"text.base {base!r} holds a model of type {config.model_type!r}, expected one of "
            f"{', '.join(_MODEL_TYPES)}. Correct text.base."
        )
    return config
