"""Adapters in a language model; those of Whisper have their tests with the member."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from abhinaya.nn.lora import add_lora, save_lora

TOKENS = torch.tensor([[1, 5, 9, 3], [2, 2, 8, 7]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.5,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def adapted(base: str, dtype: torch.dtype = torch.float32) -> Any:
    model: Any = LlamaModel.from_pretrained(base, dtype=dtype)
    add_lora(model, rank=2, alpha=8.0, dropout=0.0, target_modules=["q_proj", "v_proj"])
    return model


def fill_adapters(model: nn.Module) -> None:
    """Stands for training: the second matrices start at zero and would prove nothing."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)


def test_add_lora_trains_the_named_layers_only(base: str) -> None:
    trained = {name for name, p in adapted(base).named_parameters() if p.requires_grad}
    assert trained == {
        f"layers.{layer}.self_attn.{linear}.lora_{matrix}.default.weight"
        for layer in (0, 1)
        for linear in ("q_proj", "v_proj")
        for matrix in "AB"
    }


def test_add_lora_in_a_half_precision_model_is_float32(base: str) -> None:
    model = adapted(base, torch.bfloat16)
    dtypes = {p.dtype for p in model.parameters() if p.requires_grad}
    assert dtypes == {torch.float32}
    assert model.embed_tokens.weight.dtype == torch.bfloat16
    states = model(TOKENS).last_hidden_state
    assert states.dtype == torch.bfloat16
    states.float().sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parity
def test_saved_adapter_gives_the_causal_model_in_peft_the_same_states(
    base: str, tmp_path: Path
) -> None:
    model = adapted(base)
    fill_adapters(model)
    assert save_lora(model, tmp_path / "adapter", prefix="model.", base=base)
    full: Any = LlamaForCausalLM.from_pretrained(base)
    with torch.no_grad():
        ours = model.eval()(TOKENS).last_hidden_state
        without = full.eval().model(TOKENS).last_hidden_state
        theirs: Any = peft.PeftModel.from_pretrained(full, str(tmp_path / "adapter")).eval()
        expected = theirs.base_model.model.model(TOKENS).last_hidden_state
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    assert (expected - without).abs().max() > 0.1
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == base
    assert sorted(settings["target_modules"]) == ["q_proj", "v_proj"]
    keys = set(load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    assert len(keys) == 8
    assert "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight" in keys


def test_save_lora_without_adapters_writes_nothing(tmp_path: Path) -> None:
    assert not save_lora(nn.Linear(1, 1), tmp_path / "adapter", prefix="", base="x")
    assert not (tmp_path / "adapter").exists()
