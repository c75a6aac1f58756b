"""A quantised language model inside a backbone: trained around it, and never saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer

from abhinaya.data.manifest import Manifest
from abhinaya.inference.predict import predict_classifier
from abhinaya.member import InputBuilder, PredictRequest
from abhinaya.nn.backbone import Backbone
from abhinaya.nn.build import build_classifier
from abhinaya.nn.checkpoint import load_weights
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.nn.language_model import load_language_model
from abhinaya.nn.lora import add_lora, save_lora
from abhinaya.training.classifier_member import ClassifierMember
from abhinaya.training.train import train_classifier
from members.wavlm.config import WavLMConfig
from members.wavlm.member import WaveformInputs
from members.wavlm.model import WavLMBackbone

pytestmark = pytest.mark.slow

MakeConfig = Callable[..., ClassifierConfig]

TRAINED = {
    "backbone.project.weight",
    "backbone.project.bias",
    *(
        f"backbone.language_model.layers.{layer}.self_attn.q_proj.lora_{matrix}.default.weight"
        for layer in (0, 1)
        for matrix in "AB"
    ),
    "head.fc.weight",
    "head.fc.bias",
    "head.ln.weight",
    "head.ln.bias",
    "head.out.weight",
    "head.out.bias",
}


class SpeakingBackbone(WavLMBackbone):
    """Frames of a frozen WavLM, projected into a quantised language model with adapters."""

    pretrained = ("encoder", "language_model")

    def __init__(self, encoder: Any, language_model: Any) -> None:
        super().__init__(encoder, freeze="encoder")
        add_lora(language_model, rank=2, alpha=4.0, dropout=0.1, target_modules=["q_proj"])
        self.language_model = language_model
        self.project = nn.Linear(self.n_features, language_model.config.hidden_size)
        self.n_features = language_model.config.hidden_size

    def forward_trained(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        frames, mask = super().forward_trained(states, mask)
        outputs = self.language_model(
            inputs_embeds=self.project(frames), attention_mask=mask.long()
        )
        return outputs.last_hidden_state, mask

    def save_adapter(self, folder: Path) -> bool:
        return save_lora(self.language_model, folder, prefix="model.", base="tiny")


class Speaking(ClassifierMember):
    config_class = WavLMConfig

    def __init__(self, llama: str, weights: Any) -> None:
        self.llama = llama
        self.weights = weights

    def build_backbone(self, config: WavLMConfig) -> Backbone:
        encoder = WavLMBackbone.from_pretrained(config.base).encoder
        return SpeakingBackbone(encoder, load_language_model(self.llama, weights=self.weights))

    def build_inputs(self, config: WavLMConfig) -> InputBuilder:
        return WaveformInputs()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        **{"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64},
        **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("weights", ["nf4", "int8"])
def test_training_around_a_quantized_model_saves_what_is_trained_and_resumes(
    make_config: MakeConfig, manifest: Manifest, llama: str, tmp_path: Path, weights: str
) -> None:
    member = Speaking(llama, weights)
    overrides = ("freeze=encoder", "training.num_train_epochs=2", "audio.train_crop=first")
    config = make_config(tmp_path / "run", *overrides)
    run = train_classifier(member, config, manifest)
    stored = load_file(run / "best" / "model.safetensors")
    assert stored.keys() == TRAINED
    assert {value.dtype for value in stored.values()} == {np.dtype("float32")}
    # The second matrices start at zero: training has reached them through the quantised layers.
    name = "backbone.language_model.layers.0.self_attn.q_proj.lora_B.default.weight"
    assert np.abs(stored[name]).max() > 1e-4
    assert (run / "best" / "adapter" / "adapter_model.safetensors").is_file()

    # What stands in `best/` is what a new model then says.
    model = build_classifier(member, config, len(manifest.emotions))
    before = {key: value.clone() for key, value in model.state_dict().items() if key not in TRAINED}
    assert any(value.dtype in (torch.uint8, torch.int8) for value in before.values())
    load_weights(run / "best", model)
    model.to("cpu")
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in before.items())
    for key, value in stored.items():
        np.testing.assert_array_equal(state[key].numpy(), value)
    request = PredictRequest(manifest, ("development",), tmp_path / "table.parquet")
    probs = predict_classifier(member, run, request).probs
    assert probs is not None
    assert np.isfinite(probs).all()

    # Killed after the first epoch, it ends with the same bytes.
    with pytest.MonkeyPatch.context() as patch:
        save = Trainer._save_checkpoint

        def save_and_die(self: Trainer, *arguments: Any, **options: Any) -> None:
            save(self, *arguments, **options)
            raise KeyboardInterrupt

        patch.setattr(Trainer, "_save_checkpoint", save_and_die)
        killed = make_config(tmp_path / "killed", *overrides)
        with pytest.raises(KeyboardInterrupt):
            train_classifier(member, killed, manifest)
    again = train_classifier(member, killed, manifest)
    file = "best/model.safetensors"
    assert (again / file).read_bytes() == (run / file).read_bytes()
