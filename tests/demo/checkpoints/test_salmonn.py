from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_set import CONFIG
from golden_set import SALMONN as PUBLISHED
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from abhinaya.demo.checkpoints.salmonn import write_salmonn

SIZES: dict[str, Any] = {
    "whisper_width": CONFIG["whisper"]["d_model"],
    "beats_width": CONFIG["beats_cfg"]["encoder_embed_dim"],
    "beats_layers": CONFIG["beats_cfg"]["encoder_layers"],
    "llm_layers": CONFIG["llama"]["num_hidden_layers"],
    "llm_width": CONFIG["llama"]["hidden_size"],
    "llm_heads": CONFIG["llama"]["num_attention_heads"],
    "lora_rank": CONFIG["lora"]["r"],
    "qformer_width": CONFIG["qformer"]["hidden_size"],
    "qformer_ffn_width": CONFIG["qformer"]["intermediate_size"],
}

Tensors = dict[str, torch.Tensor]


def read(file: Path) -> Tensors:
    content = torch.load(file, weights_only=True)
    assert content.keys() == {"model"}
    tensors: Tensors = content["model"]
    return tensors


def test_same_sizes_give_the_keys_shapes_and_types_of_a_published_file(tmp_path: Path) -> None:
    write_salmonn(tmp_path / "tiny.pth", **SIZES)
    ours, theirs = read(tmp_path / "tiny.pth"), read(PUBLISHED)
    theirs["speech_query_tokens"] = theirs["speech_query_tokens"][:, :1]
    assert list(ours) == list(theirs)
    assert {k: (v.shape, v.dtype) for k, v in ours.items()} == {
        k: (v.shape, v.dtype) for k, v in theirs.items()
    }
    # Buffers are no random numbers.
    for name in ("position_ids", "inv_freq"):
        keys = [key for key in ours if key.endswith(name)]
        assert keys
        for key in keys:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-3, atol=0)


def test_without_extras_only_what_was_trained_is_left_and_unchanged(tmp_path: Path) -> None:
    write_salmonn(tmp_path / "all.pth", **SIZES)
    write_salmonn(tmp_path / "trained.pth", extras=False, **SIZES)
    full, trained = read(tmp_path / "all.pth"), read(tmp_path / "trained.pth")
    left_out = full.keys() - trained.keys()
    # one per block of the language model, one per later block of BEATs, one of the Q-Former
    ends = sorted(re.sub(r".*(layers\.\d+|embeddings)\.", "", key) for key in left_out)
    assert ends == [
        "position_ids",
        *(SIZES["beats_layers"] - 1) * ["self_attn.relative_attention_bias.weight"],
        *SIZES["llm_layers"] * ["self_attn.rotary_emb.inv_freq"],
    ]
    for key, value in trained.items():
        assert torch.equal(value, full[key])


def qformer(tensors: Tensors, **sizes: int) -> Any:
    """Transformers' own Q-Former with the weights of a file, no key left over or missing."""
    config: Any = Blip2QFormerConfig(
        num_attention_heads=2,
        cross_attention_frequency=1,
        use_qformer_text_input=False,
        **sizes,
    )
    prefix = "speech_Qformer.bert."
    renamed = {
        key.removeprefix(prefix)
        .replace("embeddings.LayerNorm", "layernorm")
        .replace("attention.self", "attention.attention"): value
        for key, value in tensors.items()
        if key.startswith(prefix) and "position_ids" not in key
    }
    model = Blip2QFormerModel(config)
    model.load_state_dict(renamed, strict=True)
    return model.eval()


def test_qformer_fits_into_transformers_and_tells_sounds_apart(tmp_path: Path) -> None:
    write_salmonn(tmp_path / "tiny.pth", whisper_width=24, beats_width=40, llm_width=128)
    tensors = read(tmp_path / "tiny.pth")
    model = qformer(
        tensors,
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=64,
        encoder_hidden_size=64,
    )
    # 50 windows of 17 frames
    windows = torch.randn(50, 17, 64, generator=torch.Generator().manual_seed(0))
    queries = tensors["speech_query_tokens"].expand(50, -1, -1)
    with torch.no_grad():
        hidden = model(query_embeds=queries, encoder_hidden_states=windows).last_hidden_state
    weight, bias = tensors["speech_llama_proj.weight"], tensors["speech_llama_proj.bias"]
    speech = hidden[:, 0] @ weight.T + bias
    assert speech.shape == (50, 128)
    # As large as the embeddings of the demo's language models, 0.12, within a third of it ...
    assert 0.08 < speech.square().mean().sqrt() < 0.16
    # ... and not alike: windows differ by more than a quarter of their size.
    assert speech.std(dim=0).mean() > 0.03


def test_one_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    torch.manual_seed(1)
    write_salmonn(tmp_path / "a.pth", seed=3)
    torch.manual_seed(2)
    write_salmonn(tmp_path / "b.pth", seed=3)
    expected = torch.get_rng_state()
    write_salmonn(tmp_path / "c.pth", seed=4)
    first, again, other = ((tmp_path / f"{name}.pth").read_bytes() for name in "abc")
    assert first == again
    assert first != other
    assert torch.equal(torch.get_rng_state(), expected)


@pytest.mark.parametrize(("std", "changes"), [(0.0, False), (0.1, True)])
def test_adapters_change_something_unless_they_are_to_be_fresh(
    tmp_path: Path, std: float, changes: bool
) -> None:
    write_salmonn(tmp_path / "tiny.pth", lora_std=std)
    second = {key: v for key, v in read(tmp_path / "tiny.pth").items() if ".lora_B." in key}
    # two projections in each of two blocks
    assert len(second) == 4
    assert all(bool(value.any()) == changes for value in second.values())


def test_adapters_fit_a_language_model_with_fewer_heads_of_values(tmp_path: Path) -> None:
    write_salmonn(tmp_path / "tiny.pth", llm_heads=4, llm_kv_heads=1, lora_rank=2)
    tensors = read(tmp_path / "tiny.pth")
    attention = "llama_model.base_model.model.model.layers.1.self_attn"
    assert tensors[f"{attention}.q_proj.lora_B.default.weight"].shape == (64, 2)
    # one head of 64 / 4 features
    assert tensors[f"{attention}.v_proj.lora_B.default.weight"].shape == (16, 2)
