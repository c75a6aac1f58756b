"""A tiny random WavLM with an x-vector head, in the layout of `microsoft/wavlm-base-plus-sv`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

__all__ = ["write_xvector"]


def write_xvector(
    folder: Path,
    *,
    seed: int = 0,
    norm: Literal["layer", "group"] = "group",
    n_layers: int = 2,
    n_features: int = 32,
    n_conv_features: int = 16,
    xvector_size: int = 16,
    init_std: float = 0.1,
) -> None:
    """Write the checkpoint; the same arguments give the same bytes.

    Args:
        folder: gets config.json, model.safetensors and preprocessor_config.json.
        seed: of the weights.
        norm: "group" like the published model, "layer" like the large WavLM.
        n_layers: transformer blocks.
        n_features: D, their width; a multiple of 16.
        n_conv_features: width of the seven convolutions.
        xvector_size: width of the embedding of a clip.
        init_std: standard deviation of the weights. With the usual 0.02 so narrow a network would
            shrink every embedding to nothing.
    """
    import torch
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector

    config = cast("Any", WavLMConfig)(
        do_stable_layer_norm=norm == "layer",
        feat_extract_norm=norm,
        conv_dim=(n_conv_features,) * 7,
        hidden_size=n_features,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        intermediate_size=2 * n_features,
        use_weighted_layer_sum=True,
        tdnn_dim=(n_features,) * 4 + (2 * n_features,),  # kernels and dilations as published
        xvector_output_dim=xvector_size,
        initializer_range=init_std,
        num_labels=8,  # speakers of its training; that part is not used
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        WavLMForXVector(config).save_pretrained(folder)
    extractor = cast("Any", Wav2Vec2FeatureExtractor)(do_normalize=False)
    extractor.save_pretrained(folder)
