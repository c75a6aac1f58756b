"""The golden set of T2 (tests/golden/README.md) as config, texts and model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from abhinaya.member import Utterance
from abhinaya.nn.classifier import EmotionClassifier
from members.llama_lora.config import LlamaLoraConfig
from members.llama_lora.member import MEMBER, load_published

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIG = json.loads((GOLDEN / "config.json").read_text(encoding="utf-8"))
TOKENS = json.loads((GOLDEN / "t2_tokens.json").read_text(encoding="utf-8"))
CLASSIFIER = GOLDEN / "t2" / "t2_classifier.pth"


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
        "base": str(GOLDEN / "t2" / "llama"),
        "classifier": str(CLASSIFIER),
        "weights": "float32",
        "head": {"hidden": 32, "norm": "none"},
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
    from abhinaya.nn.losses import build_loss

    model = load_published(MEMBER, config)
    model.loss = build_loss(config.loss, CONFIG["class_counts"])
    return model


def batch_of(config: LlamaLoraConfig, *texts: str) -> dict[str, torch.Tensor]:
    """Model inputs of some texts."""
    inputs = MEMBER.build_inputs(config)
    rows = [inputs.encode(Utterance(f"utt{n}", None, text)) for n, text in enumerate(texts)]
    return dict(inputs.collate(rows))


def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "t2.npz") as arrays:
        return dict(arrays)
