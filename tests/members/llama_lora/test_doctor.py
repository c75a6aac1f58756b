"""The golden T2 (tests/golden/README.md) has no problem; broken copies of it have theirs."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys

import llama_golden as G
import pytest
import torch
from golden_set import LLAMA3
from transformers import GPT2Config, GPT2LMHeadModel

from abhinaya.data.transcripts import write_transcripts
from abhinaya.demo.checkpoints.llama import write_llama
from abhinaya.doctor import memory
from abhinaya.doctor.environment import Device
from abhinaya.doctor.weights import check_member


def findings_of(folder, *, with_memory=False, **changes):
    return check_member(G.make_config(folder, **changes), memory=with_memory)


def problems_of(folder, *, with_memory=False, **changes):
    """(what, details) of each problem."""
    findings = findings_of(folder, with_memory=with_memory, **changes)
    return [(found.what, found.details) for found in findings if found.result == "problem"]


def only_problem(folder, what, text, **changes):
    problems = problems_of(folder, **changes)
    assert [key for key, _ in problems] == [what], problems
    assert re.search(text, problems[0][1]), problems


@pytest.fixture
def llama(tmp_path):
    """A copy of the golden language model, to be broken."""
    return shutil.copytree(LLAMA3, tmp_path / "llama")


def edit_json(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_golden_set_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "find_devices", lambda: ())
    findings = findings_of(tmp_path, with_memory=True)
    assert {found.what: found.result for found in findings} == {
        "base": "ok",
        "tokenizer": "ok",
        "lora": "ok",
        "classifier": "ok",
        "data.transcripts": "note",
        "memory for training": "note",
        "memory for prediction": "note",
    }
    details = {found.what: found.details for found in findings}
    keys = ("num_hidden_layers", "hidden_size", "vocab_size")
    n_layers, width, n_tokens = (G.SIZES[key] for key in keys)
    assert details["base"] == (
        f"the language model is whole: {n_layers} layers of {width} features, {n_tokens} tokens"
    )
    assert details["tokenizer"] == (
        f"{n_tokens} tokens, begins with '<|begin_of_text|>', ends with '<|end_of_text|>'"
    )
    assert details["lora"].endswith("they get adapters of rank {}".format(G.LORA["r"]))
    assert details["classifier"] == f"is whole: {G.N_ADAPTERS + 9} tensors, for 8 classes"
    assert "there is no manifest" in details["data.transcripts"]
    assert "of weights (float32)" in details["memory for training"]


def test_shipped_config_is_checked_by_the_command(tmp_path, capsys):
    from abhinaya.cli import main

    settings = [f"base={LLAMA3}", "weights=float32"]
    with pytest.raises(SystemExit) as done:
        main(["doctor", "members/llama-8b-lora.yaml", *settings, "--json"])
    assert done.value.code == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"base", "tokenizer", "lora"} <= {row["what"] for row in rows}


def test_nothing_of_the_language_model_is_loaded(llama, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        pytest.fail("weights were loaded")

    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", fail)
    monkeypatch.setattr("transformers.AutoModel.from_pretrained", fail)
    assert not problems_of(tmp_path, base=str(llama))


def test_hub_id_that_is_not_on_the_disk_is_a_note(tmp_path, monkeypatch):
    monkeypatch.setattr("abhinaya.doctor.weights.is_offline", lambda: False)
    findings = findings_of(
        tmp_path, with_memory=True, base="nobody/nothing-of-this-name", classifier=None
    )
    assert [(found.what, found.result) for found in findings] == [
        ("base", "note"),
        ("data.transcripts", "note"),
        ("memory", "note"),
    ]


def test_folder_that_is_not_there(tmp_path):
    only_problem(tmp_path, "base", r"There is no .*nowhere", base=str(tmp_path / "nowhere"))


def test_shard_that_is_not_there(llama, tmp_path):
    (llama / "model-00002-of-00003.safetensors").unlink()
    only_problem(tmp_path, "base", r"has no model-00002-of-00003\.safetensors", base=str(llama))


def test_damaged_shard(llama, tmp_path):
    os.truncate(llama / "model-00001-of-00003.safetensors", 1000)
    text = r"model-00001-of-00003\.safetensors' cannot be read as weights"
    only_problem(tmp_path, "base", text, base=str(llama))


def test_files_that_do_not_fit_their_config(llama, tmp_path):
    n_layers = G.SIZES["num_hidden_layers"]
    edit_json(llama / "config.json", num_hidden_layers=n_layers + 1)
    n_keys = 9 * (n_layers + 1) + 2  # embedding and norm too
    text = (
        rf"9 of {n_keys} keys do not fit .* the LlamaModel of its config\.json: missing: "
        rf"'layers\.{n_layers}"
    )
    only_problem(tmp_path, "base", text, base=str(llama), classifier=None)


def test_model_stored_quantized(llama, tmp_path):
    edit_json(llama / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    only_problem(tmp_path, "base", "are stored quantised", base=str(llama))


def test_tokenizer_that_is_not_there(llama, tmp_path):
    (llama / "tokenizer.json").unlink()
    only_problem(tmp_path, "tokenizer", "has no tokenizer", base=str(llama))


def test_tokenizer_with_more_tokens_than_the_model_is_a_note(llama, tmp_path):
    file = llama / "tokenizer.json"
    content = json.loads(file.read_text())
    added = dict(content["added_tokens"][-1], id=G.SIZES["vocab_size"], content="<|more|>")
    content["added_tokens"].append(added)
    file.write_text(json.dumps(content))
    findings = findings_of(tmp_path, base=str(llama))
    (note,) = (f for f in findings if f.what == "tokenizer" and f.result == "note")
    assert "has 505 tokens, but the language model knows 504" in note.details


def test_more_tokens_than_the_model_reads(tmp_path):
    only_problem(tmp_path, "max_tokens", "is 200000, .* reads 131072 at most", max_tokens=200_000)


def test_memory_is_compared_with_the_smallest_device(tmp_path, monkeypatch):
    """It could never fail: no device was passed to the comparison."""
    devices = (Device("cuda:0", "Large", 2**40), Device("cuda:1", "Small", 2**29))
    monkeypatch.setattr(memory, "find_devices", lambda: devices)
    problems = dict(problems_of(tmp_path, with_memory=True))
    # The context alone takes 0.75 GiB; 0.85 of it is more than half a GiB.
    assert problems.keys() == {"memory for training", "memory for prediction"}
    assert problems["memory for training"].endswith(
        "Small has 512.0 MiB. Choose a smaller batch, training.activation_checkpointing: true, "
        "or weights: nf4."
    )


def test_layers_that_are_not_there(tmp_path):
    changes = {"lora": {"target_modules": ["query"]}, "classifier": None}
    only_problem(tmp_path, "lora", "names 'query', but no linear layer of the Llama", **changes)


def test_classifier_of_another_rank_and_head(tmp_path):
    # The adapters; fc has weight and bias, out its weight.
    text = (
        rf"{G.N_ADAPTERS + 3} of {G.N_ADAPTERS + 9} keys do not fit .* size mismatch for .*: "
        rf"\({G.LORA['r']}, {G.SIZES['hidden_size']}\) against"
    )
    changes = {"lora": {"rank": G.LORA["r"] + 1}, "head": {"hidden": 16, "norm": "none"}}
    only_problem(tmp_path, "classifier", text, **changes)


def test_classifier_that_cannot_be_read(tmp_path):
    os.truncate(shutil.copy(G.CLASSIFIER, tmp_path / "half.pth"), 1000)
    text = r"half\.pth' cannot be read as weights"
    only_problem(tmp_path, "classifier", text, classifier=str(tmp_path / "half.pth"))


def test_bitsandbytes_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    only_problem(tmp_path, "weights", r"weights: nf4 needs the package bitsandb", weights="nf4")


def test_transcripts_that_are_missing(tmp_path):
    data = {"manifest": str(tmp_path / "manifest.parquet")}
    only_problem(tmp_path, "data.transcripts", "is missing, but this member reads", data=data)
    (tmp_path / "manifest.parquet").touch()
    write_transcripts(
        [{"utterance": "a.wav", "source": "human", "text": "so"}],
        tmp_path / "transcripts.parquet",
    )
    data["transcripts"] = {"train": "human", "predict": "whisper"}
    text = "Unknown transcript source 'whisper'"
    only_problem(tmp_path, "data.transcripts.predict", text, data=data)
    findings = findings_of(tmp_path, data=data)
    (found,) = (found for found in findings if found.what == "data.transcripts.train")
    assert found.details == "1 utterances of the source 'human'"


def test_several_problems_are_found_at_once(llama, tmp_path):
    (llama / "model-00002-of-00003.safetensors").unlink()
    (llama / "tokenizer.json").write_text("{")
    data = {"manifest": "manifest.parquet"}
    problems = problems_of(tmp_path, base=str(llama), data=data, classifier=str(tmp_path / "no"))
    assert [what for what, _ in problems] == ["base", "tokenizer", "data.transcripts", "classifier"]


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_another_family_is_looked_at_without_comparing_names(tmp_path):
    """Its files may have names that only the loader of its class knows."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=384, n_embd=32, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    write_llama(tmp_path / "llama", layout="llama3", vocab_size=384)
    for file in (tmp_path / "llama").glob("tokenizer*"):
        shutil.copy(file, tmp_path / "gpt2")
    changes = {"base": str(tmp_path / "gpt2"), "classifier": None}
    changes["lora"] = {"target_modules": ["c_attn"]}
    findings = findings_of(tmp_path, **changes)
    assert not [found for found in findings if found.result == "problem"]
    assert findings[0].details == (
        "the language model has all its files: 2 layers of 32 features, 384 tokens"
    )
