"""Tiny random Whispers that transcribe, the same weights in both published layouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from abhinaya.demo.checkpoints.encoders import write_whisper, write_whisper_openai

ENGLISH, MULTILINGUAL = 51864, 51865
EOT, NO_SPEECH = 50257, 50362
"""Tokens of the multilingual vocabulary that end a text, and that say that there is none."""

Embedding = torch.Tensor


class Layouts(NamedTuple):
    """One model, twice on disk."""

    hub: Path
    openai: Path


def write_tiny(
    folder: Path,
    change: Callable[[dict[str, torch.Tensor]], None] | None = None,
    **size: Any,
) -> Layouts:
    """Both layouts of one random model whose texts differ from clip to clip.

    `change` gets the tensors of the decoder that it may alter: the embedding, the weight and the
    bias of the last normalisation.
    """
    size = {"n_layers": 2, "n_features": 64, "init_std": 0.3, "n_tokens": MULTILINGUAL} | size
    layouts = Layouts(folder / "hub", folder / "tiny.pt")
    write_whisper(layouts.hub, **size)
    write_whisper_openai(layouts.openai, **size)
    if change is not None:
        hub = load_file(layouts.hub / "model.safetensors")
        names = ("embed_tokens.weight", "layer_norm.weight", "layer_norm.bias")
        change({name: hub[f"model.decoder.{name}"] for name in names})
        save_file(hub, layouts.hub / "model.safetensors", metadata={"format": "pt"})
        openai = torch.load(layouts.openai, weights_only=True)
        theirs = ("token_embedding.weight", "ln.weight", "ln.bias")
        for ours, name in zip(names, theirs, strict=True):
            openai["model_state_dict"][f"decoder.{name}"] = hub[f"model.decoder.{ours}"]
        torch.save(openai, layouts.openai)
    return layouts


def end_early(decoder: dict[str, torch.Tensor]) -> None:
    """Let texts end after some tokens, some sooner than others."""
    decoder["embed_tokens.weight"][EOT] *= 2


def hear_nothing(decoder: dict[str, torch.Tensor]) -> None:
    """Let the model be sure that there is no speech, in whatever it hears."""
    decoder["layer_norm.bias"][0] += 10
    decoder["embed_tokens.weight"][:, 0] = 0
    decoder["embed_tokens.weight"][NO_SPEECH, 0] = 10
