"""What is said of language models and tokenizers that cannot be loaded, or not as a whole."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from golden_set import LLAMA, LLAMA3
from transformers import BertConfig, BertModel

from abhinaya.demo.checkpoints.llama import Layout, write_llama
from abhinaya.errors import CheckpointError, MissingFileError, MissingPackageError
from abhinaya.nn.language_model import (
    Weights,
    language_model_shapes,
    load_language_model,
    load_tokenizer,
)

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:1f2e\nsize 9876543210\n"


@pytest.fixture(params=["vicuna", "llama3"])
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder to damage."""
    layout: Layout = request.param
    write_llama(tmp_path / "copy", layout=layout)
    return tmp_path / "copy"


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | changes), encoding="utf-8")


def second_shard(folder: Path) -> Path:
    (shard,) = folder.glob("*-00002-of-00002.*")
    return shard


@pytest.mark.parametrize("load", [load_language_model, load_tokenizer, language_model_shapes])
def test_absent_folder_raises(tmp_path: Path, load: Any) -> None:
    with pytest.raises(MissingFileError, match=r"absent' is not there\. Give base as a folder"):
        load(str(tmp_path / "absent"))
    (tmp_path / "file.bin").touch()
    with pytest.raises(MissingFileError, match=r"file\.bin' is a file"):
        load(str(tmp_path / "file.bin"))


@pytest.mark.parametrize("load", [load_language_model, load_tokenizer])
def test_hub_id_that_cannot_be_fetched_raises(load: Any) -> None:
    with pytest.raises(
        MissingFileError, match=r"no folder 'nobody/nothing', and as a hub id .* go online once"
    ):
        load("nobody/nothing")


def test_folder_without_config_raises(copy: Path) -> None:
    (copy / "config.json").unlink()
    with pytest.raises(MissingFileError, match=r"has no config\.json, so it is no model"):
        load_language_model(str(copy))


@pytest.mark.parametrize("content", ["{", "{}", '{"model_type": "unheard-of"}'])
def test_config_that_says_nothing_raises(copy: Path, content: str) -> None:
    (copy / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"copy' cannot be loaded: .* Download the model"):
        load_language_model(str(copy))


def test_pointers_of_git_lfs_raise_and_are_all_named(copy: Path) -> None:
    shard = second_shard(copy)
    shard.write_text(POINTER, encoding="utf-8")
    (copy / "tokenizer.model").write_text(POINTER, encoding="utf-8")
    message = (
        f"2 files in .* pointers of git-lfs .*'{shard.name}', 'tokenizer.model'.* git lfs pull"
    )
    for load in (load_language_model, load_tokenizer):
        with pytest.raises(MissingFileError, match=message):
            load(str(copy))


def test_absent_shard_raises(copy: Path) -> None:
    second_shard(copy).unlink()
    with pytest.raises(MissingFileError, match=r"has no .*-00002-of-00002.*which its index names"):
        load_language_model(str(copy))


@pytest.mark.parametrize("n_bytes", [0, 3, 3000])
def test_cut_off_shard_raises_and_is_named(copy: Path, n_bytes: int) -> None:
    shard = second_shard(copy)
    shard.write_bytes(shard.read_bytes()[:n_bytes])
    with pytest.raises(CheckpointError, match=r"-00002-of-00002\..* cannot be read as weights"):
        load_language_model(str(copy))


def test_another_kind_of_model_raises(tmp_path: Path) -> None:
    config: Any = BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"holds BertModel, which is no causal language model"
    ):
        load_language_model(str(tmp_path))
    edit_config(tmp_path, model_type="wavlm", architectures=None)
    with pytest.raises(
        CheckpointError, match=r"holds a model of type 'wavlm', .* such as LlamaForCausalLM"
    ):
        load_language_model(str(tmp_path))


