"""The computed memory by hand, against what a real step holds, and against published sizes."""

from __future__ import annotations

import weakref
from pathlib import Path

import llama_golden as G
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from abhinaya.demo.checkpoints.llama import write_llama
from abhinaya.nn.build import build_classifier
from members.llama_lora.doctor import memory_needed
from members.llama_lora.member import MEMBER

GIB = 2**30

LLAMA_8B = {
    "embed_tokens.weight": (128_256, 4096),
    "norm.weight": (4096,),
    **{
        f"layers.{n}.{name}.weight": shape
        for n in range(32)
        for name, shape in {
            "self_attn.q_proj": (4096, 4096),
            "self_attn.k_proj": (1024, 4096),
            "self_attn.v_proj": (1024, 4096),
            "self_attn.o_proj": (4096, 4096),
            "mlp.gate_proj": (14_336, 4096),
            "mlp.up_proj": (14_336, 4096),
            "mlp.down_proj": (4096, 14_336),
            "input_layernorm": (4096,),
            "post_attention_layernorm": (4096,),
        }.items()
    },
}
"""LLaMA-3.1-8B without its head."""

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


def needed_8b(tmp_path, weights, **training):
    config = G.make_config(
        tmp_path,
        weights=weights,
        inference={"batch_size": 8},
        training={"global_batch_size": 8, "use_cpu": True, **training},
    )
    return memory_needed(config, LLAMA_8B, TRAINED_8B, width=4096, n_layers=32)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        # matrices 64 * 64 + 128 * 64 = 12,288; the rest 10 * 64 + 64 = 704; trained 2 * 64 = 128
        ("float32", 4 * (12_288 + 704) + 512),
        ("bf16", 2 * (12_288 + 704) + 512),
        ("int8", 12_288 + 2 * 704 + 512),
        # 12,288 / 2, one byte per 64, four bytes per 64 * 256
        ("nf4", 6_144 + 192 + 3 + 1_408 + 512),
    ],
)
def test_bytes_by_hand(weights, expected, tmp_path):
    small = {
        "embed_tokens.weight": (10, 64),
        "layers.0.self_attn.q_proj.weight": (64, 64),
        "layers.0.mlp.up_proj.weight": (128, 64),
        "norm.weight": (64,),
    }
    trained = {"backbone.encoder.layers.0.self_attn.q_proj.lora_A.default.weight": (2, 64)}
    config = G.make_config(tmp_path, weights=weights)
    needed = memory_needed(config, small, trained, width=64, n_layers=1)
    assert needed["weights"] == expected
    assert needed["optimizer"] == 12 * 128
    parts = needed["weights"] + needed["prediction activations"] + 0.75 * GIB
    assert needed["prediction"] == parts
    parts = expected + 12 * 128 + needed["training activations"] + 0.75 * GIB
    assert needed["training"] == parts


def test_published_language_model_has_its_published_size(tmp_path):
    # 8,030,261,248 parameters by Meta's model card, less the head of 128,256 rows
    n_parameters = 8_030_261_248 - 128_256 * 4096
    n_trained = sum(torch.Size(shape).numel() for shape in TRAINED_8B.values())
    # Adapters 32 * 8 * (4096 + 4096 + 4096 + 1024), norm, pooling, head.
    assert n_trained == 3_407_872 + 8_192 + 16_785_408 + 8_397_832
    needed = needed_8b(tmp_path, "bf16")
    assert needed["weights"] == 2 * n_parameters + 4 * n_trained


def test_table_of_the_readme_is_the_computed_one(tmp_path):
    """In GiB: weights, training with batches of 8 plain and recomputed, prediction."""
    table = {}
    for weights in ("bf16", "int8", "nf4"):
        plain = needed_8b(tmp_path, weights)
        recomputed = needed_8b(tmp_path, weights, activation_checkpointing=True)
        numbers = (
            plain["weights"],
            plain["training"],
            recomputed["training"],
            plain["prediction"],
        )
        table[weights] = [f"{number / GIB:.1f}" for number in numbers]
    text = (Path(__file__).parents[3] / "members" / "llama_lora" / "README.md").read_text("utf-8")
    for weights, numbers in table.items():
        assert f"| `{weights}` | {' | '.join(numbers)} |" in text, (weights, numbers)


class PeakOfTensors(TorchDispatchMode):
    """Counts the bytes of tensors that operators make, as long as each of them lives."""

    def __init__(self, known):
        super().__init__()
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}
        self.live = self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.sizes:
                    self.sizes[storage._cdata] = storage.nbytes()
                    self.live += storage.nbytes()
                    self.peak = max(self.peak, self.live)
                    weakref.finalize(storage, self._forget, storage._cdata)
        return result

    def _forget(self, key):
        self.live -= self.sizes.pop(key)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """Four layers as wide as they are in number of heads, with half the heads for keys."""
    folder = tmp_path_factory.mktemp("llama")
    write_llama(folder, layout="llama3", n_features=256, n_heads=8, n_layers=4)
    return str(folder)


@pytest.mark.parametrize(
    ("trains", "settings"),
    [
        (True, {}),
        (True, {"weights": "bf16", "training": {"bf16": True}}),
        (True, {"training": {"activation_checkpointing": True}}),
        (False, {}),
        (False, {"weights": "bf16"}),
    ],
)
def test_computed_activations_are_near_those_of_a_real_step(trains, settings, llama, tmp_path):
    training = {"global_batch_size": 4, "use_cpu": True, **settings.get("training", {})}
    config = G.make_config(
        tmp_path,
        **{"base": llama, "classifier": None, **settings, "training": training},
        inference={"batch_size": 4},
    )
    model = build_classifier(MEMBER, config, 8, [1] * 8).train(trains)
    if training.get("activation_checkpointing"):
        model.activation_checkpointing_enable()
    batch = G.batch_of(config, *["so " * 200] * 4)
    assert batch["input_ids"].shape == (4, 128)
    trained = [value for value in model.parameters() if value.requires_grad]
    for value in trained:
        value.grad = torch.zeros_like(value)  # counted with the optimizer
    grads = [value.grad for value in trained]
    known = [*model.parameters(), *model.buffers(), *batch.values(), *grads]
    with (
        PeakOfTensors(known) as counter,
        torch.set_grad_enabled(trains),
        torch.autocast("cpu", torch.bfloat16, enabled=training.get("bf16", False)),
    ):
        output = model(batch, torch.zeros(4, dtype=torch.long))
        if trains:
            output.loss.backward()
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    ours = {name: shapes[name] for name in model.trained_names()}
    rest = {name: shape for name, shape in shapes.items() if name not in ours}
    needed = memory_needed(config, rest, ours, width=256, n_layers=4)
    key = "training activations" if trains else "prediction activations"
    assert needed[key] == pytest.approx(counter.peak, rel=0.3)
