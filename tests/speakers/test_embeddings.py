from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import WavLMForXVector

import abhinaya.speakers.embeddings as module
from abhinaya.data.audio import audio_digest, read_audio
from abhinaya.demo.checkpoints.encoders import write_wavlm, write_whisper, write_xvector
from abhinaya.errors import BadValueError, CheckpointError, MissingFileError
from abhinaya.loading.clips import Clip
from abhinaya.speakers.embeddings import (
    EmbeddingStore,
    SpeakerModel,
    embed_clips,
    load_speaker_model,
)

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    for norm in ("group", "layer"):
        write_xvector(folder / norm, norm=norm, n_layers=1)
    return {norm: folder / norm for norm in ("group", "layer")}


@pytest.fixture(scope="module")
def model(models: dict[str, Path]) -> SpeakerModel:
    return load_speaker_model(str(models["group"]), torch.device("cpu"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Seven noises of 0.4 to 0.7 s, three of them of the same length."""
    folder = tmp_path_factory.mktemp("noises")
    rng = np.random.default_rng(0)
    made = []
    for idx, n_samples in enumerate([6_400, 8_000, 11_200, 8_000, 9_600, 8_000, 10_000]):
        path = folder / f"n{idx}.wav"
        noise = np.convolve(rng.standard_normal(n_samples), np.ones(idx + 1), mode="same")
        soundfile.write(path, 0.1 * noise, RATE_HZ, subtype="PCM_16")
        made.append(Clip(path.name, path, None, n_samples / RATE_HZ))
    return made


def embed(
    clips: list[Clip], model: SpeakerModel | None, file: Path, **options: Any
) -> dict[str, np.ndarray]:
    store = EmbeddingStore(file, model.digest if model else None)
    embeddings, problems = embed_clips(clips, store, model, **options)
    assert problems == []
    return embeddings


def assert_same_voice(ours: Any, theirs: Any) -> None:
    """Equal up to rounding, measured by the length of the vector."""
    length = float(np.linalg.norm(theirs))
    assert length > 0.01
    assert float(np.linalg.norm(np.asarray(ours) - np.asarray(theirs))) < 1e-4 * length


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_embed_clips_equals_transformers_clip_by_clip(
    models: dict[str, Path], clips: list[Clip], tmp_path: Path, norm: str
) -> None:
    ours = embed(clips, load_speaker_model(str(models[norm])), tmp_path / "e.npz")
    theirs = WavLMForXVector.from_pretrained(models[norm]).eval()
    for clip in clips:
        assert clip.path is not None
        with torch.no_grad():
            expected = theirs(torch.from_numpy(read_audio(clip.path))[None]).embeddings[0]
        assert_same_voice(ours[clip.utterance], expected)
    with pytest.raises(AssertionError):  # so the comparison can tell clips apart
        assert_same_voice(ours["n0.wav"], ours["n1.wav"])


def test_embed_clips_does_not_depend_on_neighbours(
    model: SpeakerModel, clips: list[Clip], tmp_path: Path
) -> None:
    whole = embed(clips, model, tmp_path / "16.npz", batch_size=16)
    singly = embed(clips, model, tmp_path / "1.npz", batch_size=1)
    few = embed(clips[2:4], model, tmp_path / "few.npz", batch_size=2)
    for other in (singly, few):
        for utterance, embedding in other.items():
            assert_same_voice(embedding, whole[utterance])


def test_embed_clips_hears_what_the_extractor_makes_of_it(
    models: dict[str, Path], clips: list[Clip], tmp_path: Path
) -> None:
    """A model that wants scaled waveforms says so beside its weights."""
    scaled = tmp_path / "scaled"
    shutil.copytree(models["layer"], scaled)
    file = scaled / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"do_normalize": True}))
    plain, other = load_speaker_model(str(models["layer"])), load_speaker_model(str(scaled))
    assert plain.digest != other.digest
    first = embed(clips[:1], other, tmp_path / "a.npz")["n0.wav"]
    assert clips[0].path is not None
    waveform = read_audio(clips[0].path)
    waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
    theirs = WavLMForXVector.from_pretrained(models["layer"]).eval()
    with torch.no_grad():
        expected = theirs(torch.from_numpy(waveform)[None]).embeddings[0]
    assert_same_voice(first, expected)


def test_embed_clips_of_long_clips_hears_the_middle(
    model: SpeakerModel, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = clips[2]  # 11,200 samples
    assert clip.path is not None
    middle = tmp_path / "middle.wav"
    soundfile.write(middle, read_audio(clip.path)[1_600:9_600], RATE_HZ, subtype="PCM_16")
    part = embed([Clip("m", middle, None, 0.5)], model, tmp_path / "a.npz")["m"]
    monkeypatch.setattr(module, "MAX_AUDIO_S", 0.5)
    assert_same_voice(embed([clip], model, tmp_path / "b.npz")["n2.wav"], part)


class Counting:
    """A network that counts the clips it hears, and may stop at one of its passes."""

    def __init__(self, network: Any, stop_at: int | None = None) -> None:
        self.network, self.stop_at = network, stop_at
        self.n_clips = self.n_passes = 0
        self.device = network.device

    def __call__(self, waveforms: torch.Tensor) -> Any:
        self.n_passes += 1
        if self.n_passes == self.stop_at:
            raise KeyboardInterrupt
        self.n_clips += len(waveforms)
        return self.network(waveforms)


def counting(model: SpeakerModel, stop_at: int | None = None) -> Any:
    network = Counting(model.network, stop_at)
    return SpeakerModel(network, model.extractor, model.digest, model.min_samples)


def test_embed_clips_computes_nothing_twice(
    model: SpeakerModel, clips: list[Clip], tmp_path: Path
) -> None:
    file = tmp_path / "e.npz"
    first = embed(clips[:4], model, file)
    counted = counting(model)
    again = embed(clips, counted, file)
    assert counted.network.n_clips == 3
    for utterance, embedding in first.items():
        assert np.array_equal(again[utterance], embedding)
    # Without a model the file is enough.
    alone = embed(clips, None, file)
    assert all(np.array_equal(alone[utterance], again[utterance]) for utterance in again)


def test_embed_clips_same_sound_under_two_names_is_computed_once(
    model: SpeakerModel, clips: list[Clip], tmp_path: Path
) -> None:
    assert clips[0].path is not None
    shutil.copy(clips[0].path, tmp_path / "copy.wav")
    twin = Clip("copy.wav", tmp_path / "copy.wav", None, clips[0].duration_s)
    counted = counting(model)
    found = embed([clips[0], twin], counted, tmp_path / "e.npz")
    assert counted.network.n_clips == 1
    assert np.array_equal(found["n0.wav"], found["copy.wav"])


def test_embed_clips_killed_run_goes_on_and_ends_with_the_same_file(
    model: SpeakerModel, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_SIZE", 2)
    monkeypatch.setattr(module, "SAVE_EVERY_S", 0.0)
    undisturbed, killed = tmp_path / "undisturbed.npz", tmp_path / "killed.npz"
    embed(clips, model, undisturbed)
    # By length n2, n6 | n4, n1 | n3, n5 | n0: the fourth pass is in the second chunk.
    with pytest.raises(KeyboardInterrupt):
        embed(clips, counting(model, stop_at=4), killed)
    assert len(EmbeddingStore(killed, model.digest).embeddings) == 2
    counted = counting(model)
    embed(clips, counted, killed)
    assert counted.network.n_clips == 5
    assert killed.read_bytes() == undisturbed.read_bytes()


def test_store_file_can_be_read_by_others(
    model: SpeakerModel, clips: list[Clip], tmp_path: Path
) -> None:
    embeddings = embed(clips[:2], model, tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz") as arrays:
        assert sorted(arrays) == ["digests", "embeddings", "model"]
        assert str(arrays["model"]) == model.digest
        assert arrays["embeddings"].dtype == np.float32
        by_digest = dict(zip(arrays["digests"].tolist(), arrays["embeddings"], strict=True))
    for clip in clips[:2]:
        assert clip.path is not None
        assert np.array_equal(by_digest[audio_digest(clip.path)], embeddings[clip.utterance])


def test_embed_clips_lists_what_cannot_be_used(
    model: SpeakerModel, clips: list[Clip], tmp_path: Path
) -> None:
    for name, n_samples in (("short", model.min_samples - 1), ("fits", model.min_samples)):
        noise = np.random.default_rng(1).standard_normal(n_samples)
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * noise, RATE_HZ)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("hello")
    names = ["short", "fits", "empty", "text", "absent"]
    more = [Clip(name, tmp_path / f"{name}.wav", None, 0.3) for name in names]
    store = EmbeddingStore(tmp_path / "e.npz", model.digest)
    embeddings, problems = embed_clips([*clips, *more], store, model)
    assert set(embeddings) == {"fits", *(clip.utterance for clip in clips)}
    assert np.isfinite(embeddings["fits"]).all()
    reasons = {problem.utterance: problem.reason for problem in problems}
    assert set(reasons) == {"short", "empty", "text", "absent"}
    assert (
        "short.wav is too short for the speaker model: 5199 samples of at least"
        in (reasons["short"])
    )
    assert "empty.wav is empty" in reasons["empty"]
    assert "text.wav cannot be decoded" in reasons["text"]
    assert "absent.wav does not exist" in reasons["absent"]
    # A frame less, and the spread over frames is undefined.
    with torch.no_grad():
        shorter = model.network(torch.zeros(1, model.min_samples - 1)).embeddings
    assert not shorter.isfinite().all()


def test_embed_clips_without_finite_embedding_is_listed(
    model: SpeakerModel, clips: list[Clip], tmp_path: Path
) -> None:
    broken = counting(model)
    broken.network.network = lambda waveforms: type(
        "Output", (), {"embeddings": torch.full((len(waveforms), 4), torch.nan)}
    )
    store = EmbeddingStore(tmp_path / "e.npz", model.digest)
    embeddings, problems = embed_clips(clips[:1], store, broken)
    assert embeddings == {}
    assert problems[0].reason == "the speaker model gives no finite embedding for it"
    assert not (tmp_path / "e.npz").exists()


def test_embed_clips_not_in_the_file_and_no_model_is_listed(
    model: SpeakerModel, clips: list[Clip], tmp_path: Path
) -> None:
    embed(clips[:1], model, tmp_path / "e.npz")
    store = EmbeddingStore(tmp_path / "e.npz", None)
    embeddings, problems = embed_clips(clips[:2], store, None)
    assert list(embeddings) == ["n0.wav"]
    assert problems[0].utterance == "n1.wav"
    assert problems[0].reason == "its embedding is not in e.npz, and no model was given"


def test_store_of_something_else_raises(
    model: SpeakerModel, clips: list[Clip], tmp_path: Path
) -> None:
    file = tmp_path / "e.npz"
    embed(clips[:1], model, file)
    with pytest.raises(BadValueError, match=r"embeddings of another model \(digest .*, now other"):
        EmbeddingStore(file, "other")
    np.savez(tmp_path / "x.npz", labels=np.arange(3))
    (tmp_path / "y.npz").write_text("hello")
    np.save(tmp_path / "z.npz.npy", np.arange(3))
    for name in ("x.npz", "y.npz", "z.npz.npy"):
        with pytest.raises(BadValueError, match=rf"{name}' holds no embeddings: expected an \.npz"):
            EmbeddingStore(tmp_path / name, None)
    with pytest.raises(MissingFileError, match=r"no embeddings .* Name one with --model"):
        EmbeddingStore(tmp_path / "none.npz", None)


def test_load_speaker_model_of_another_kind_raises(models: dict[str, Path], tmp_path: Path) -> None:
    write_whisper(tmp_path / "whisper", chunk_s=1, n_layers=1, n_features=16)
    write_wavlm(tmp_path / "wavlm", n_layers=1, n_features=16, n_conv_features=8)
    slow = tmp_path / "slow"
    shutil.copytree(models["group"], slow)
    file = slow / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sampling_rate": 8_000}))
    wide = tmp_path / "wide"
    shutil.copytree(models["group"], wide)
    config = json.loads((wide / "config.json").read_text())
    (wide / "config.json").write_text(json.dumps(config | {"xvector_output_dim": 5}))
    cases: list[tuple[str, type[Exception], str]] = [
        ("none", MissingFileError, r"The speaker model '.*none' cannot be loaded: "),
        ("whisper", CheckpointError, "model of type 'whisper', expected one of data2vec-audio"),
        ("wavlm", CheckpointError, r"keys do not fit between .* WavLMForXVector .* missing: 'feat"),
        ("slow", CheckpointError, "wants audio at 8000 Hz, expected 16000 Hz"),
        ("wide", CheckpointError, "size mismatch for classifier"),
    ]
    for name, kind, message in cases:
        with pytest.raises(kind, match=message):
            load_speaker_model(str(tmp_path / name))


def test_load_speaker_model_digest_tells_models_apart(
    models: dict[str, Path], model: SpeakerModel, tmp_path: Path
) -> None:
    write_xvector(tmp_path / "again", n_layers=1)
    write_xvector(tmp_path / "other", n_layers=1, seed=1)
    assert load_speaker_model(str(tmp_path / "again")).digest == model.digest
    assert load_speaker_model(str(tmp_path / "other")).digest != model.digest


def test_load_speaker_model_needs_no_classifier_of_the_training_speakers(
    models: dict[str, Path], model: SpeakerModel, clips: list[Clip], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    bare = tmp_path / "bare"
    shutil.copytree(models["group"], bare)
    state = load_file(bare / "model.safetensors")
    kept = {k: v for k, v in state.items() if not k.startswith(("classifier.", "objective."))}
    assert len(kept) == len(state) - 3
    save_file(kept, bare / "model.safetensors", metadata={"format": "pt"})
    loaded = load_speaker_model(str(bare))
    # What is drawn anew at each loading must not look like another model.
    assert loaded.digest == model.digest
    own, whole = (
        embed(clips[:1], loaded, tmp_path / "a.npz"),
        embed(clips[:1], model, tmp_path / "b"),
    )
    assert_same_voice(own["n0.wav"], whole["n0.wav"])
