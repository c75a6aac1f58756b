"""What a language model reads of an utterance: the token ids of its transcript."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from abhinaya.errors import BadValueError
from abhinaya.member import Utterance

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TranscriptInputs"]


class TranscriptInputs:
    """Token ids of transcript and suffix, padded on the right.

    All of it is plain text: what looks like a special token is read letter by letter, so nobody can
    end the text by saying so. LLaMA 3.1 has no special token `</s>` in any case.

    Args:
        tokenizer: of the language model.
        suffix: text behind every transcript.
        max_tokens: longer texts lose their end, the suffix first.
        special_tokens: let the tokenizer add its own, such as one for the beginning.
    """

    needs_audio = False
    needs_text = True

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        suffix: str = "</s>",
        max_tokens: int = 128,
        special_tokens: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.suffix = suffix
        self.max_tokens = max_tokens
        self.special_tokens = special_tokens
        ends = [idx for idx in (tokenizer.bos_token_id, tokenizer.eos_token_id) if idx is not None]
        # Padding is masked, so any token will do; the published code takes the sign of the end.
        self._pad = int(ends[-1]) if ends else 0
        # What stands for a text without a single token.
        self._empty = [int(ends[0]) if ends else 0]

    def encode(self, utterance: Utterance) -> dict[str, Any]:
        """Return `input_ids`, one to `max_tokens` of them; an empty transcript is the suffix.

        Raises:
            BadValueError: if there is no transcript.
        """
        if utterance.text is None:
            raise BadValueError(
                f"{utterance.name!r} comes without a transcript, which the language model needs. "
                "Set data.transcripts to sources that have one."
            )
        encoded: Any = self.tokenizer(
            utterance.text + self.suffix,
            add_special_tokens=self.special_tokens,
            split_special_tokens=True,
            verbose=False,  # of texts longer than the model reads, which are cut here
        )
        return {"input_ids": list(encoded["input_ids"])[: self.max_tokens] or self._empty}

    def collate(self, encoded: list[dict[str, Any]]) -> dict[str, Any]:
        """Return `input_ids` and `mask`, both of shape (B, L)."""
        import torch

        rows = [row["input_ids"] for row in encoded]
        ids = np.full((len(rows), max(map(len, rows))), self._pad, dtype=np.int64)
        mask = np.zeros(ids.shape, dtype=bool)
        for idx, row in enumerate(rows):
            ids[idx, : len(row)] = row
            mask[idx, : len(row)] = True
        return {"input_ids": torch.from_numpy(ids), "mask": torch.from_numpy(mask)}
