from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import whisper
from safetensors.torch import load_file, save_file
from tiny_whisper import Layouts, write_tiny
from transformers import WhisperForConditionalGeneration

from abhinaya.asr.model import fingerprint, load_whisper, model_name
from abhinaya.demo.checkpoints.encoders import write_whisper, write_whisper_openai
from abhinaya.errors import (
    CheckpointError,
    MissingFileError,
    MissingPackageError,
    UnknownNameError,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Layouts:
    return write_tiny(tmp_path_factory.mktemp("tiny"), chunk_s=1, n_decoder_layers=2)


@pytest.fixture
def hub(tiny: Layouts, tmp_path: Path) -> Path:
    """A copy of the folder, to be spoiled."""
    return Path(shutil.copytree(tiny.hub, tmp_path / "hub"))


@pytest.fixture
def official(tiny: Layouts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a publisher that has one official model, `base`; the cache is empty."""
    digest = hashlib.sha256(tiny.openai.read_bytes()).hexdigest()
    file = tmp_path / "publisher" / digest / "base.pt"
    file.parent.mkdir(parents=True)
    shutil.copyfile(tiny.openai, file)
    monkeypatch.setitem(whisper._MODELS, "base", file.as_uri())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return file


@pytest.mark.parity
@pytest.mark.parametrize("layout", ["hub", "openai"])
def test_both_layouts_compute_what_transformers_computes(tiny, layout):
    ours = load_whisper(str(getattr(tiny, layout)), CPU)
    theirs = WhisperForConditionalGeneration.from_pretrained(tiny.hub).eval()
    features = torch.randn(2, 80, 100, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[50258, 50259, 50359], [50258, 50261, 50359]])
    with torch.no_grad():
        expected = theirs(input_features=features, decoder_input_ids=tokens).logits
        torch.testing.assert_close(ours(features, tokens), expected, rtol=1e-4, atol=1e-3)
    assert expected.std() > 1
    assert not ours.training


def test_old_folder_with_pickled_weights_and_the_output_layer_twice_loads(tiny, hub):
    weights = load_file(hub / "model.safetensors")
    weights["proj_out.weight"] = weights["model.decoder.embed_tokens.weight"].clone()
    (hub / "model.safetensors").unlink()
    torch.save(weights, hub / "pytorch_model.bin")
    assert fingerprint(load_whisper(str(hub), CPU)) == fingerprint(
        load_whisper(str(tiny.openai), CPU)
    )


def test_fingerprint_tells_weights_apart_but_not_layouts(tiny, hub):
    first = [fingerprint(load_whisper(str(path), CPU)) for path in tiny]
    assert first[0] == first[1]
    assert len(first[0]) == 8
    weights = load_file(hub / "model.safetensors")
    weights["model.decoder.layers.1.fc1.weight"] += 0.01
    save_file(weights, hub / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(load_whisper(str(hub), CPU)) != first[0]


def test_names_of_models(tiny, tmp_path):
    assert model_name("large") == model_name("large-v3") == "large-v3"
    assert model_name("turbo") == "large-v3-turbo"
    assert model_name(str(tiny.openai)) == "tiny"
    assert model_name(f"{tiny.hub}/") == "hub"


def test_encoder_alone_cannot_transcribe_in_either_layout(tiny, hub, tmp_path):
    expected = r"holds the encoder of a Whisper model alone.*cannot transcribe. Give the full model"
    weights = load_file(hub / "model.safetensors")
    encoder = {name: value for name, value in weights.items() if ".encoder." in name}
    save_file(encoder, hub / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=expected):
        load_whisper(str(hub), CPU)
    content = torch.load(tiny.openai, weights_only=True)
    state = content["model_state_dict"]
    content["model_state_dict"] = {k: v for k, v in state.items() if k.startswith("encoder.")}
    torch.save(content, tmp_path / "encoder.pt")
    with pytest.raises(CheckpointError, match=rf"encoder\.pt' {expected}"):
        load_whisper(str(tmp_path / "encoder.pt"), CPU)


@pytest.mark.weights
@pytest.mark.parametrize(
    "name", ["whisper-tiny-en-encoder-hf", "whisper-tiny-en-encoder-openai/tiny.en-encoder.pt"]
)
def test_published_encoder_alone_cannot_transcribe(material, name):
    if not (material / "weights" / name).exists():
        pytest.skip("the Whisper tiny.en encoder is not in ABHINAYA_MATERIAL/weights")
    with pytest.raises(CheckpointError, match="holds the encoder of a Whisper model alone"):
        load_whisper(str(material / "weights" / name), CPU)


def test_other_vocabulary_raises(tmp_path):
    write_whisper_openai(tmp_path / "tiny.pt", chunk_s=1)
    with pytest.raises(CheckpointError, match=r"knows 64 tokens, but .* have 51864, 51865, 51866"):
        load_whisper(str(tmp_path / "tiny.pt"), CPU)
    write_whisper(tmp_path / "hub", chunk_s=1)
    with pytest.raises(CheckpointError, match=r"hub' knows 64 tokens"):
        load_whisper(str(tmp_path / "hub"), CPU)


def test_missing_and_foreign_keys_raise(hub):
    weights = load_file(hub / "model.safetensors")
    weights["model.decoder.layers.7.fc1.weight"] = weights.pop("model.decoder.layers.1.fc1.weight")
    save_file(weights, hub / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError,
        match=r"2 of \d+ keys do not fit.*missing: 'decoder.blocks.1.mlp.0.weight'; "
        r"unexpected: 'decoder.blocks.7.mlp.0.weight'",
    ):
        load_whisper(str(hub), CPU)


def test_unknown_name_raises_with_the_official_ones():
    with pytest.raises(
        UnknownNameError, match=r"Unknown file, folder or official model 'large-v4'\. Did you mean"
    ):
        load_whisper("large-v4", CPU)


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("config.json", None, MissingFileError, "has no config.json"),
        ("config.json", "{", CheckpointError, r"config\.json' is no JSON"),
        ("config.json", '{"model_type": "bert"}', CheckpointError, "of type 'bert', expected 'wh"),
        (
            "config.json",
            json.dumps({"model_type": "whisper", "d_model": 64}),
            CheckpointError,
            "lacks 'decoder_attention_heads', 'decoder_layers', .*'vocab_size'",
        ),
        ("model.safetensors", None, MissingFileError, "has no weights"),
    ],
)
def test_folder_with_a_wrong_file_raises(hub, name, content, error, message):
    if content is None:
        (hub / name).unlink()
    else:
        (hub / name).write_text(content)
    with pytest.raises(error, match=message):
        load_whisper(str(hub), CPU)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}}, "has no 'dims' and 'model_state_dict', expected a file of openai-wh"),
        ({"dims": {"n_mels": 80}, "model_state_dict": {}}, r"'dims' of .* lack 'n_audio_ctx', "),
    ],
)
def test_file_of_another_kind_raises(tmp_path, content, message):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=message):
        load_whisper(str(tmp_path / "other.pt"), CPU)


def test_official_model_is_fetched_only_if_allowed_and_then_found(official, tiny):
    with pytest.raises(
        MissingFileError, match=r"'base' is not at '.*cache/whisper/base\.pt'\. Add --download"
    ):
        load_whisper("base", CPU)
    fetched = load_whisper("base", CPU, may_download=True)
    assert fingerprint(fetched) == fingerprint(load_whisper(str(tiny.openai), CPU))
    official.unlink()
    assert fingerprint(load_whisper("base", CPU)) == fingerprint(fetched)


def test_official_model_that_cannot_be_fetched_raises(official):
    official.unlink()
    with pytest.raises(
        MissingFileError, match=r"'base' could not be fetched from 'file:.*copy the file to '.*base"
    ):
        load_whisper("base", CPU, may_download=True)


def test_without_openai_whisper_the_extra_is_named(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "whisper", None)
    with pytest.raises(MissingPackageError, match=r"Transcribing needs .*whisper.*abhinaya\[asr\]"):
        load_whisper(str(tiny.openai), CPU)
