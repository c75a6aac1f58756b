from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_set import CONFIG, GOLDEN
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from abhinaya.demo.checkpoints.llama import Layout, write_llama
from abhinaya.demo.corpus.sentences import make_sentence
from abhinaya.errors import BadValueError, MissingPackageError

LAYOUTS: tuple[Layout, ...] = ("vicuna", "llama3")


def read_all(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def load(folder: Path) -> tuple[Any, Any]:
    """Model in float32 and tokenizer, as transformers alone reads them."""
    loader: Any = AutoModelForCausalLM
    model, report = loader.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(report.values()), report
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    return model.eval(), tokenizer


def test_vicuna_has_the_files_and_keys_of_a_published_one(tmp_path: Path) -> None:
    write_llama(tmp_path, n_layers=CONFIG["llama"]["num_hidden_layers"])
    assert set(read_all(tmp_path)) == {
        "config.json",
        "generation_config.json",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model-00002-of-00002.bin",
        "pytorch_model.bin.index.json",
        "tokenizer.model",
        "tokenizer_config.json",
    }
    name = "pytorch_model.bin.index.json"
    ours, theirs = read_json(tmp_path / name), read_json(GOLDEN / "llama" / name)
    assert ours["weight_map"].keys() == theirs["weight_map"].keys()
    stored: dict[str, torch.Tensor] = {}
    for shard in sorted(set(ours["weight_map"].values())):
        content = torch.load(tmp_path / shard, weights_only=True)
        assert {ours["weight_map"][key] for key in content} == {shard}
        stored |= content
    assert stored.keys() == ours["weight_map"].keys()
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    # two bytes each
    assert ours["metadata"]["total_size"] == 2 * sum(t.numel() for t in stored.values())


def test_llama3_has_the_files_and_shapes_of_a_published_one(tmp_path: Path) -> None:
    write_llama(tmp_path, layout="llama3", n_layers=CONFIG["t2"]["num_hidden_layers"])
    assert set(read_all(tmp_path)) == {
        "config.json",
        "generation_config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    name = "model.safetensors.index.json"
    ours, theirs = read_json(tmp_path / name), read_json(GOLDEN / "t2" / "llama" / name)
    assert ours["weight_map"].keys() == theirs["weight_map"].keys()
    stored = load_file(tmp_path / "model-00001-of-00002.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    # 2 heads of 16 features for keys and values, 4 for queries
    assert stored["model.layers.0.self_attn.k_proj.weight"].shape == (32, 64)
    assert stored["model.layers.0.self_attn.q_proj.weight"].shape == (64, 64)


@pytest.mark.parametrize(
    ("layout", "published"), [("vicuna", "llama"), ("llama3", "t2/llama")], ids=LAYOUTS
)
def test_config_has_the_keys_of_a_published_one(
    tmp_path: Path, layout: Layout, published: str
) -> None:
    write_llama(tmp_path, layout=layout)
    ours, theirs = (read_json(f / "config.json") for f in (tmp_path, GOLDEN / published))
    # Vicuna of 2023 did not know heads of keys and values; the others only repeat what is usual.
    usual = {"attention_bias", "attention_dropout", "mlp_bias", "pretraining_tp"}
    assert theirs.keys() - ours.keys() <= usual | {"transformers_version"}
    assert ours.keys() - theirs.keys() <= {"num_key_value_heads"}
    same = {"rope_scaling", "rope_theta", "torch_dtype", "hidden_act", "rms_norm_eps"}
    for key in same & theirs.keys():
        assert ours[key] == theirs[key]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sizes_are_those_asked_for(tmp_path: Path, layout: Layout) -> None:
    write_llama(
        tmp_path, layout=layout, n_layers=1, n_features=96, n_heads=6, n_kv_heads=3, vocab_size=400
    )
    model, tokenizer = load(tmp_path)
    assert isinstance(model, LlamaForCausalLM)
    assert len(model.model.layers) == 1
    assert model.lm_head.weight.shape == (400, 96)
    # 3 heads of 96 / 6 features
    assert model.model.layers[0].self_attn.v_proj.weight.shape == (48, 96)
    assert len(tokenizer) == 400


def test_vicuna_tokenizer_is_sentencepiece_with_bytes_for_unknown_letters(tmp_path: Path) -> None:
    write_llama(tmp_path)
    _, tokenizer = load(tmp_path)
    assert tokenizer.convert_tokens_to_ids(["<unk>", "<s>", "</s>"]) == [0, 1, 2]
    text = "USER: the café\nat 1,500</s>"
    ids = tokenizer(text).input_ids
    assert ids[0] == 1
    assert ids[-1] == 2
    tokens = tokenizer.convert_ids_to_tokens(ids[1:-1])
    # é is C3 A9 in UTF-8, and digits stand alone.
    assert [t for t in tokens if t.startswith("<0x")] == ["<0xC3>", "<0xA9>", "<0x0A>"]
    assert tokens[-5:] == ["1", ",", "5", "0", "0"]
    assert "▁the" in tokens
    assert tokenizer.decode(ids[1:]) == text


def test_llama3_tokenizer_has_its_special_tokens_at_the_end(tmp_path: Path) -> None:
    write_llama(tmp_path, layout="llama3")
    _, tokenizer = load(tmp_path)
    # 512 pieces, six of them special
    assert tokenizer.bos_token_id == 506
    assert tokenizer.convert_tokens_to_ids("<|eot_id|>") == 511
    assert tokenizer.eos_token == "<|end_of_text|>"
    text = "Describe the café\nat 1,500"
    ids = tokenizer(text).input_ids
    assert ids[0] == 506
    assert max(ids[1:]) < 506
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.chat_template is None


def test_llama3_chat_template_writes_a_turn_per_message(tmp_path: Path) -> None:
    write_llama(tmp_path, layout="llama3", chat_template=True)
    _, tokenizer = load(tmp_path)
    messages = [
        {"role": "system", "content": "Choose one."},
        {"role": "user", "content": " sentence: hi "},
    ]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nChoose one.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nsentence: hi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    ids = tokenizer.apply_chat_template(messages, return_dict=False)
    # Every sign of a turn is one token: begin, end of turn, two header signs, all of them twice.
    assert [ids.count(special) for special in (506, 509, 510, 511)] == [1, 2, 2, 2]
    assert tokenizer.eos_token == "<|eot_id|>"
    assert read_json(tmp_path / "generation_config.json")["eos_token_id"] == [507, 511]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tokenizer_learns_the_texts_it_is_given(tmp_path: Path, layout: Layout) -> None:
    texts = [*40 * ["a quokka"], "numbats sleep in the big house"]
    write_llama(tmp_path, layout=layout, texts=texts, vocab_size=284)
    _, tokenizer = load(tmp_path)
    assert tokenizer.tokenize("a quokka")[-1] in ("▁quokka", "Ġquokka")


def test_vicuna_tokenizer_never_joins_digits(tmp_path: Path) -> None:
    write_llama(tmp_path, texts=[*40 * ["in 1500"], "a quokka sleeps"], vocab_size=280)
    _, tokenizer = load(tmp_path)
    assert tokenizer.tokenize("in 1500") == ["▁in", "▁", "1", "5", "0", "0"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_seed_gives_the_same_bytes_and_another_other_weights(
    tmp_path: Path, layout: Layout
) -> None:
    torch.manual_seed(1)
    write_llama(tmp_path / "a", layout=layout, seed=3)
    torch.manual_seed(2)
    write_llama(tmp_path / "b", layout=layout, seed=3)
    write_llama(tmp_path / "c", layout=layout, seed=4)
    first, again, other = (read_all(tmp_path / name) for name in "abc")
    assert first == again
    differing = {name for name in first if first[name] != other[name]}
    assert {Path(name).suffix for name in differing} <= {".bin", ".safetensors"}
    assert len(differing) == 2


def test_writing_leaves_the_random_numbers_of_the_caller_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    write_llama(tmp_path, n_layers=1)
    assert torch.equal(torch.rand(1), expected)


def spread(vectors: list[torch.Tensor]) -> float:
    """Standard deviation of some vectors around their mean, in lengths of a vector."""
    stacked = torch.stack(vectors)
    return float(stacked.std(dim=0).norm() / stacked.norm(dim=1).mean())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_different_inputs_give_clearly_different_hidden_states(
    tmp_path: Path, layout: Layout
) -> None:
    """With LLaMA's own 0.02 for all weights, speech moved the last state by a sixth only."""
    write_llama(tmp_path, layout=layout)
    model, tokenizer = load(tmp_path)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    embedding = model.get_input_embeddings().weight
    of_sentences, of_speech = [], []
    with torch.no_grad():
        for code in 2 * "ACDFHNSU":
            ids = tokenizer(make_sentence(code, rng), return_tensors="pt").input_ids
            of_sentences.append(model.model(ids).last_hidden_state[0].mean(dim=0))
            # 88 speech tokens between the words of one prompt, seen from its last word
            speech = 0.12 * torch.randn(88, 64, generator=generator)
            embeds = torch.cat([embedding[20:40], speech, embedding[40:60]])
            of_speech.append(model.model(inputs_embeds=embeds[None]).last_hidden_state[0, -1])
    assert spread(of_sentences) > 0.5
    assert spread(of_speech) > 0.5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_texts_too_few_for_the_vocabulary_raise(tmp_path: Path, layout: Layout) -> None:
    with pytest.raises(BadValueError, match=r"do not give .* vocab_size 900.* Give more"):
        write_llama(tmp_path, layout=layout, texts=["one", "two"], vocab_size=900)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_vocabulary_too_small_for_all_bytes_raises(tmp_path: Path, layout: Layout) -> None:
    with pytest.raises(BadValueError, match="do not give a tokenizer of vocab_size 100"):
        write_llama(tmp_path, layout=layout, vocab_size=100)


def test_chat_template_for_vicuna_raises(tmp_path: Path) -> None:
    with pytest.raises(BadValueError, match="Vicuna folder has no chat template"):
        write_llama(tmp_path, chat_template=True)


def test_vicuna_without_sentencepiece_raises_and_llama3_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    write_llama(tmp_path / "llama3", layout="llama3")
    with pytest.raises(MissingPackageError, match=r"needs the package sentencepiece.*\[text\]"):
        write_llama(tmp_path / "vicuna")
