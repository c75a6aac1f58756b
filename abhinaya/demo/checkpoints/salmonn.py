"""A tiny random SALMONN in the layout in which ByteDance publishes `salmonn_7b_v0.pth`.

Tang et al., "SALMONN: Towards Generic Hearing Abilities for Large Language Models", ICLR 2024,
arXiv:2310.13289. The file holds what SALMONN trained: adapters, Q-Former, projection and two norms.
Whisper, BEATs and the language model are files of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["write_salmonn"]

_N_BERT_POSITIONS = 512
_N_BEATS_BUCKETS = 320


def write_salmonn(
    file: Path,
    *,
    seed: int = 0,
    whisper_width: int = 64,
    beats_width: int = 32,
    beats_layers: int = 2,
    beats_heads: int = 4,
    llm_width: int = 64,
    llm_layers: int = 2,
    llm_heads: int = 4,
    llm_kv_heads: int | None = None,
    qformer_width: int = 32,
    qformer_layers: int = 2,
    qformer_ffn_width: int = 64,
    lora_rank: int = 8,
    lora_std: float = 0.1,
    speech_std: float = 0.12,
    extras: bool = True,
) -> None:
    """Write a tiny SALMONN, `{"model": tensors}` in float32, all with random values.

    The Q-Former is named as in BERT with the layers of BLIP-2 (Li et al. 2023, arXiv:2301.12597):
    one query, and cross-attention in every layer over Whisper's and BEATs' frames side by side.

    Args:
        file: the `.pth` file to write.
        seed: of the weights.
        whisper_width: width of Whisper's frames.
        beats_width: width of BEATs' frames.
        beats_layers: blocks of BEATs; only `extras` depend on it.
        beats_heads: attention heads of BEATs; only `extras` depend on it.
        llm_width: width of the language model.
        llm_layers: its blocks.
        llm_heads: its attention heads.
        llm_kv_heads: its heads of keys and values; None for as many.
        qformer_width: width of the Q-Former.
        qformer_layers: its layers.
        qformer_ffn_width: width between the two linear layers of its feed-forward parts.
        lora_rank: rank of the adapters of all query and value projections.
        lora_std: standard deviation of the second matrix of every adapter; 0 for adapters that
            change nothing, like fresh ones.
        speech_std: size of what goes into the language model; that of its embeddings lets speech
            and words weigh the same.
        extras: with the tensors that are no weights of their own, but are in the published files:
            `position_ids`, `inv_freq`, and all later copies of BEATs' one table of positions.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}

    def add(name: str, *shape: int, std: float, mean: float = 0.0) -> None:
        weights[name] = mean + std * torch.randn(*shape, generator=generator)

    def add_linear(name: str, n_out: int, n_in: int, scale: float = 1.0) -> None:
        # What goes through keeps its size.
        add(f"{name}.weight", n_out, n_in, std=scale * n_in**-0.5)
        add(f"{name}.bias", n_out, std=scale * 0.1)

    def add_norm(name: str, width: int) -> None:
        # Not one and zero, so that a norm that was not loaded shows.
        add(f"{name}.weight", width, std=0.1, mean=1.0)
        add(f"{name}.bias", width, std=0.1)

    def add_attention(name: str, n_in: int) -> None:
        add_linear(f"{name}.self.query", qformer_width, qformer_width)
        add_linear(f"{name}.self.key", qformer_width, n_in)
        add_linear(f"{name}.self.value", qformer_width, n_in)
        add_linear(f"{name}.output.dense", qformer_width, qformer_width)
        add_norm(f"{name}.output.LayerNorm", qformer_width)

    head_width = llm_width // llm_heads
    kv_width = head_width * (llm_kv_heads or llm_heads)
    add("speech_query_tokens", 1, 1, qformer_width, std=0.5)
    for layer in range(llm_layers):
        attention = f"llama_model.base_model.model.model.layers.{layer}.self_attn"
        for projection, n_out in (("q_proj", llm_width), ("v_proj", kv_width)):
            lora = f"{attention}.{projection}.lora_"
            add(f"{lora}A.default.weight", lora_rank, llm_width, std=llm_width**-0.5)
            add(f"{lora}B.default.weight", n_out, lora_rank, std=lora_std)
        if extras:
            rates = 10_000.0 ** -(torch.arange(0, head_width, 2) / head_width)
            weights[f"{attention}.rotary_emb.inv_freq"] = rates
    add_norm("ln_speech", whisper_width)
    # Drawn in any case, so that the extras change nothing else.
    table = torch.randn(_N_BEATS_BUCKETS, beats_heads, generator=generator)
    if extras:
        for layer in range(1, beats_layers):
            name = f"beats.encoder.layers.{layer}.self_attn.relative_attention_bias.weight"
            weights[name] = table
    add_norm("ln_audio", beats_width)
    bert = "speech_Qformer.bert"
    if extras:
        weights[f"{bert}.embeddings.position_ids"] = torch.arange(_N_BERT_POSITIONS)[None]
    add_norm(f"{bert}.embeddings.LayerNorm", qformer_width)
    for layer in range(qformer_layers):
        block = f"{bert}.encoder.layer.{layer}"
        add_attention(f"{block}.attention", qformer_width)
        add_attention(f"{block}.crossattention", whisper_width + beats_width)
        add_linear(f"{block}.intermediate_query.dense", qformer_ffn_width, qformer_width)
        add_linear(f"{block}.output_query.dense", qformer_width, qformer_ffn_width)
        add_norm(f"{block}.output_query.LayerNorm", qformer_width)
    add_linear("speech_llama_proj", llm_width, qformer_width, scale=speech_std)

    file.parent.mkdir(parents=True, exist_ok=True)
    # The name inside the archive would otherwise be that of the file.
    with file.open("wb") as stream:
        torch.save({"model": weights}, stream)
