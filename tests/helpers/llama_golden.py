"""The golden set of T2 (tests/golden/README.md) as config, texts and model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import golden_set
import numpy as np
import torch
from golden_set import CONFIG as CONFIG
from golden_set import GOLDEN as GOLDEN
from golden_set import LLAMA3, classifier_of, read_json

from abhinaya.member import Utterance
from abhinaya.nn.classifier import EmotionClassifier
from members.llama_lora.config import LlamaLoraConfig
from members.llama_lora.member import MEMBER, load_published

TOKENS = read_json("t2_tokens.json")
CLASSIFIER = classifier_of("t2")
LORA, SIZES = CONFIG["lora"], CONFIG["t2"]
N_ADAPTERS = 2 * len(LORA["targets"]) * SIZES["num_hidden_layers"]
"""Two matrices for each projection in each layer."""
LORA_KEYS = {
    "rank": LORA["r"],
    "alpha": LORA["alpha"],
    "dropout": LORA["dropout"],
    "target_modules": LORA["targets"],
}
HEAD = {"hidden": CONFIG["head"]["fc_hidden"], "norm": "none"}


def make_config(folder: Path, **changes: Any) -> LlamaLoraConfig:
    """The config of T2 on the golden files."""
    content: dict[str, Any] = {
        "member": "llama-8b-lora",
        "name": "t2",
        "run_dir": str(folder / "run"),
        "data": {
            "manifest": str(folder / "manifest.parquet"),
            "transcripts": {"predict": "human"},
        },
        "base": str(LLAMA3),
        "classifier": str(CLASSIFIER),
        "lora": LORA_KEYS,
        "weights": "float32",
        "head": HEAD,
        "loss": {
            "name": "vector-scaling",
            "gamma": 0.3,
            "tau": 1.0,
            "class_weights": CONFIG["class_weights"],
            "class_counts": CONFIG["class_counts"],
        },
        "training": {"global_batch_size": 4, "use_cpu": True},
    }
    return LlamaLoraConfig.model_validate(content | changes)


def load_classifier(config: LlamaLoraConfig) -> EmotionClassifier:
    """The golden classifier, with its loss."""
    from abhinaya.nn.losses.build import build_loss

    model = load_published(MEMBER, config)
    model.loss = build_loss(config.loss, CONFIG["class_counts"])
    return model


def batch_of(config: LlamaLoraConfig, *texts: str) -> dict[str, torch.Tensor]:
    """Model inputs of some texts."""
    inputs = MEMBER.build_inputs(config)
    rows = [inputs.encode(Utterance(f"utt{n}", None, text)) for n, text in enumerate(texts)]
    return dict(inputs.collate(rows))


def golden() -> dict[str, np.ndarray]:
    return golden_set.golden("t2")
