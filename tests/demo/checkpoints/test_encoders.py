from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import whisper
from transformers import AutoModel, WavLMModel, WhisperForConditionalGeneration

from abhinaya.demo.checkpoints.encoders import write_wavlm, write_whisper, write_whisper_openai

SMALL: dict[str, Any] = {"chunk_s": 1, "n_layers": 2, "n_features": 32}


def read_all(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_wavlm_loads_as_published_and_makes_fifty_frames_per_second(
    tmp_path: Path, norm: Literal["layer", "group"]
) -> None:
    write_wavlm(tmp_path, norm=norm)
    model, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(model, WavLMModel)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.feat_extract_norm == norm
    assert model.config.do_stable_layer_norm == (norm == "layer")
    # (16000 - 400) / 320 + 1, rounded down
    assert model(torch.zeros(1, 16000)).last_hidden_state.shape == (1, 49, 64)
    assert set(read_all(tmp_path)) == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }


def test_wavlm_one_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    torch.manual_seed(1)
    write_wavlm(tmp_path / "a", seed=3)
    torch.manual_seed(2)
    write_wavlm(tmp_path / "b", seed=3)
    write_wavlm(tmp_path / "c", seed=4)
    first, again, other = (read_all(tmp_path / name) for name in "abc")
    assert first == again
    assert first["model.safetensors"] != other["model.safetensors"]


def test_writing_leaves_the_random_numbers_of_the_caller_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    write_wavlm(tmp_path, n_layers=1)
    assert torch.equal(torch.rand(1), expected)


def test_whisper_folder_has_the_window_that_was_asked_for(tmp_path: Path) -> None:
    write_whisper(tmp_path, chunk_s=5, n_layers=2, n_features=32)
    whisper_class: Any = WhisperForConditionalGeneration
    model, report = whisper_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    # 50 frames per second
    assert model.config.max_source_positions == 250
    preprocessor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert preprocessor["chunk_length"] == 5
    assert preprocessor["feature_size"] == 80


def test_whisper_one_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_whisper(tmp_path / name, seed=3, **SMALL)
        write_whisper_openai(tmp_path / name / f"{name}.pt", seed=3, **SMALL)
    first, again = read_all(tmp_path / "a"), read_all(tmp_path / "b")
    assert first.pop("a.pt") == again.pop("b.pt")
    assert first == again


def test_openai_file_is_the_same_model_to_openai_whisper(tmp_path: Path) -> None:
    write_whisper(tmp_path, seed=7, **SMALL)
    write_whisper_openai(tmp_path / "tiny.pt", seed=7, **SMALL)
    theirs = whisper.load_model(str(tmp_path / "tiny.pt"), device="cpu")
    ours: Any = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    ours.eval()
    features = torch.randn(2, 80, 100, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[3, 9, 11], [3, 4, 60]])
    with torch.no_grad():
        expected = theirs(features, tokens)
        logits = ours(input_features=features, decoder_input_ids=tokens).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.01


def test_whisper_with_a_full_vocabulary_is_one_that_openai_whisper_decodes_with(
    tmp_path: Path,
) -> None:
    size = {**SMALL, "n_tokens": 51865, "n_positions": 20, "n_decoder_layers": 2}
    write_whisper_openai(tmp_path / "tiny.pt", **size)
    model = whisper.load_model(str(tmp_path / "tiny.pt"), device="cpu")
    assert (model.dims.n_text_layer, model.dims.n_text_ctx) == (2, 20)
    options = whisper.DecodingOptions(language="en", fp16=False)
    result: Any = whisper.decode(model, torch.zeros(80, 100), options)
    # Half of the positions are for the text.
    assert len(result.tokens) <= 10
