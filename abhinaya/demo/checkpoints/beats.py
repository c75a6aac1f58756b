"""A tiny random BEATs in the layout in which the real one is published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["write_beats"]

_PATCH = 16
_N_HEADS = 4
_N_CLASSES = 527  # sound events of AudioSet


def write_beats(
    file: Path,
    *,
    seed: int = 0,
    n_layers: int = 2,
    n_features: int = 32,
    embed_dim: int = 16,
    fine_tuned: bool = True,
) -> None:
    """Write a BEATs checkpoint with all keys of the published; one seed gives the same bytes.

    The weights are large enough that different sounds get clearly different features.

    Args:
        file: the `.pt` file to write.
        seed: of the weights.
        n_layers: transformer layers.
        n_features: D, their width; a multiple of 16.
        embed_dim: width of a patch; other than D, or there would be no projection.
        fine_tuned: with the classifier of sound events that the fine-tuned files have.
    """
    import torch

    cfg = {
        "encoder_layers": n_layers,
        "encoder_embed_dim": n_features,
        "encoder_ffn_embed_dim": 2 * n_features,
        "encoder_attention_heads": _N_HEADS,
        "activation_fn": "gelu",
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.05,
        "dropout_input": 0.0,
        "layer_norm_first": False,
        "conv_bias": False,
        "conv_pos": 128,
        "conv_pos_groups": 16,
        "relative_position_embedding": True,
        "num_buckets": 320,
        "max_distance": 800,
        "gru_rel_pos": True,
        "deep_norm": True,
        "input_patch_size": _PATCH,
        "layer_wise_gradient_decay_ratio": 0.6,
        "embed_dim": embed_dim,
    }
    if fine_tuned:
        cfg |= {
            "finetuned_model": True,
            "predictor_dropout": 0.0,
            "predictor_class": _N_CLASSES,
        }
    generator = torch.Generator().manual_seed(seed)
    model = {
        name: mean + std * torch.randn(shape, generator=generator)
        for name, shape, mean, std in _tensors(cfg)
    }
    # One table, repeated under every layer.
    table = model[_table_name(0)]
    model |= {_table_name(layer): table.clone() for layer in range(1, n_layers)}
    file.parent.mkdir(parents=True, exist_ok=True)
    # The name inside the archive would otherwise be that of the file.
    with file.open("wb") as stream:
        torch.save({"cfg": cfg, "model": model}, stream)


def _table_name(layer: int) -> str:
    return f"encoder.layers.{layer}.self_attn.relative_attention_bias.weight"


_Spec = tuple[str, tuple[int, ...], float, float]
"""Name, shape, mean and standard deviation of a tensor."""


def _tensors(cfg: dict[str, Any]) -> Iterator[_Spec]:
    patch_width, width = cfg["embed_dim"], cfg["encoder_embed_dim"]
    kernel = cfg["conv_pos"]
    yield from _linear("post_extract_proj", patch_width, width)
    yield "patch_embedding.weight", (patch_width, 1, _PATCH, _PATCH), 0.0, 1.0 / _PATCH
    yield "encoder.pos_conv.0.bias", (width,), 0.0, 0.1
    yield "encoder.pos_conv.0.weight_g", (1, 1, kernel), 0.3, 0.05
    yield "encoder.pos_conv.0.weight_v", (width, width // cfg["conv_pos_groups"], kernel), 0.0, 1.0
    yield _table_name(0), (cfg["num_buckets"], _N_HEADS), 0.0, 0.5
    for layer in range(cfg["encoder_layers"]):
        prefix = f"encoder.layers.{layer}."
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from _linear(f"{prefix}self_attn.{name}", width, width)
        yield from _linear(f"{prefix}self_attn.grep_linear", width // _N_HEADS, 8)
        yield f"{prefix}self_attn.grep_a", (1, _N_HEADS, 1, 1), 1.0, 0.3
        yield from _norm(f"{prefix}self_attn_layer_norm", width)
        yield from _linear(f"{prefix}fc1", width, cfg["encoder_ffn_embed_dim"])
        yield from _linear(f"{prefix}fc2", cfg["encoder_ffn_embed_dim"], width)
        yield from _norm(f"{prefix}final_layer_norm", width)
    yield from _norm("encoder.layer_norm", width)
    yield from _norm("layer_norm", patch_width)
    if cfg.get("finetuned_model"):
        yield from _linear("predictor", width, cfg["predictor_class"])


def _linear(name: str, n_in: int, n_out: int) -> Iterator[_Spec]:
    yield f"{name}.weight", (n_out, n_in), 0.0, n_in**-0.5
    yield f"{name}.bias", (n_out,), 0.0, 0.1


def _norm(name: str, width: int) -> Iterator[_Spec]:
    yield f"{name}.weight", (width,), 1.0, 0.1
    yield f"{name}.bias", (width,), 0.0, 0.1