def test_stored_quantized_weights_raise(copy: Path) -> None:
    """Otherwise transformers takes them as they are, whatever type was asked for."""
    edit_config(copy, quantization_config={"load_in_4bit": True, "quant_method": "bitsandbytes"})
    with pytest.raises(CheckpointError, match="stored quantised, expected plain ones"):
        load_language_model(str(copy))


@pytest.mark.parametrize("weights", ["float32", "int8", "nf4"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 3}, r"^9 of .* LlamaModel .* missing: 'layers\.2\."),
        ({"num_hidden_layers": 1}, r"^9 of .* unexpected: 'model\.layers\.1\."),
        # gate, up and down of two layers
        ({"intermediate_size": 99}, r"^6 of .* size mismatch for layers\.0\.mlp\.down_proj"),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_weights_that_do_not_fit_their_config_raise(
    copy: Path, weights: Weights, changes: dict[str, int], message: str
) -> None:
    if weights != "float32":
        pytest.importorskip("bitsandbytes")
    edit_config(copy, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_language_model(str(copy), weights=weights)


def test_head_that_is_not_in_the_files_raises_only_where_it_is_wanted(tmp_path: Path) -> None:
    load_language_model(str(LLAMA3)).save_pretrained(tmp_path)
    edit_config(tmp_path, architectures=["LlamaForCausalLM"])
    with pytest.raises(CheckpointError, match=r"^1 of .* missing: 'lm_head\.weight'"):
        load_language_model(str(tmp_path), head=True)
    load_language_model(str(tmp_path))


def test_folder_without_tokenizer_raises(copy: Path) -> None:
    """From a folder with nothing else transformers makes an empty tokenizer."""
    for file in copy.glob("tokenizer.*"):
        file.unlink()
    with pytest.raises(MissingFileError, match=r"has no tokenizer, expected tokenizer\.json or"):
        load_tokenizer(str(copy))


@pytest.fixture
def vicuna(tmp_path: Path) -> Path:
    """A folder with Vicuna's tokenizer to damage."""
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(LLAMA / name, tmp_path)
    return tmp_path


def test_sentencepiece_without_its_config_raises(vicuna: Path) -> None:
    """Without it transformers takes other rules for blanks, and other ids come out."""
    (vicuna / "tokenizer_config.json").unlink()
    with pytest.raises(MissingFileError, match=r"but no tokenizer_config\.json, which says how"):
        load_tokenizer(str(vicuna))


@pytest.mark.parametrize("n_bytes", [5, 3000])
def test_cut_off_sentencepiece_raises(vicuna: Path, n_bytes: int) -> None:
    file = vicuna / "tokenizer.model"
    file.write_bytes(file.read_bytes()[:n_bytes])
    with pytest.raises(CheckpointError, match=r"tokenizer of .* cannot be read: .* Download it"):
        load_tokenizer(str(vicuna))


@pytest.mark.parametrize(
    ("module", "package"), [("sentencepiece", "sentencepiece"), ("google.protobuf", "protobuf")]
)
def test_sentencepiece_file_without_its_packages_raises(
    vicuna: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        MissingPackageError, match=rf"Reading tokenizer\.model needs the package {package}\."
    ):
        load_tokenizer(str(vicuna))
    # The other layout needs neither.
    assert load_tokenizer(str(LLAMA3))("hi").input_ids


def test_quantized_weights_without_bitsandbytes_raise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(
        MissingPackageError, match=r"weights: nf4 needs the package bitsandbytes.*\[quant\]"
    ):
        load_language_model(str(LLAMA3), weights="nf4")


def test_sentencepiece_file_from_the_hub_without_its_package_raises(
    vicuna: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path_factory.mktemp("hub")
    model = cache / "models--nobody--vicuna"
    shutil.copytree(vicuna, model / "snapshots" / "0123")
    shutil.copy(LLAMA / "config.json", model / "snapshots" / "0123")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0123", encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    assert load_tokenizer("nobody/vicuna")("</s>").input_ids[-1] == 2
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(MissingPackageError, match="needs the package sentencepiece"):
        load_tokenizer("nobody/vicuna")
