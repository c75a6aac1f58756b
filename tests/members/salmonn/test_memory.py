"""The computed memory against what a real step holds, and against published sizes."""

from __future__ import annotations

import functools
import json
import math
import resource
import shutil
import struct
import weakref
from pathlib import Path

import numpy as np
import pytest
import salmonn_golden as G
import torch
from golden_set import BEATS_WIDTH, LLAMA, QFORMER_WIDTH, WHISPER_WIDTH
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaModel

from abhinaya.demo.checkpoints.beats import write_beats
from abhinaya.demo.checkpoints.encoders import write_whisper
from abhinaya.demo.checkpoints.llama import write_llama
from abhinaya.demo.checkpoints.salmonn import write_salmonn
from abhinaya.doctor.weights import shapes_of
from abhinaya.member import Utterance
from abhinaya.nn.build import build_classifier
from members.salmonn.memory import SourceShapes, memory_needed

GIB = 2**30


def llama_shapes(width: int, inner: int, n_layers: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a bare LLaMA of a published size."""
    with torch.device("meta"):
        model = LlamaModel(
            LlamaConfig(
                hidden_size=width,
                intermediate_size=inner,
                num_hidden_layers=n_layers,
                num_attention_heads=width // 128,
                vocab_size=32_000,
            )
        )
    return shapes_of(model)


SMALL = SourceShapes(
    language_model={
        "embed_tokens.weight": (10, 64),
        "layers.0.self_attn.q_proj.weight": (64, 64),
        "layers.0.mlp.up_proj.weight": (128, 64),
        "norm.weight": (64,),
    },
    whisper={
        "embed_positions.weight": (1500, 8),
        "layers.0.fc1.weight": (32, 8),
        "layer_norm.weight": (8,),
    },
    beats={
        "encoder.layers.0.fc1.weight": (16, 4),
        "encoder.layers.0.self_attn.grep_a": (1, 2, 1, 1),
    },
    trained={
        "adapter.query_tokens": (1, 1, 16),
        "adapter.qformer.encoder.layer.0.output_query.dense.weight": (16, 16),
        "llm.layers.0.self_attn.q_proj.lora_A.default.weight": (2, 64),
    },
)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        # matrices 64 * 64 + 128 * 64 = 12,288; the rest 10 * 64 + 64 = 704
        ("float32", 4 * (12_288 + 704)),
        ("bf16", 2 * (12_288 + 704)),
        ("int8", 12_288 + 2 * 704),
        # 12,288 / 2, one byte per 64, four bytes per 64 * 256
        ("nf4", 6_144 + 192 + 3 + 1_408),
    ],
)
def test_bytes_of_weights_by_hand(weights, expected, tmp_path):
    config = G.make_config("s2", tmp_path, llm_weights=weights, whisper_weights="bf16")
    needed = memory_needed(config, SMALL, n_text_tokens=10)
    assert needed["language model"] == expected
    assert needed["whisper"] == 2 * (1500 * 8 + 32 * 8 + 8)
    assert needed["beats"] == 4 * (16 * 4 + 2)
    assert needed["trained"] == 4 * (16 + 256 + 128)
    assert needed["optimizer"] == 12 * (16 + 256 + 128)
    four = sum(needed[key] for key in ("language model", "whisper", "beats", "trained"))
    assert needed["weights"] == four
    assert needed["prediction"] == four + needed["prediction activations"] + 0.75 * GIB
    assert needed["training"] == (
        four + needed["optimizer"] + needed["training activations"] + 0.75 * GIB
    )


@pytest.mark.parametrize(
    ("sizes", "n_parameters"),
    # What Meta states of LLaMA, less the head over the vocabulary, 32,000 rows.
    [
        ((5120, 13_824, 40), 13_015_864_320 - 32_000 * 5120),
        ((4096, 11_008, 32), 6_738_415_616 - 32_000 * 4096),
    ],
    ids=["13b", "7b"],
)
def test_published_language_models_have_their_published_size(sizes, n_parameters, tmp_path):
    config = G.make_config("s2", tmp_path, llm_weights="bf16")
    shapes = SourceShapes(llama_shapes(*sizes), SMALL.whisper, SMALL.beats, SMALL.trained)
    needed = memory_needed(config, shapes, n_text_tokens=10)
    assert needed["language model"] == 2 * n_parameters


def test_larger_batches_pieces_and_no_checkpointing_need_more(tmp_path):
    def needed(**changes):
        training = {"global_batch_size": 8, "use_cpu": True, **changes.pop("training", {})}
        config = G.make_config("s2", tmp_path, training=training, **changes)
        return memory_needed(config, SMALL, n_text_tokens=10)

    base = needed(inference={"batch_size": 2})
    # Five pieces of each clip count like five clips.
    assert (
        needed(inference={"batch_size": 2}, audio={"eval_crop": 5})["prediction activations"]
        == needed(inference={"batch_size": 10})["prediction activations"]
    )
    assert (
        needed(training={"per_device_train_batch_size": 4}, inference={"batch_size": 1})[
            "training activations"
        ]
        < base["training activations"]
    )
    # Validation is a part of training.
    large = needed(inference={"batch_size": 64})
    assert large["training activations"] == large["prediction activations"]


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
def write_sources(tmp_path_factory):
    """A function that writes a SALMONN, large enough for activations to outweigh what is constant.

    It takes the widths of Whisper and of the language model, and the Q-Former's layers.
    """

    @functools.cache
    def write(whisper_width: int, llm_width: int, qformer_layers: int):
        folder = tmp_path_factory.mktemp("sources")
        write_llama(folder / "llama", n_features=llm_width, n_layers=4)
        write_whisper(folder / "whisper", n_features=whisper_width, n_layers=2)
        write_beats(folder / "beats.pt", n_features=64)
        write_salmonn(
            folder / "salmonn.pth",
            **{"whisper_width": whisper_width, "beats_width": 64},
            **{"llm_width": llm_width, "llm_layers": 4},
            **{"qformer_width": 64, "qformer_ffn_width": 256, "qformer_layers": qformer_layers},
        )
        return {
            "base": str(folder / "llama"),
            "whisper": str(folder / "whisper"),
            "beats": str(folder / "beats.pt"),
            "salmonn": str(folder / "salmonn.pth"),
            "classifier": None,
            "qformer": None,
        }

    return write


LARGE_LLM, LARGE_WHISPER = (128, 256, 2), (512, 64, 6)
BF16 = {"training": {"bf16": True}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "trains", "seconds", "settings"),
    [
        (LARGE_LLM, True, 10.0, {}),
        (LARGE_LLM, True, 10.0, {"llm_weights": "bf16", **BF16}),
        (LARGE_LLM, True, 10.0, {"training": {"gradient_checkpointing": True}}),
        (LARGE_LLM, True, 10.0, {"trim_padding": True}),
        (LARGE_LLM, True, 30.0, {}),  # BEATs
        (LARGE_LLM, False, 10.0, {}),
        (LARGE_WHISPER, True, 10.0, {}),
        (LARGE_WHISPER, True, 10.0, {"whisper_weights": "bf16", **BF16}),  # the Q-Former
    ],
)
def test_computed_activations_are_near_those_of_a_real_step(
    sizes, trains, seconds, settings, write_sources, tmp_path
):
    sources = write_sources(*sizes)
    batch_size = 2
    training = {"global_batch_size": batch_size, "use_cpu": True, **settings.get("training", {})}
    config = G.make_config(
        "st1",
        tmp_path,
        **{**sources, **settings, "training": training, "inference": {"batch_size": batch_size}},
        audio={"max_audio_s": seconds},
    )
    member = G.member_of("st1")
    inputs = member.build_inputs(config)
    rng = np.random.default_rng(0)
    rows = [
        inputs.encode(
            Utterance(
                str(idx), rng.normal(size=int(16_000 * seconds)).astype("float32"), "so " * 40
            )
        )
        for idx in range(batch_size)
    ]
    batch = inputs.collate(rows)
    model = build_classifier(member, config, 8, [1] * 8).train(trains)
    if training.get("gradient_checkpointing"):
        model.activation_checkpointing_enable()
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
        output = model(batch, torch.zeros(batch_size, dtype=torch.long))
        if trains:
            output.loss.backward()
    backbone = model.backbone
    shapes = SourceShapes(
        shapes_of(backbone.llm),
        shapes_of(backbone.encoder.whisper),
        shapes_of(backbone.encoder.beats),
        {name.removeprefix("backbone."): tuple(p.shape) for name, p in model.named_parameters()},
    )
    n_text_tokens = sum(len(rows[0][part]) for part in ("before", "after", "text"))
    needed = memory_needed(config, shapes, n_text_tokens=n_text_tokens)
    key = "training activations" if trains else "prediction activations"
    assert needed[key] == pytest.approx(counter.peak, rel=0.3)


def write_sparse_llama(folder: Path, shapes) -> None:
    """A language model of any size in 16 bits, whose file is one large hole."""
    shutil.copytree(LLAMA, folder, ignore=shutil.ignore_patterns("pytorch_model*"))
    header, end = {}, 0
    for key, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[f"model.{key}"] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + end)
    config = json.loads((folder / "config.json").read_text())
    sizes = {"hidden_size": 4096, "intermediate_size": 11_008, "vocab_size": 32_000}
    sizes |= {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32}
    (folder / "config.json").write_text(json.dumps(config | sizes))


def test_doctor_of_a_large_language_model_loads_nothing_of_it(tmp_path):
    write_sparse_llama(tmp_path / "llama", llama_shapes(4096, 11_008, 32))
    write_salmonn(
        tmp_path / "salmonn.pth",
        **{"whisper_width": WHISPER_WIDTH, "beats_width": BEATS_WIDTH, "llm_width": 4096},
        **{
            "llm_layers": 32,
            "llm_heads": 32,
            "qformer_width": QFORMER_WIDTH,
            "qformer_ffn_width": 96,
        },
    )
    config = G.make_config(
        "s2",
        tmp_path,
        base=str(tmp_path / "llama"),
        salmonn=str(tmp_path / "salmonn.pth"),
        classifier=None,
        llm_weights="bf16",
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    findings = G.member_of("s2").check_weights(config)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert not [found for found in findings if found.result == "problem"]
    details = [found.details for found in findings if found.what == "base"]
    assert details[0] == ("the language model is whole: 32 layers of 4096 features, 32000 tokens")
    # 6.6 billion numbers of two bytes each: 12.3 GiB in the file.
    (memory,) = (found for found in findings if found.what == "memory for prediction")
    assert "12.4 GiB of weights (bf16)" in memory.details
    assert (after - before) * 1024 < 0.5 * GIB
