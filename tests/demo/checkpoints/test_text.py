"""The tiny RoBERTa has the layout of the published one."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, RobertaConfig, RobertaForMaskedLM

from abhinaya.demo.checkpoints.text import write_roberta


def test_tiny_roberta_has_the_tensors_and_special_tokens_of_the_published_one(
    tmp_path: Path,
) -> None:
    """355 million parameters, as RoBERTa-large's paper says; its tokenizer adds <s> and </s>."""
    published = RobertaConfig(
        vocab_size=50_265,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=514,
        type_vocab_size=1,
    )
    with torch.device("meta"):
        theirs = RobertaForMaskedLM(published)
    assert round(sum(p.numel() for p in theirs.parameters()) / 1e6) == 355
    write_roberta(tmp_path / "one")
    ours = load_file(tmp_path / "one" / "model.safetensors")
    kinds = {name for name in theirs.state_dict() if not name.startswith("lm_head.decoder")}
    assert {name for name in kinds if "layer." not in name or ".layer.0." in name} <= set(ours)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "one")
    ids = tokenizer("so late")["input_ids"]
    assert (ids[0], ids[-1], tokenizer.pad_token_id) == (0, 2, 1)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "so late"
    write_roberta(tmp_path / "two")
    for file in (tmp_path / "one").iterdir():
        assert (tmp_path / "two" / file.name).read_bytes() == file.read_bytes()
