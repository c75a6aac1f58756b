from __future__ import annotations

import json

import torch
from transformers import WavLMForXVector

from abhinaya.demo.checkpoints.encoders import write_xvector


def test_write_xvector_same_seed_same_bytes(tmp_path):
    state = torch.random.get_rng_state()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_xvector(tmp_path / name, seed=seed)
    assert torch.equal(torch.random.get_rng_state(), state)
    contents = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_write_xvector_has_the_published_layout(tmp_path):
    write_xvector(tmp_path, xvector_size=12)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["WavLMForXVector"]
    # Those of microsoft/wavlm-base-plus-sv; only the widths are smaller.
    assert config["feat_extract_norm"] == "group"
    assert (config["tdnn_kernel"], config["tdnn_dilation"]) == ([5, 3, 3, 1, 1], [1, 2, 3, 1, 1])
    extractor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert extractor["sampling_rate"] == 16_000
    model, report = WavLMForXVector.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.no_grad():
        found = model.eval()(torch.randn(1, 8_000, generator=torch.Generator().manual_seed(0)))
    assert found.embeddings.shape == (1, 12)
    assert found.embeddings.norm() > 0.01
