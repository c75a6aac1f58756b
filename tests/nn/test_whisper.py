from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import whisper
from safetensors.torch import load_file, save_file
from transformers import BertConfig, WhisperFeatureExtractor
from whisper.model import ModelDimensions, Whisper

from abhinaya.demo.checkpoints.encoders import write_whisper, write_whisper_openai
from abhinaya.errors import CheckpointError, MissingFileError
from abhinaya.nn.whisper import load_encoder, load_feature_extractor, log_mel

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_whisper(tmp_path / "hub", chunk_s=1, n_layers=2, n_features=32)
    return tmp_path / "hub"


def stored(folder: Path) -> Tensors:
    return load_file(folder / "model.safetensors")


def encoder_part(weights: Tensors) -> Tensors:
    prefix = "model.encoder."
    return {key.removeprefix(prefix): v for key, v in weights.items() if key.startswith(prefix)}


def assert_holds(base: object, expected: Tensors) -> None:
    state = load_encoder(str(base)).state_dict()
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(state[key], value.float(), rtol=0, atol=0)


def test_hub_folder_gives_the_stored_encoder(folder: Path) -> None:
    encoder = load_encoder(str(folder))
    assert_holds(folder, encoder_part(stored(folder)))
    assert not encoder.training
    assert not encoder.embed_positions.weight.requires_grad
    assert encoder(torch.zeros(1, 80, 100)).last_hidden_state.shape == (1, 50, 32)


@pytest.mark.parametrize("prefix", ["model.encoder.", "encoder.", ""])
def test_hub_folder_with_the_encoder_alone_under_any_prefix_fits(folder: Path, prefix: str) -> None:
    expected = encoder_part(stored(folder))
    (folder / "model.safetensors").unlink()
    save_file({prefix + key: v for key, v in expected.items()}, folder / "encoder.safetensors")
    assert_holds(folder, expected)


