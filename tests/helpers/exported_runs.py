"""Runs with random weights of tiny speech members, and their exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from abhinaya.config import dump_yaml, merge
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.demo.checkpoints.encoders import write_whisper
from abhinaya.member_config import check_member_config
from abhinaya.nn.build import build_classifier
from abhinaya.nn.checkpoint import save_checkpoint
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.registry import load_member

__all__ = ["write_hubert", "write_run", "write_tiny_whisper", "write_wavlm"]

# Two convolutions instead of seven: torch reasons for long about lengths that are divided so often.
SIZE: dict[str, Any] = {
    "conv_dim": (8, 8),
    "conv_kernel": (10, 32),
    "conv_stride": (5, 32),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "initializer_range": 0.2,
}


def write_hubert(folder: Path) -> None:
    """As DistilHuBERT: group norm, no norm of the projected features, two layers."""
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(0)
    config = HubertConfig(**SIZE, feat_extract_norm="group", feat_proj_layer_norm=False)
    HubertModel(config).save_pretrained(folder)


def write_wavlm(folder: Path, *, norm: str) -> None:
    from transformers import WavLMConfig, WavLMModel

    torch.manual_seed(0)
    is_large = norm == "layer"
    config = WavLMConfig(**SIZE, feat_extract_norm=norm, do_stable_layer_norm=is_large)
    WavLMModel(config).save_pretrained(folder)


def write_tiny_whisper(folder: Path) -> None:
    write_whisper(folder, chunk_s=2, n_layers=1, n_features=16, init_std=0.2)


def write_run(run: Path, member: str, base: Path, **settings: Any) -> Path:
    """Write `best/` of a run with random weights, and return the run."""
    content: dict[str, Any] = {
        "member": member,
        "name": "tiny",
        "run_dir": str(run),
        "data": {"manifest": "(none)"},
        "base": str(base),
        "audio": {"max_audio_s": 2.0},
        "head": {"hidden": 8},
        "training": {"global_batch_size": 4, "use_cpu": True},
    }
    config = check_member_config(merge(content, settings), "the test")
    assert isinstance(config, ClassifierConfig)
    torch.manual_seed(1)
    built: Any = load_member(member)
    model = build_classifier(built, config, len(MSP_PODCAST))
    # Untrained, all clips would sound alike: the head is made to speak up.
    model.head.last_linear.weight.data *= 10
    (run / "best").mkdir(parents=True)
    save_checkpoint(
        run / "best",
        model,
        config_yaml=dump_yaml(config),
        emotions=MSP_PODCAST,
        metrics={"macro_f1": None, "step": 0, "n_steps": 0},
        facts={"digest": "0123456789abcdef", "absorbed_prior": [0.125] * 8},
    )
    return run
