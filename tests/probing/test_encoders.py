"""Layer averages are what transformers computes, clip by clip, over the real frames."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoModel, WhisperFeatureExtractor

from abhinaya.demo.checkpoints.encoders import write_wavlm, write_whisper
from abhinaya.errors import BadValueError, CheckpointError, MissingFileError
from abhinaya.loading.clips import Clip
from abhinaya.nn.classifier_config import CacheConfig
from abhinaya.probing.encoders import LayerAverages, embed_layers, load_layer_averages

N_SAMPLES = (8_000, 12_000, 8_000, 5_000)


@pytest.fixture
def clips(tmp_path):
    found = []
    for idx, n_samples in enumerate(N_SAMPLES):
        path = tmp_path / f"{idx}.wav"
        noise = 0.1 * np.random.default_rng(idx).standard_normal(n_samples)
        soundfile.write(path, noise, 16_000, subtype="FLOAT")
        found.append(Clip(path.name, path, duration_s=n_samples / 16_000))
    return found


def waveform(clip: Clip):
    return soundfile.read(clip.path, dtype="float32")[0]


def embed(backbone, clips, folder):
    return embed_layers(backbone, clips, CacheConfig(dir=folder), max_audio_s=30, batch_size=3)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_averages_are_those_of_a_plain_forward_pass(tmp_path, clips, norm):
    """Clips of other lengths in a batch change nothing, not with group normalisation either."""
    write_wavlm(tmp_path / "m", norm=norm, n_layers=2, n_features=32, n_conv_features=16)
    ours, used, problems = embed(load_layer_averages(str(tmp_path / "m")), clips, tmp_path / "c")
    assert (used, problems) == (clips, [])
    assert ours.shape == (4, 3, 32)
    theirs = AutoModel.from_pretrained(tmp_path / "m", dtype=torch.float32).eval()
    for row, clip in zip(ours, clips, strict=True):
        values = torch.from_numpy(waveform(clip))[None]
        if norm == "layer":  # its preprocessor normalises
            values = (values - values.mean()) / (values.var(correction=0) + 1e-7).sqrt()
        with torch.no_grad():
            states = theirs(values, output_hidden_states=True).hidden_states
        expected = torch.stack(states).mean(2)[:, 0].numpy()
        np.testing.assert_allclose(row, expected, atol=2e-5)


def test_whispers_averages_leave_out_the_silence_behind_the_clip(tmp_path, clips):
    write_whisper(tmp_path / "m", chunk_s=1, n_layers=2, n_features=16)
    ours, _, _ = embed(load_layer_averages(str(tmp_path / "m")), clips, tmp_path / "c")
    theirs = AutoModel.from_pretrained(tmp_path / "m", dtype=torch.float32).encoder.eval()
    extractor = WhisperFeatureExtractor.from_pretrained(tmp_path / "m")
    extractor.n_samples = 16_000
    mels = extractor(
        [waveform(clip) for clip in clips],
        sampling_rate=16_000,
        max_length=16_000,
        return_tensors="pt",
    )["input_features"]
    with torch.no_grad():
        found = theirs(mels, output_hidden_states=True)
    states = [*found.hidden_states[:-1], found.last_hidden_state]
    for row, n_samples in enumerate(N_SAMPLES):
        n_frames = -(-n_samples // 320)
        expected = torch.stack([layer[row, :n_frames].mean(0) for layer in states])
        np.testing.assert_allclose(ours[row], expected.numpy(), atol=2e-5)


def test_random_weights_are_the_same_architecture_and_repeatable(tmp_path, clips):
    write_wavlm(tmp_path / "m", n_layers=2, n_features=32, n_conv_features=16)
    published = load_layer_averages(str(tmp_path / "m"))
    state = torch.get_rng_state()
    first, again, other = (
        load_layer_averages(str(tmp_path / "m"), random_seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    shapes = [{k: v.shape for k, v in m.encoder.state_dict().items()} for m in (published, first)]
    assert shapes[0] == shapes[1]
    found = [embed(m, clips, tmp_path / "c")[0] for m in (published, first, again, other)]
    np.testing.assert_array_equal(found[1], found[2])
    assert np.abs(found[1] - found[3]).max() > 1e-3
    assert np.abs(found[1] - found[0]).max() > 1e-3


def test_what_is_stored_is_not_computed_again(tmp_path, clips, monkeypatch):
    write_wavlm(tmp_path / "m", n_layers=2, n_features=32, n_conv_features=16)
    backbone = load_layer_averages(str(tmp_path / "m"))
    first, _, _ = embed(backbone, clips, tmp_path / "c")
    monkeypatch.setattr(LayerAverages, "_average", None)
    again, _, _ = embed(backbone, clips, tmp_path / "c")
    np.testing.assert_array_equal(first, again)


def test_a_broken_and_a_short_clip_are_problems(tmp_path, clips):
    write_wavlm(tmp_path / "m", n_layers=2, n_features=32, n_conv_features=16)
    backbone = load_layer_averages(str(tmp_path / "m"))
    clips[1].path.write_bytes(b"no sound")
    soundfile.write(clips[2].path, np.zeros(100), 16_000)
    values, used, problems = embed(backbone, clips, tmp_path / "c")
    assert len(values) == 2
    assert used == [clips[0], clips[3]]
    assert [problem.utterance for problem in problems] == ["1.wav", "2.wav"]


class Silent(torch.nn.Module):
    """An encoder that keeps its hidden states to itself, or has some of several widths."""

    def __init__(self, states):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.states = states
        self.config = type("Config", (), {"model_type": "silent"})()

    def forward(self, **inputs):
        return type("Output", (), {"hidden_states": self.states})()


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (None, r"'mine', a Silent, has no hidden states; .*wavlm-base"),
        (
            (torch.zeros(1, 2, 3), torch.zeros(1, 2, 4)),
            r"of the shapes .*\(1, 2, 4\).*expected one",
        ),
    ],
)
def test_an_encoder_without_hidden_states_is_refused(tmp_path, states, message):
    write_wavlm(tmp_path / "m", n_layers=1, n_features=32, n_conv_features=16)
    extractor = load_layer_averages(str(tmp_path / "m")).extractor
    backbone = LayerAverages(Silent(states), extractor, "mine")
    with pytest.raises(BadValueError, match=message):
        backbone.find_states({"waveforms": torch.zeros(1, 800), "n_samples": torch.tensor([800])})


def test_what_is_no_speech_model_is_refused(tmp_path):
    with pytest.raises(MissingFileError, match=r"The encoder .* cannot be loaded"):
        load_layer_averages(str(tmp_path / "nothing"))
    write_wavlm(tmp_path / "m", n_layers=1, n_features=32, n_conv_features=16)
    file = tmp_path / "m" / "preprocessor_config.json"
    file.write_text(file.read_text().replace("16000", "8000"))
    with pytest.raises(CheckpointError, match="no speech encoder at 16000 Hz"):
        load_layer_averages(str(tmp_path / "m"))
