"""The computed memory of the published sizes: by hand, and as the README says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from abhinaya.demo.checkpoints.llama import write_llama
from abhinaya.doctor.memory import compare_launches, find_needs, find_sizes
from members.llama_lora.config import LlamaLoraConfig

GIB = 2**30

TRAINED_8B = {
    **{
        f"backbone.encoder.layers.{n}.self_attn.{name}.lora_{matrix}.default.weight": shape
        for n in range(32)
        for name, matrix, shape in (
            ("q_proj", "A", (8, 4096)),
            ("q_proj", "B", (4096, 8)),
            ("v_proj", "A", (8, 4096)),
            ("v_proj", "B", (1024, 8)),
        )
    },
    "backbone.norm.weight": (4096,),
    "backbone.norm.bias": (4096,),
    "pooling.attention": (4096, 1),
    "pooling.sap_linear.weight": (4096, 4096),
    "pooling.sap_linear.bias": (4096,),
    "head.fc.weight": (1024, 8192),
    "head.fc.bias": (1024,),
    "head.out.weight": (8, 1024),
    "head.out.bias": (8,),
}


@pytest.fixture(scope="module")
def config_8b(tmp_path_factory):
    """A function that returns the config of T2 on LLaMA-3.1-8B, without its weights."""
    folder = tmp_path_factory.mktemp("llama")
    write_llama(folder, layout="llama3")
    for file in folder.glob("*.safetensors"):
        file.unlink()
    sizes = {"hidden_size": 4096, "intermediate_size": 14_336, "vocab_size": 128_256}
    sizes |= {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
    content = json.loads((folder / "config.json").read_text()) | sizes | {"head_dim": 128}
    (folder / "config.json").write_text(json.dumps(content))

    def make(weights: str, **training) -> LlamaLoraConfig:
        return LlamaLoraConfig.model_validate(
            {
                "member": "llama-8b-lora",
                "name": "t2",
                "run_dir": "run",
                "base": str(folder),
                "weights": weights,
                "max_tokens": 128,
                "head": {"norm": "none"},
                "data": {"manifest": "m", "transcripts": {"train": "t", "predict": "t"}},
                "inference": {"batch_size": 8},
                "training": {"global_batch_size": 8, "use_cpu": True, **training},
            }
        )

    return make


def test_published_language_model_has_its_published_size(config_8b):
    # 8,030,261,248 parameters by Meta's model card, less the head of 128,256 rows
    n_parameters = 8_030_261_248 - 128_256 * 4096
    n_trained = sum(torch.Size(shape).numel() for shape in TRAINED_8B.values())
    # Adapters 32 * 8 * (4096 + 4096 + 4096 + 1024), norm, pooling, head.
    assert n_trained == 3_407_872 + 8_192 + 16_785_408 + 8_397_832
    sizes = find_sizes(config_8b("bf16"))
    assert sizes.frozen == 2 * n_parameters
    assert sizes.n_trained == n_trained
    # One layer in 16 bits with its adapters, the embeddings and the last norm, all else float32.
    layer = 2 * (2 * 4096**2 + 2 * 1024 * 4096 + 3 * 14_336 * 4096 + 2 * 4096) + 4 * 3_407_872 // 32
    outside = 2 * (128_256 * 4096 + 4096) + 4 * (n_trained - 3_407_872)
    assert sizes.gathered == layer + outside


@pytest.mark.slow
def test_table_of_the_readme_is_the_computed_one(config_8b):
    """In GiB: weights, training with batches of 8 plain and recomputed, prediction."""
    table = {}
    for weights in ("bf16", "int8", "nf4"):
        plain = find_needs(config_8b(weights))
        recomputed = config_8b(weights, activation_checkpointing=True)
        numbers = (
            plain.weights,
            compare_launches(config_8b(weights), 1)["ddp"].sum,
            compare_launches(recomputed, 1)["ddp"].sum,
            plain.weights + plain.prediction + 0.75 * GIB,
        )
        table[weights] = [f"{number / GIB:.1f}" for number in numbers]
    text = (Path(__file__).parents[3] / "members" / "llama_lora" / "README.md").read_text("utf-8")
    for weights, numbers in table.items():
        assert f"| `{weights}` | {' | '.join(numbers)} |" in text, (weights, numbers)
