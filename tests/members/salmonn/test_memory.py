"""What doctor does with a SALMONN of the published sizes; see tests/doctor/test_memory.py too."""

from __future__ import annotations

import json
import math
import resource
import shutil
import struct
from pathlib import Path

import pytest
import salmonn_golden as G
import torch
from golden_set import BEATS_WIDTH, LLAMA, QFORMER_WIDTH, WHISPER_WIDTH
from transformers import LlamaConfig, LlamaModel

from abhinaya.demo.checkpoints.salmonn import write_salmonn
from abhinaya.doctor.weights import check_member, shapes_of

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


@pytest.mark.slow
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
    findings = check_member(config)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert not [found for found in findings if found.result == "problem"]
    details = [found.details for found in findings if found.what == "base"]
    assert details[0] == ("the language model is whole: 32 layers of 4096 features, 32000 tokens")
    # 6.6 billion numbers of two bytes each: 12.3 GiB in the file.
    (memory,) = (found for found in findings if found.what == "memory for prediction")
    assert "12.4 GiB of weights (bf16)" in memory.details
    assert (after - before) * 1024 < 0.5 * GIB
