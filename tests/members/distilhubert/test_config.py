"""DistilHuBERT is HuBERT with two blocks, and its config has the defaults of a small model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import HubertConfig, HubertModel

from abhinaya.demo.checkpoints.encoders import write_distilhubert
from abhinaya.member_config import check_member_config
from members.distilhubert.config import DistilHubertConfig

CONTENT: dict[str, Any] = {
    "member": "distilhubert",
    "name": "tiny",
    "run_dir": "runs/tiny",
    "data": {"manifest": "manifest.parquet"},
    "training": {"global_batch_size": 4},
}


def check(**changes: Any) -> DistilHubertConfig:
    config = check_member_config(CONTENT | changes, "the test")
    assert isinstance(config, DistilHubertConfig)
    return config


def test_tiny_distilhubert_has_the_tensors_of_the_published_one(tmp_path: Path) -> None:
    """What its conversion in transformers sets; 23.5 million parameters, as the paper says."""
    published = HubertConfig(num_hidden_layers=2, feat_proj_layer_norm=False)
    assert (published.hidden_size, published.conv_dim[0]) == (768, 512)
    assert (published.feat_extract_norm, published.conv_bias) == ("group", False)
    with torch.device("meta"):
        theirs = HubertModel(published)
    assert round(sum(p.numel() for p in theirs.parameters()) / 1e6, 1) == 23.5
    write_distilhubert(tmp_path, n_features=32, n_conv_features=16)
    ours = load_file(tmp_path / "model.safetensors")
    assert set(ours) == set(theirs.state_dict())


def test_distilhubert_brings_its_own_defaults_and_keeps_what_is_given() -> None:
    plain = check()
    assert (plain.base, plain.spec_augment) == ("ntu-spml/distilhubert", False)
    assert plain.loss.name == "adaptive-focal"
    assert plain.audio.augment is not None
    assert plain.audio.augment.noise is not None
    given = check(
        base="mine",
        loss={"class_weights": "inverse"},
        audio={"max_audio_s": 2, "augment": {"noise": None}},
    )
    assert (given.base, given.loss.name, given.loss.class_weights) == (
        "mine",
        "adaptive-focal",
        "inverse",
    )
    assert given.audio.max_audio_s == 2
    assert given.audio.augment is not None
    assert given.audio.augment.noise is None
    assert given.audio.augment.gain == plain.audio.augment.gain
    other = check(loss={"name": "focal", "gamma": 3}, audio={"augment": None})
    assert (other.loss.name, other.audio.augment) == ("focal", None)