def test_hub_folder_with_shards_and_index_fits(folder: Path) -> None:
    weights = stored(folder)
    (folder / "model.safetensors").unlink()
    keys = sorted(weights)
    halves = {"a.safetensors": keys[::2], "b.safetensors": keys[1::2]}
    for name, part in halves.items():
        save_file({key: weights[key] for key in part}, folder / name)
    weight_map = {key: name for name, part in halves.items() for key in part}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert_holds(folder, encoder_part(weights))
    (folder / "b.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"has no b.safetensors, which its index names"):
        load_encoder(str(folder))


@pytest.mark.parametrize("sharded", [False, True])
def test_hub_folder_with_pickled_half_precision_becomes_float32(
    folder: Path, sharded: bool
) -> None:
    weights = {key: value.half() for key, value in stored(folder).items()}
    (folder / "model.safetensors").unlink()
    if sharded:
        torch.save(weights, folder / "pytorch_model-00001-of-00001.bin")
        weight_map = dict.fromkeys(weights, "pytorch_model-00001-of-00001.bin")
        index = folder / "pytorch_model.bin.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
    else:
        torch.save(weights, folder / "pytorch_model.bin")
    assert_holds(folder, encoder_part(weights))


def test_hub_folder_second_precision_beside_the_model_is_not_mixed_in(folder: Path) -> None:
    """whisper-large-v3 ships its weights twice, under other file names."""
    weights = stored(folder)
    zeros = {key: torch.zeros_like(value) for key, value in weights.items()}
    save_file(zeros, folder / "model.fp32-00001-of-00001.safetensors")
    assert_holds(folder, encoder_part(weights))


def test_openai_file_gives_the_same_encoder_as_the_hub_folder(folder: Path, tmp_path: Path) -> None:
    write_whisper_openai(tmp_path / "tiny.pt", chunk_s=1, n_layers=2, n_features=32)
    assert_holds(tmp_path / "tiny.pt", encoder_part(stored(folder)))


@pytest.mark.parity
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older-pickle"])
def test_openai_encoder_matches_whisper_itself(tmp_path: Path, zipped: bool) -> None:
    torch.manual_seed(0)
    dims = ModelDimensions(
        n_mels=80,
        n_audio_ctx=100,
        n_audio_state=48,
        n_audio_head=3,
        n_audio_layer=3,
        n_vocab=50,
        n_text_ctx=8,
        n_text_state=48,
        n_text_head=3,
        n_text_layer=2,
    )
    theirs = Whisper(dims).eval()
    content = {"dims": vars(dims), "model_state_dict": theirs.state_dict()}
    torch.save(content, tmp_path / "tiny.pt", _use_new_zipfile_serialization=zipped)
    features = torch.randn(2, 80, 200)
    with torch.no_grad():
        expected = theirs.encoder(features)
        ours = load_encoder(str(tmp_path / "tiny.pt"))(features).last_hidden_state
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parity
def test_feature_extractor_of_an_openai_file_matches_whisper_itself(tmp_path: Path) -> None:
    write_whisper_openai(tmp_path / "tiny.pt", chunk_s=2, n_mels=128, n_layers=1, n_features=16)
    extractor = load_feature_extractor(str(tmp_path / "tiny.pt"))
    waveform = torch.randn(20000, generator=torch.Generator().manual_seed(0)) / 10
    ours = extractor(waveform.numpy(), sampling_rate=16000, return_tensors="pt").input_features
    padded = whisper.pad_or_trim(waveform, 32000)
    expected = whisper.log_mel_spectrogram(padded, n_mels=128)
    assert ours.shape == (1, 128, 200)
    torch.testing.assert_close(ours[0], expected, rtol=0, atol=1e-4)


def test_missing_unexpected_and_misshapen_keys_are_all_named(folder: Path) -> None:
    weights = stored(folder)
    del weights["model.encoder.conv1.bias"], weights["model.encoder.layers.1.fc1.weight"]
    weights["model.encoder.layers.2.fc1.weight"] = torch.zeros(1)
    weights["model.encoder.layer_norm.bias"] = torch.zeros(3)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_encoder(str(folder))
    message = str(caught.value)
    # Two blocks of 15 tensors, two convolutions, positions and the final norm: 30 + 4 + 1 + 2.
    assert message.startswith("4 of 37 keys do not fit between")
    assert "missing: 'conv1.bias', 'layers.1.fc1.weight'" in message
    assert "unexpected: 'layers.2.fc1.weight'" in message
    assert "size mismatch for layer_norm.bias: (3,) against (" in message


def test_hub_id_is_fetched_without_what_is_not_needed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def fetch(repo: str, allow_patterns: list[str]) -> str:
        assert repo == "openai/whisper-tiny"
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    expected = encoder_part(stored(folder))
    assert_holds("openai/whisper-tiny", expected)
    assert len(asked) == 1
    assert "pytorch_model*.bin" not in asked[0]
    # A repository without safetensors is asked for the older files.
    torch.save(stored(folder), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert_holds("openai/whisper-tiny", expected)
    assert "pytorch_model*.bin" in asked[-1]


def test_hub_id_that_cannot_be_fetched_raises() -> None:
    with pytest.raises(MissingFileError, match=r"no file or folder 'no/such'.* or go online once"):
        load_encoder("no/such")


def test_path_that_is_not_there_raises() -> None:
    with pytest.raises(MissingFileError, match=r"There is no '/nowhere/tiny.pt'. Give a Hugging"):
        load_encoder("/nowhere/tiny.pt")


def test_folder_without_config_raises(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"has no config.json, so it is no model"):
        load_encoder(str(tmp_path))


def test_folder_without_weights_raises(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"has no weights, expected \*.safetensors or"):
        load_encoder(str(folder))


def test_folder_of_another_model_raises(tmp_path: Path) -> None:
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="type 'bert', expected 'whisper'"):
        load_encoder(str(tmp_path))


def test_pickle_of_something_else_raises(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="no 'dims' and 'model_state_dict'"):
        load_encoder(str(tmp_path / "other.pt"))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_file_that_is_no_pickle_raises(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"broken.pt' cannot be read as weights"):
        load_encoder(str(tmp_path / "broken.pt"))


def test_preprocessor_of_another_model_raises(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_whisper(other, chunk_s=1, n_mels=128, n_layers=1, n_features=16)
    name = "preprocessor_config.json"
    (folder / name).write_text((other / name).read_text())
    with pytest.raises(CheckpointError, match=r"makes 128 mel bins .* expected 80, 160 and 16000"):
        load_feature_extractor(str(folder))


def test_preprocessor_window_follows_the_model(folder: Path) -> None:
    """Models cut to a shorter window are published with the full model's preprocessor file."""
    file = folder / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    settings.update(chunk_length=30, n_samples=480000, nb_max_frames=3000)
    file.write_text(json.dumps(settings))
    assert load_feature_extractor(str(folder)).n_samples == 16000


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("n_samples", [1, 400, 4_000, 16_001, 31_201, 31_679, 31_840, 32_000])
def test_log_mel_of_a_clip_is_that_of_its_whole_window(n_samples: int, n_mels: int) -> None:
    """The silence behind a clip cost twice as much as the clip itself."""
    extractor = WhisperFeatureExtractor(feature_size=n_mels)
    extractor.n_samples = 32_000
    for scale in (1e-4, 0.3):  # a quiet clip is cut at 1e-10, a loud one 80 dB below its peak
        clip = np.random.default_rng(0).normal(0, scale, n_samples).astype(np.float32)
        ours = log_mel(extractor, clip)
        theirs = extractor(clip, sampling_rate=16_000, return_tensors="np")["input_features"][0]
        assert ours.shape == (n_mels, 200)
        assert ours.dtype == np.float32
        # The matrix product sums in another order where there are fewer frames.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
        np.testing.assert_array_equal(
            ours[:, -2:] == ours[:, -1:], theirs[:, -2:] == theirs[:, -1:]
        )
