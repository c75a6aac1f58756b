"""What a launch with FSDP may ask for, and what is refused in one line."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import Trainer

from abhinaya.errors import BadValueError
from abhinaya.nn.build import build_classifier
from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.processes import join_launch, splits_weights
from abhinaya.training.arguments import training_arguments
from abhinaya.training.sharded import ShardedTrainer, check_model, gather, scatter
from members.wavlm.member import MEMBER

MakeConfig = Callable[..., ClassifierConfig]
Settle = Callable[..., None]

# As `accelerate launch` sets them from a file with distributed_type: FSDP.
LAUNCHED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


@pytest.fixture
def settle(make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settle:
    """A function that makes the arguments of a config in a launch with these variables."""

    def run(*overrides: str, **variables: str) -> None:
        for key, value in {**LAUNCHED, **variables}.items():
            monkeypatch.setenv(key, value)
        training_arguments(make_config(tmp_path, *overrides), tmp_path)

    return run


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"FSDP_VERSION": "1"}, r"not trained in version 1, only in version 2 \(fsdp_version\)\. "),
        (
            {"FSDP_ACTIVATION_CHECKPOINTING": "true"},
            r"FSDP_ACTIVATION_CHECKPOINTING is 'true', which .*Set training.activation_checkpointi",
        ),
        (
            {"FSDP_IGNORED_MODULES": "backbone.*"},
            r"FSDP_IGNORED_MODULES is 'backbone\.\*'.* would be trained apart in every process\.",
        ),
        (
            {"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"},
            r"FSDP_AUTO_WRAP_POLICY is 'SIZE_BASED_WRAP'.*Set TRANSFORMER_BASED_WRAP",
        ),
        (
            {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"},
            r"BACKEND is 'INDUCTOR', .*Compiled mem",
        ),
        (
            {"ACCELERATE_USE_PARALLELISM_CONFIG": "true"},
            r"ACCELERATE_USE_PARALLELISM_CONFIG is 'true'.*Batches are split over all processes\.",
        ),
    ],
)
def test_launch_with_fsdp_that_members_cannot_do_raises(
    settle: Settle, variables: dict[str, str], message: str
) -> None:
    with pytest.raises(BadValueError, match=message) as caught:
        settle(**variables)
    assert "--config_file configs/accelerate/fsdp2.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.optim=adafactor", "optim is 'adafactor', but with FSDP the optimizer is one of"),
        ("training.save_only_model=true", "training.save_only_model is true, but FSDP trains with"),
        ("training.torch_compile=true", "training.torch_compile is true, but FSDP trains without"),
    ],
)
def test_config_that_fsdp_cannot_train_raises(settle: Settle, override: str, message: str) -> None:
    with pytest.raises(BadValueError, match=message):
        settle(override)
    settle(override, ACCELERATE_USE_FSDP="false")


def test_launch_in_which_one_process_would_have_the_weights_is_told_otherwise(
    settle: Settle, caplog: pytest.LogCaptureFixture
) -> None:
    """It is accelerate's default; the cache of features would hold those of random weights."""
    with caplog.at_level(logging.WARNING, logger="abhinaya"):
        settle(FSDP_CPU_RAM_EFFICIENT_LOADING="true")
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
    assert "every process reads the weights" in caplog.text


@pytest.fixture
def model(make_config: MakeConfig, tmp_path: Path) -> EmotionClassifier:
    config = make_config(tmp_path)
    return build_classifier(MEMBER, config, 8)


def test_quantised_weights_under_fsdp_raise(model: EmotionClassifier) -> None:
    weight = model.backbone.encoder.encoder.layers[0].attention.k_proj.weight
    weight.requires_grad_(False)
    weight.data = weight.data.to(torch.int8)
    with pytest.raises(BadValueError, match=r"k_proj\.weight' are quantised, .* Set weights"):
        check_model(model)


def test_layers_of_the_launch_file_that_are_not_there_raise(
    model: EmotionClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "WavLMEncoderLayerStableLayerNorm"
    monkeypatch.setenv("FSDP_TRANSFORMER_CLS_TO_WRAP", f"LlamaDecoderLayer,{name}")
    with pytest.raises(BadValueError, match=rf"names 'LlamaDecoderLayer', but .* are '{name}'"):
        check_model(model)


def test_layers_that_fsdp_does_not_drop_are_told(
    model: EmotionClassifier, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="abhinaya"):
        model.backbone.encoder.config.layerdrop = 0.0
        check_model(model)
        assert not caplog.text
        model.backbone.encoder.config.layerdrop = 0.1
        check_model(model)
    assert "layerdrop is 0.1 in the base's config.json, but with FSDP" in caplog.text


def test_launch_with_fsdp_on_the_cpu_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def start(self: Trainer) -> None:
        self.is_fsdp_enabled = False  # as accelerate decides without an accelerator
        self.args = SimpleNamespace(world_size=2)

    monkeypatch.setattr(Trainer, "__init__", start)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with caplog.at_level(logging.WARNING, logger="abhinaya"):
        ShardedTrainer()
    assert "here every process holds all weights" in caplog.text


def test_weights_are_split_in_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of `predict` were given weights by transformers in the first of them only."""
    for key, value in LAUNCHED.items():
        monkeypatch.setenv(key, value)
    assert splits_weights()
    join_launch()
    assert not splits_weights()


def test_whole_tensors_are_neither_gathered_nor_scattered() -> None:
    moment = torch.ones(4)
    tree = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": moment}}, "lr": 0.1}
    found = gather(tree)
    assert found["lr"] == 0.1
    assert found["state"][0]["exp_avg"] is moment
    whole = torch.ones(4)
    assert scatter(whole, nn.Parameter(torch.zeros(4))) is whole
    assert scatter(whole, None) is whole
