"""Low-rank adapters in a part of a published model, saved so that PEFT loads them into the whole.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, arXiv:2106.09685.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file
from torch import nn

__all__ = ["add_lora", "save_lora"]

_ADAPTER = "default"


def add_lora(
    module: nn.Module,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    target_modules: str | list[str],
) -> None:
    """Put adapters on linear layers of a pre-trained network; only they are trained.

    The result is unchanged at first, because one of each adapter's two matrices starts at zero.
    The adapters are float32 whatever the network's own type, quantised ones included.

    Args:
        module: changed in place; its own parameters are frozen.
        rank: of the adapters.
        alpha: their output is multiplied by alpha / rank.
        dropout: on their input.
        target_modules: the layers: ends of their names, or a regular expression for whole names.
            It is saved with the adapters, so it should fit the full model as well.
    """
    settings = LoraConfig(
        r=rank,
        lora_alpha=cast("int", alpha),  # PEFT only divides by it.
        lora_dropout=dropout,
        target_modules=target_modules,
    )
    inject_adapter_in_model(settings, cast("Any", module), adapter_name=_ADAPTER)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def save_lora(module: nn.Module, folder: Path, *, prefix: str, base: str) -> bool:
    """Write the adapters in PEFT's layout, with the keys of the full model.

    Args:
        module: one that went through `add_lora`; without adapters nothing is written.
        folder: gets adapter_config.json and adapter_model.safetensors.
        prefix: name of `module` in the full model with a full stop, such as "model.encoder.".
        base: path or hub id of the full model, written into adapter_config.json.

    Returns:
        False if there are no adapters.
    """
    settings = getattr(module, "peft_config", {}).get(_ADAPTER)
    if settings is None:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    settings.base_model_name_or_path = base
    settings.save_pretrained(folder)
    weights = get_peft_model_state_dict(
        cast("Any", module), adapter_name=_ADAPTER, save_embedding_layers=False
    )
    save_file(
        {
            f"base_model.model.{prefix}{key}": tensor.detach().cpu().contiguous()
            for key, tensor in weights.items()
        },
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    return True
