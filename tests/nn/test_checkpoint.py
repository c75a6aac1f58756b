from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from abhinaya.config import apply_overrides
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.demo.checkpoints.encoders import write_wavlm, write_whisper
from abhinaya.errors import CheckpointError, MissingFileError
from abhinaya.member_config import check_member_config
from abhinaya.nn.build import build_classifier
from abhinaya.nn.checkpoint import load_weights, read_info, save_checkpoint
from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.registry import load_member

Build = Callable[..., Any]

HEAD = {f"head.{part}" for part in ("fc.weight", "fc.bias", "ln.weight", "ln.bias")} | {
    *("head.out.weight", "head.out.bias"),
}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A function that gives an untrained tiny member; another seed gives another head."""
    folder = tmp_path_factory.mktemp("bases")
    write_wavlm(folder / "wavlm", n_layers=1, n_features=16, n_conv_features=8)
    write_whisper(folder / "whisper-encoder", chunk_s=1, n_layers=2, n_features=16)

    def make(member: str, *overrides: str, seed: int = 0) -> EmotionClassifier:
        content = {
            **{"member": member, "name": "x", "run_dir": "x", "base": str(folder / member)},
            **{"data": {"manifest": "x"}, "audio": {"max_audio_s": 1}, "head": {"hidden": 4}},
            **{"pooling": "mean", "training": {"global_batch_size": 1}},
        }
        config: Any = check_member_config(apply_overrides(content, overrides), "x")
        kind: Any = load_member(member)
        torch.manual_seed(seed)
        return build_classifier(kind, config, len(MSP_PODCAST)).eval()

    return make


def save(model: EmotionClassifier, folder: Path) -> Path:
    folder.mkdir()
    save_checkpoint(
        folder,
        model,
        config_yaml="seed: 4\n",
        emotions=MSP_PODCAST,
        metrics={"macro_f1": 0.5, "step": 3},
        facts={"digest": "d1", "absorbed_prior": None},
    )
    return folder


def wavlm_inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    waveforms = 0.1 * torch.randn(2, 4000, generator=generator)
    return {"waveforms": waveforms, "mask": torch.ones(2, 4000, dtype=torch.bool)}


def whisper_inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 80, 100, generator=generator)
    return {"input_features": features, "n_frames": torch.tensor([50, 20])}


def logits_of(model: EmotionClassifier, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        logits = model(inputs).logits
    assert isinstance(logits, Tensor)
    return logits


def fill_adapters(model: EmotionClassifier) -> None:
    """Stands for training: the second matrices start at zero and would prove nothing."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()


def test_checkpoint_wavlm_with_frozen_convolutions_holds_the_rest(
    build: Build, tmp_path: Path
) -> None:
    state = load_file(save(build("wavlm"), tmp_path / "best") / "model.safetensors")
    block = "backbone.encoder.encoder.layers.0"
    convolution = "backbone.encoder.encoder.pos_conv_embed.conv"
    expected = HEAD | {
        "backbone.encoder.masked_spec_embed",
        "backbone.encoder.feature_projection.layer_norm.weight",
        "backbone.encoder.feature_projection.layer_norm.bias",
        "backbone.encoder.feature_projection.projection.weight",
        "backbone.encoder.feature_projection.projection.bias",
        f"{convolution}.bias",
        f"{convolution}.parametrizations.weight.original0",
        f"{convolution}.parametrizations.weight.original1",
        f"{block}.attention.gru_rel_pos_const",
        f"{block}.attention.rel_attn_embed.weight",
        "backbone.encoder.encoder.layer_norm.weight",
        "backbone.encoder.encoder.layer_norm.bias",
    }
    linear = ("k_proj", "v_proj", "q_proj", "out_proj", "gru_rel_pos_linear")
    parts = [f"attention.{name}" for name in linear]
    parts += ["feed_forward.intermediate_dense", "feed_forward.output_dense"]
    parts += ["layer_norm", "final_layer_norm"]
    expected |= {f"{block}.{part}.{kind}" for part in parts for kind in ("weight", "bias")}
    assert set(state) == expected
    assert len(state) == 36


def test_checkpoint_wavlm_with_frozen_encoder_holds_mix_and_head(
    build: Build, tmp_path: Path
) -> None:
    model = build("wavlm", "freeze=encoder", "layer_weights=true", "standardize=true")
    state = load_file(save(model, tmp_path / "best") / "model.safetensors")
    mix = {f"backbone.layer_mix.{name}" for name in ("weights", "mean", "std")}
    assert set(state) == HEAD | mix


def test_checkpoint_whisper_with_adapters_holds_adapters_and_head(
    build: Build, tmp_path: Path
) -> None:
    model = build("whisper-encoder", "lora.rank=2", "pointwise=[8]")
    folder = save(model, tmp_path / "best")
    # Of two layers the second one is the upper half.
    lora = {
        f"backbone.encoder.layers.1.{linear}.lora_{matrix}.default.weight"
        for linear in ("fc1", "fc2")
        for matrix in "AB"
    }
    pointwise = {"backbone.pointwise.0.weight", "backbone.pointwise.0.bias"}
    assert set(load_file(folder / "model.safetensors")) == HEAD | lora | pointwise
    assert sorted(path.name for path in (folder / "adapter").iterdir()) == [
        *("adapter_config.json", "adapter_model.safetensors"),
    ]


