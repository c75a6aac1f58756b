from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import WhisperForConditionalGeneration

from abhinaya.demo.checkpoints.encoders import write_whisper
from abhinaya.nn.lora import add_lora
from abhinaya.nn.whisper import load_encoder
from members.whisper_encoder.model import WhisperBackbone, upper_half


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("whisper")
    write_whisper(folder, chunk_s=1, n_layers=4, n_features=32)
    return str(folder)


def adapted(base: str, rank: int = 2, alpha: float = 4.0) -> Any:
    encoder: Any = load_encoder(base)
    add_lora(encoder, rank=rank, alpha=alpha, dropout=0.0, target_modules=upper_half(encoder))
    return encoder


def fill_adapters(encoder: torch.nn.Module) -> None:
    """Stands for training: the second matrices start at zero and would prove nothing."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)


def test_add_lora_trains_the_feed_forward_layers_of_the_upper_half_only(base: str) -> None:
    encoder = adapted(base)
    trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert trained == {
        f"layers.{layer}.{linear}.lora_{matrix}.default.weight"
        for layer in (2, 3)
        for linear in ("fc1", "fc2")
        for matrix in "AB"
    }
    shapes = {name: tuple(p.shape) for name, p in encoder.named_parameters()}
    assert shapes["layers.2.fc1.lora_A.default.weight"] == (2, 32)
    assert shapes["layers.2.fc1.lora_B.default.weight"] == (128, 2)


def test_add_lora_changes_nothing_before_training(base: str) -> None:
    features = torch.randn(1, 80, 100)
    encoder: Any = load_encoder(base)
    with torch.no_grad():
        expected = encoder(features).last_hidden_state
        add_lora(encoder, rank=16, alpha=32, dropout=0.0, target_modules=upper_half(encoder))
        assert torch.equal(encoder.eval()(features).last_hidden_state, expected)


def test_add_lora_scales_by_alpha_over_rank(base: str) -> None:
    encoder = adapted(base, rank=4, alpha=6.0)
    fill_adapters(encoder)
    linear = encoder.layers[3].fc1
    x = torch.randn(5, 32)
    low_rank = linear.lora_B["default"].weight @ linear.lora_A["default"].weight
    # 6 / 4
    expected = linear.base_layer(x) + 1.5 * x @ low_rank.T
    torch.testing.assert_close(linear.eval()(x), expected, rtol=0, atol=1e-4)


def test_backbone_with_adapters_trains_them_through_gradient_checkpointing(base: str) -> None:
    encoder = adapted(base)
    fill_adapters(encoder)
    backbone = WhisperBackbone(encoder, pointwise=()).train()
    backbone.enable_gradient_checkpointing()
    features, _ = backbone(
        {"input_features": torch.randn(1, 80, 100), "n_frames": torch.tensor([9])}
    )
    features.square().sum().backward()
    grads = {name for name, p in backbone.named_parameters() if p.grad is not None}
    assert len(grads) == 8
    assert all("lora_" in name for name in grads)
    assert all(p.grad.abs().sum() > 0 for p in backbone.parameters() if p.grad is not None)


@pytest.mark.parity
def test_saved_adapter_gives_the_full_model_in_peft_the_same_encoder(
    base: str, tmp_path: Path
) -> None:
    encoder = adapted(base, rank=3, alpha=5.0)
    fill_adapters(encoder)
    backbone = WhisperBackbone(encoder, pointwise=()).eval()
    assert backbone.save_adapter(tmp_path / "adapter")
    full: Any = WhisperForConditionalGeneration.from_pretrained(base)
    features = torch.randn(2, 80, 100)
    with torch.no_grad():
        without = full.eval().model.encoder(features).last_hidden_state
        theirs: Any = peft.PeftModel.from_pretrained(full, str(tmp_path / "adapter")).eval()
        expected = theirs.base_model.model.model.encoder(features).last_hidden_state
        ours, _ = backbone.forward_pretrained(features, torch.tensor([50, 50]))
    torch.testing.assert_close(ours[:, 0], expected, rtol=0, atol=1e-5)
    assert (expected - without).abs().max() > 0.1
    names = {name for name, _ in theirs.named_modules() if name.endswith("lora_B.default")}
    assert len(names) == 4
    assert not any("decoder" in name for name in names)
    for module in names:
        assert theirs.get_submodule(module).weight.abs().max() > 0


def test_saved_adapter_has_the_keys_and_settings_of_the_full_model(
    base: str, tmp_path: Path
) -> None:
    WhisperBackbone(adapted(base, rank=3), pointwise=()).save_adapter(tmp_path)
    keys = set(load_file(tmp_path / "adapter_model.safetensors"))
    assert len(keys) == 8
    assert "base_model.model.model.encoder.layers.3.fc2.lora_B.weight" in keys
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["r"] == 3
    assert settings["base_model_name_or_path"] == base
    target = settings["target_modules"]
    assert re.fullmatch(target, "model.encoder.layers.2.fc1")
    assert not re.fullmatch(target, "model.encoder.layers.1.fc1")
    assert not re.fullmatch(target, "model.decoder.layers.2.fc1")


def test_save_adapter_without_adapters_writes_nothing(base: str, tmp_path: Path) -> None:
    assert not WhisperBackbone(load_encoder(base)).save_adapter(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
