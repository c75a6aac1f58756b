"""The encoders of a fusion: which hidden states, frozen or not, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

from abhinaya.demo.checkpoints.encoders import write_whisper_openai
from abhinaya.demo.checkpoints.llama import write_llama
from abhinaya.errors import BadValueError, CheckpointError, MissingFileError
from abhinaya.export.export import require_exportable
from abhinaya.member import Utterance
from abhinaya.nn.build import build_classifier
from abhinaya.nn.classifier import EmotionClassifier
from members.fusion.config import FusionConfig
from members.fusion.member import MEMBER

MakeConfig = Callable[..., FusionConfig]

TUNED = {
    "encoders": {"wavlm": {"freeze": "convolutions"}, "whisper": {"freeze": "nothing"}},
    "text": {"freeze": "nothing"},
}


def utterances() -> list[Utterance]:
    rng = np.random.default_rng(0)
    texts = ("so late again", "", "I never thought that this could ever happen to me")
    return [
        Utterance(f"u{idx}", rng.normal(size=n).astype(np.float32), text)
        for idx, (n, text) in enumerate(zip((9_000, 400, 20_000), texts, strict=True))
    ]


def build(config: FusionConfig) -> tuple[EmotionClassifier, dict[str, Any]]:
    """The model in evaluation mode, and a batch of three utterances."""
    torch.manual_seed(0)
    model = build_classifier(MEMBER, config, 4, [1, 1, 1, 1]).eval()
    inputs = MEMBER.build_inputs(config)
    assert (inputs.needs_audio, inputs.needs_text) == (bool(config.encoders), bool(config.text))
    return model, dict(inputs.collate([inputs.encode(u) for u in utterances()]))


@pytest.mark.parametrize("layer", ["last", "mean", "weighted", 0, 1, 2])
def test_leg_gets_the_hidden_states_that_the_config_names(
    layer: Any, make_config: MakeConfig, bases: Path
) -> None:
    config = make_config(encoders={"wavlm": {"layer": layer}, "whisper": None}, text=None)
    model, batch = build(config)
    states, mask = model.backbone.find_states(batch)
    ours: Any = states["wavlm"]
    encoder: Any = AutoModel.from_pretrained(bases / "wavlm").eval()
    with torch.no_grad():
        wave = batch["wavlm.waveforms"][:1, :9_000]
        outputs = encoder(wave, output_hidden_states=True)
    every = torch.stack([*outputs.hidden_states[:-1], outputs.last_hidden_state], dim=1)
    theirs = {"last": every[:, -1:], "mean": every.mean(1, keepdim=True), "weighted": every}
    expected = theirs.get(layer, every[:, layer, None] if isinstance(layer, int) else None)
    n_frames = int(mask["wavlm"][0].sum())
    torch.testing.assert_close(ours[:1, :, :n_frames], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fusion", ["deep", "cross-attention"])
def test_batch_gives_each_utterance_what_it_has_alone(fusion: str, make_config: MakeConfig) -> None:
    config = make_config(fusion=fusion)
    model, batch = build(config)
    inputs = MEMBER.build_inputs(config)
    with torch.no_grad():
        together = model(batch).logits
        for row, utterance in enumerate(utterances()):
            alone = model(dict(inputs.collate([inputs.encode(utterance)]))).logits[0]
            torch.testing.assert_close(alone, together[row], atol=1e-5, rtol=1e-5)
    assert float(together.std(dim=0).max()) > 1e-3


def test_frozen_encoders_stay_as_they_are_and_all_legs_learn(make_config: MakeConfig) -> None:
    model, batch = build(make_config(encoders={"whisper": {"layer": "weighted"}}))
    model.train()
    assert model.training
    for leg in model.backbone.parts.values():
        assert not any(module.training for module in leg.encoder.modules())
    model(batch, labels=torch.tensor([0, 1, 2])).loss.backward()
    grads = {n: p.grad is not None for n, p in model.named_parameters()}
    assert {n for n, has in grads.items() if ".encoder." in n and has} == set()
    assert {n for n, has in grads.items() if ".encoder." not in n and not has} == set()
    assert "backbone.legs.whisper.layer_mix.weights" in grads
    assert not any(".encoder." in name for name in model.trained_names())
    assert model.backbone.is_frozen


@pytest.mark.parametrize("checkpointing", [False, True])
def test_tuned_encoders_all_get_gradients(make_config: MakeConfig, checkpointing: bool) -> None:
    """One parameter without a gradient would stop a training with several processes."""
    model, batch = build(make_config(**TUNED))
    model.train()
    if checkpointing:
        model.activation_checkpointing_enable()
    for _ in range(3):  # a layer may be dropped
        model(batch, labels=torch.tensor([0, 1, 2])).loss.backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None] == []
    for leg in ("wavlm", "whisper", "text"):
        assert any(name.startswith(f"backbone.legs.{leg}.encoder.") for name in trained)


def test_layers_for_fsdp_are_those_of_encoders_and_legs(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    model, _ = build(make_config())
    assert model.backbone.repeated_layers == [
        "RobertaLayer",
        "TransformerEncoderLayer",
        "WavLMEncoderLayerStableLayerNorm",
        "WavLMLayerNormConvLayer",
        "WhisperEncoderLayer",
    ]
    # With group norm clips run one by one, more of them in one process than in another.
    from abhinaya.demo.checkpoints.encoders import write_wavlm

    write_wavlm(tmp_path / "group", norm="group", n_layers=1, n_features=16, n_conv_features=8)
    grouped = make_config(encoders={"wavlm": {"base": str(tmp_path / "group")}})
    assert build(grouped)[0].backbone.repeated_layers == []


def test_file_of_openai_whisper_is_heard(make_config: MakeConfig, tmp_path: Path) -> None:
    write_whisper_openai(tmp_path / "w.pt", chunk_s=2, n_layers=1, n_features=16)
    base = {"base": str(tmp_path / "w.pt")}
    model, batch = build(make_config(encoders={"whisper": base, "wavlm": None}, text=None))
    assert model(batch).logits.shape == (3, 4)


def test_layer_that_is_not_there_raises(make_config: MakeConfig) -> None:
    wrong = {"whisper": {"layer": 3}}
    message = r"encoders\.whisper\.layer is 3, but the encoder has 2 blocks\. Give a number from 0"
    with pytest.raises(BadValueError, match=message):
        build(make_config(encoders=wrong))
    with pytest.raises(BadValueError, match=r"text\.layer is 9, but the encoder has 1 blocks"):
        build(make_config(text={"layer": 9}))


def test_absent_encoder_raises(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"There is no '/absent/hubert'"):
        build(make_config(encoders={"hubert": {"base": "/absent/hubert"}}))
    with pytest.raises(MissingFileError, match=r"There is no '/absent/bert'"):
        build(make_config(text={"base": "/absent/bert"}))
    # A folder, but not of a model.
    with pytest.raises(CheckpointError, match=r"The config\.json of '.*' cannot be used"):
        build(make_config(encoders={"hubert": {"base": str(tmp_path)}}))
    (tmp_path / "config.json").write_text("{")
    message = r"encoders\.hubert\.base '.*' has no config\.json that can be read"
    with pytest.raises(CheckpointError, match=message):
        build(make_config(encoders={"hubert": {"base": str(tmp_path)}}))
    with pytest.raises(CheckpointError, match=r"text\.base '.*' cannot be used"):
        build(make_config(text={"base": str(tmp_path)}))


def test_encoder_of_an_unknown_kind_raises(
    make_config: MakeConfig, bases: Path, tmp_path: Path
) -> None:
    message = (
        r"encoders\.bert\.base '.*' holds a model of type 'roberta', expected one of hubert, "
        r"wav2vec2, wavlm, whisper\. Correct encoders\.bert\.base, or name a text encoder under"
    )
    with pytest.raises(CheckpointError, match=message):
        build(make_config(encoders={"bert": {"base": str(bases / "roberta")}}))
    write_llama(tmp_path, layout="llama3", n_layers=1, vocab_size=384)
    with pytest.raises(
        CheckpointError, match=r"text\.base '.*' holds a model of type 'llama', exp"
    ):
        build(make_config(text={"base": str(tmp_path)}))


@pytest.mark.parametrize("name", ["wavlm", "whisper"])
def test_encoder_of_another_sample_rate_raises(
    name: str, make_config: MakeConfig, bases: Path, tmp_path: Path
) -> None:
    shutil.copytree(bases / name, tmp_path / "base")
    file = tmp_path / "base" / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sampling_rate": 48_000}))
    config = make_config(encoders={name: {"base": str(tmp_path / "base")}})
    message = rf"encoders\.{name}\.base '.*' hears 48000 Hz, .* says; expected 16000"
    with pytest.raises(CheckpointError, match=message):
        build(config)
    with pytest.raises(CheckpointError, match=message):
        MEMBER.build_inputs(config)


def test_clips_longer_than_whispers_window_raise(make_config: MakeConfig) -> None:
    with pytest.raises(BadValueError, match=r"audio\.max_audio_s is 3, but '.*whisper' hears 2 s"):
        MEMBER.build_inputs(make_config(audio={"max_audio_s": 3}))


def test_fusion_is_not_exported() -> None:
    with pytest.raises(BadValueError, match=r"'fusion'"):
        require_exportable("fusion")
