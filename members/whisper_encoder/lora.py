"""Low-rank adapters in Whisper's encoder, saved so that PEFT loads them into the full model.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, arXiv:2106.09685.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

__all__ = ["add_lora", "save_lora"]

_ADAPTER = "default"


def add_lora(
    encoder: WhisperEncoder, *, rank: int = 16, alpha: float = 32.0, dropout: float = 0.0
) -> None:
    """Put adapters on the feed-forward layers of an encoder's upper half; only they are trained.

    The result is unchanged at first, because one of each adapter's two matrices starts at zero. Of
    an odd number of layers the middle one belongs to the upper half.

    Args:
        encoder: changed in place; its own parameters are frozen.
        rank: of the adapters.
        alpha: their output is multiplied by alpha / rank.
        dropout: on their input.
    """
    from peft import LoraConfig, inject_adapter_in_model

    n_layers = encoder.config.encoder_layers
    upper_half = "|".join(str(idx) for idx in range(n_layers // 2, n_layers))
    settings = LoraConfig(
        r=rank,
        lora_alpha=cast("int", alpha),  # PEFT only divides by it.
        lora_dropout=dropout,
        # Fits the encoder on its own as well as inside the full model, and never the decoder.
        target_modules=rf"(model\.encoder\.)?layers\.({upper_half})\.fc[12]",
    )
    inject_adapter_in_model(settings, encoder, adapter_name=_ADAPTER)


def save_lora(encoder: WhisperEncoder, folder: Path) -> bool:
    """Write the adapters in PEFT's layout, with the keys of `WhisperForConditionalGeneration`.

    Args:
        encoder: one that went through `add_lora`; without adapters nothing is written.
        folder: gets adapter_config.json and adapter_model.safetensors.

    Returns:
        False if there are no adapters.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    settings = getattr(encoder, "peft_config", {}).get(_ADAPTER)
    if settings is None:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    settings.base_model_name_or_path = encoder.config.name_or_path
    settings.save_pretrained(folder)
    weights = get_peft_model_state_dict(encoder, adapter_name=_ADAPTER, save_embedding_layers=False)
    save_file(
        {
            f"base_model.model.model.encoder.{key}": tensor.detach().contiguous()
            for key, tensor in weights.items()
        },
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    return True
