"""Answers in words: the language model goes on where the prompt ends."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from members.salmonn.model import SalmonnBackbone

__all__ = ["generate_answers", "generate_ids"]


def generate_ids(
    backbone: SalmonnBackbone, batch: dict[str, Tensor], *, n_beams: int, max_new_tokens: int
) -> Tensor:
    """Return token ids behind the prompt, shape (B, longest), filled with the end sign.

    Args:
        backbone: with its head over the vocabulary.
        batch: model inputs.
        n_beams: of the search; 1 takes the likeliest token each time.
        max_new_tokens: longest answer.
    """
    context = {name: batch[name] for name in backbone.context}
    states, mask = backbone.find_states(batch)
    # On the left, because what is generated goes to the right.
    embeds, attention = backbone.embed(states, mask, context, pad="left")
    model: Any = backbone.llm
    ids: Tensor = model.generate(
        inputs_embeds=embeds.to(model.get_input_embeddings().weight.dtype),
        attention_mask=attention.long(),
        num_beams=n_beams,
        max_new_tokens=max_new_tokens,
        min_new_tokens=1,
        do_sample=False,
        # Vicuna's folder sets values for sampling, which would only cause warnings here.
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=model.config.eos_token_id,
    )
    return ids


def generate_answers(
    backbone: SalmonnBackbone,
    tokenizer: PreTrainedTokenizerBase,
    batch: dict[str, Tensor],
    *,
    n_beams: int,
    max_new_tokens: int,
    precision: str = "float32",
) -> list[str]:
    """Answer each row, without special tokens and blanks around it; see `generate_ids`."""
    import torch

    device = backbone.pad_row.device
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    cast = torch.autocast(device.type, dtype=types[precision]) if precision in types else None
    with torch.inference_mode(), cast or nullcontext():
        ids = generate_ids(
            backbone,
            {name: value.to(device) for name, value in batch.items()},
            n_beams=n_beams,
            max_new_tokens=max_new_tokens,
        )
    answers: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [answer.strip() for answer in answers]