def test_checkpoint_without_adapters_has_no_adapter_folder(build: Build, tmp_path: Path) -> None:
    folder = save(build("whisper-encoder"), tmp_path / "best")
    assert not (folder / "adapter").exists()


def test_checkpoint_adapter_gives_the_full_whisper_the_same_encoder(
    build: Build, tmp_path: Path
) -> None:
    model = build("whisper-encoder", "lora.rank=2", "pointwise=[]")
    fill_adapters(model)
    folder = save(model, tmp_path / "best")
    base = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    theirs: Any = WhisperForConditionalGeneration.from_pretrained(base["base_model_name_or_path"])
    before = theirs.model.encoder(whisper_inputs()["input_features"]).last_hidden_state
    adapted: Any = peft.PeftModel.from_pretrained(theirs, str(folder / "adapter"))
    with torch.no_grad():
        features = whisper_inputs()["input_features"]
        expected = adapted.base_model.model.model.encoder(features).last_hidden_state
        ours, _ = model.backbone.forward_pretrained(**whisper_inputs())
    assert not torch.allclose(before, expected, atol=1e-2)
    torch.testing.assert_close(ours[:, 0], expected[:, :50], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("member", "overrides", "inputs"),
    [
        ("wavlm", ("freeze=convolutions",), wavlm_inputs()),
        ("wavlm", ("freeze=encoder", "layer_weights=true", "standardize=true"), wavlm_inputs()),
        ("whisper-encoder", ("lora.rank=2", "pointwise=[8, 8]"), whisper_inputs()),
    ],
)
def test_checkpoint_loaded_gives_the_same_logits(
    build: Build,
    tmp_path: Path,
    member: str,
    overrides: tuple[str, ...],
    inputs: dict[str, Tensor],
) -> None:
    saved, loaded = build(member, *overrides, seed=1), build(member, *overrides, seed=2)
    fill_adapters(saved)
    expected = logits_of(saved, inputs)
    assert not torch.equal(logits_of(loaded, inputs), expected)
    load_weights(save(saved, tmp_path / "best"), loaded)
    assert torch.equal(logits_of(loaded, inputs), expected)


@pytest.fixture
def best(build: Build, tmp_path: Path) -> Path:
    return save(build("wavlm", "freeze=encoder"), tmp_path / "best")


def rewrite(best: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    state = load_file(best / "model.safetensors")
    change(state)
    save_file(state, best / "model.safetensors", metadata={"format": "pt"})


def test_load_weights_missing_key_raises_with_its_name(build: Build, best: Path) -> None:
    rewrite(best, lambda state: [state.pop(f"head.{layer}.bias") for layer in ("out", "fc")])
    with pytest.raises(
        CheckpointError,
        match=r"2 of 6 keys do not fit between .* and the model of its config: "
        r"missing: 'head\.fc\.bias', 'head\.out\.bias'\. Use the checkpoint with",
    ):
        load_weights(best, build("wavlm", "freeze=encoder"))


def test_load_weights_unexpected_key_raises_with_its_name(build: Build, best: Path) -> None:
    rewrite(best, lambda state: state.update(stray=torch.zeros(1)))
    with pytest.raises(CheckpointError, match=r"1 of 6 keys .* unexpected: 'stray'"):
        load_weights(best, build("wavlm", "freeze=encoder"))


def test_load_weights_frozen_key_is_unexpected(build: Build, best: Path) -> None:
    # A key that the model has, but that was never trained: not taken silently either.
    name = "backbone.encoder.masked_spec_embed"
    rewrite(best, lambda state: state.update({name: torch.zeros(16)}))
    with pytest.raises(CheckpointError, match=rf"1 of 6 keys .* unexpected: '{name}'"):
        load_weights(best, build("wavlm", "freeze=encoder"))


def test_load_weights_other_shape_raises_with_both(build: Build, best: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"5 of 6 keys .* size mismatch for head\.fc\.weight: \(4, 16\) against \(6, 16\).*"
        r"; and 2 more",
    ):
        load_weights(best, build("wavlm", "freeze=encoder", "head.hidden=6"))


def test_load_weights_all_problems_come_together(build: Build, best: Path) -> None:
    def change(state: dict[str, Tensor]) -> None:
        state["stray"] = state.pop("head.out.weight")

    rewrite(best, change)
    with pytest.raises(CheckpointError, match=r"6 of 6 .* missing: .*; unexpected: .*; size"):
        load_weights(best, build("wavlm", "freeze=encoder", "head.hidden=6"))


def test_load_weights_damaged_file_raises(build: Build, best: Path) -> None:
    file = best / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"cannot be read: .*damaged; train again"):
        load_weights(best, build("wavlm", "freeze=encoder"))


def test_read_info_gives_what_was_saved(best: Path) -> None:
    info = read_info(best)
    assert info.config == {"seed": 4}
    assert info.emotions == MSP_PODCAST
    assert info.metrics == {"macro_f1": 0.5, "step": 3}
    assert info.facts == {"digest": "d1", "absorbed_prior": None}


def test_read_info_of_an_unfinished_run_raises_with_the_missing_files(best: Path) -> None:
    (best / "facts.json").unlink()
    with pytest.raises(MissingFileError, match=r"no checkpoint: facts\.json is missing\. Name the"):
        read_info(best)
    (best / "model.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"facts\.json, model\.safetensors are missing"):
        read_info(best)
