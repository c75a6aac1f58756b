"""The store of a frozen encoder's output, by itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import abhinaya.loading.features as module
from abhinaya.errors import BadValueError
from abhinaya.loading.clips import Clip, Cropping, load_segments, window_bounds
from abhinaya.loading.features import FeatureStore, collate_features, encoder_digest
from abhinaya.nn.classifier_config import CacheConfig
from members.wavlm.member import WaveformInputs
from members.wavlm.model import WavLMBackbone

CPU = torch.device("cpu")
CENTRE = Cropping("centre", 1.0)

MakeStore = Callable[..., FeatureStore]


@pytest.fixture
def make_store(bases: dict[str, str], tmp_path: Path) -> MakeStore:
    """A function that opens a store over a frozen WavLM."""

    def make(
        folder: Path = tmp_path / "store",
        cropping: Cropping = CENTRE,
        max_gb: float = 1.0,
        dtype: Any = "float32",
        base: str = bases["wavlm"],
        **options: Any,
    ) -> FeatureStore:
        backbone = WavLMBackbone.from_pretrained(base, **{"freeze": "encoder", **options})
        config = CacheConfig(dir=folder, max_gb=max_gb, dtype=dtype)
        return FeatureStore(config, backbone, WaveformInputs(), cropping)

    return make


@pytest.fixture
def clips(corpus: Path) -> list[Clip]:
    return [Clip(f"n{idx}.wav", corpus / f"n{idx}.wav", None, 0.5 + 0.1 * idx) for idx in range(10)]


def fill(store: FeatureStore, clips: list[Clip], batch_size: int = 3, **options: Any) -> set[Path]:
    """Files of the store after it was filled without problems."""
    assert store.fill(clips, batch_size=batch_size, device=CPU, **options) == []
    return files_of(store)


def files_of(store: FeatureStore) -> set[Path]:
    return set(store.config.dir.rglob("*.npy"))


def states_of(store: FeatureStore, clip: Clip) -> np.ndarray[Any, Any]:
    return np.stack([segment["states"] for segment in store.load(clip)])


def test_stored_states_are_those_of_each_segment_encoded_alone(
    make_store: MakeStore, clips: list[Clip]
) -> None:
    store = make_store(cropping=Cropping(2, 0.6), layer_weights=True)
    assert len(fill(store, clips)) == 10
    for clip in clips:
        stored = states_of(store, clip)
        segments = load_segments(clip, store.cropping)
        assert len(stored) == len(segments) == (1 if clip.duration_s <= 0.6 else 2)
        for ours, segment in zip(stored, segments, strict=True):
            waveform = torch.from_numpy(segment.waveform).unsqueeze(0)
            with torch.no_grad():
                theirs, _ = store.backbone.forward_pretrained(
                    waveforms=waveform, mask=torch.ones_like(waveform).bool()
                )
            # (T, N, D) on disk, (B, N, T, D) from the encoder; embeddings and two blocks are N = 3.
            assert ours.shape[1:] == (3, 16)
            np.testing.assert_allclose(ours, theirs[0].transpose(0, 1), atol=1e-5)


def test_fill_leaves_the_backbone_in_its_mode(make_store: MakeStore, clips: list[Clip]) -> None:
    store = make_store()
    for mode in (True, False):
        store.backbone.train(mode)
        fill(store, clips)
        assert store.backbone.training is mode


def test_filled_store_is_read_not_computed(
    make_store: MakeStore, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store()
    fill(store, clips)
    first = [states_of(store, clip) for clip in clips]
    monkeypatch.setattr(module, "load_segments", lambda *_: pytest.fail("audio was decoded"))
    again = make_store()
    fill(again, clips, batch_size=5)
    for clip, states in zip(clips, first, strict=True):
        np.testing.assert_array_equal(states_of(again, clip), states)


def test_killed_fill_goes_on_with_whole_files_and_the_same_bytes(
    make_store: MakeStore, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = make_store(tmp_path / "undisturbed")
    fill(undisturbed, clips)
    store = make_store(tmp_path / "killed")
    n_saved = 0

    def save(stream: Any, array: Any) -> None:
        nonlocal n_saved
        n_saved += 1
        if n_saved == 5:
            stream.write(b"half of it")
            raise KeyboardInterrupt
        np.lib.format.write_array(stream, array)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", save)
        with pytest.raises(KeyboardInterrupt):
            store.fill(clips, batch_size=3, device=CPU)
    whole = {file: file.stat().st_ino for file in files_of(store)}
    assert len(whole) == 4
    fill(make_store(tmp_path / "killed"), clips)
    assert all(file.stat().st_ino == inode for file, inode in whole.items())  # not written again
    ours, theirs = (
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.npy")}
        for folder in (tmp_path / "killed", tmp_path / "undisturbed")
    )
    assert ours == theirs


def test_half_written_files_are_ignored(make_store: MakeStore, clips: list[Clip]) -> None:
    store = make_store()
    (file,) = fill(store, clips[:1])
    # The name under which a killed process was writing.
    file.rename(left := file.with_name(f".{file.name}.0.tmp"))
    left.write_bytes(b"half")
    again = make_store()
    assert fill(again, clips[:1]) == {file}
    assert left.read_bytes() == b"half"
    assert states_of(again, clips[0]).shape == (1, 24, 1, 16)  # 8,000 samples make 24 frames


def test_key_survives_another_path_name_and_manifest(
    make_store: MakeStore, clips: list[Clip], tmp_path: Path, bases: dict[str, str]
) -> None:
    before = fill(make_store(), clips)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    others = []
    for clip in clips:
        assert clip.path is not None
        shutil.copy(clip.path, moved / f"other-{clip.utterance}")
        others.append(
            replace(clip, utterance="u" + clip.utterance, path=moved / f"other-{clip.utterance}")
        )
    shutil.copytree(bases["wavlm"], tmp_path / "base")
    assert fill(make_store(base=str(tmp_path / "base")), others) == before


@pytest.mark.parametrize(
    "change",
    [
        {"cropping": Cropping("first", 1.0)},
        {"cropping": Cropping(3, 1.0)},
        {"cropping": Cropping("centre", 0.9)},
        {"cropping": Cropping("centre", 1.0, normalize=True)},
        {"layer_weights": True},
        {"average_frames": True},
        {"dtype": "float16"},
    ],
    ids=str,
)
def test_key_changes_with_crop_and_settings(
    make_store: MakeStore, clips: list[Clip], change: dict[str, Any]
) -> None:
    before = fill(make_store(), clips)
    assert len(fill(make_store(**change), clips)) == 2 * len(before)


def test_workers_that_read_the_audio_change_no_byte(
    make_store: MakeStore, clips: list[Clip], tmp_path: Path
) -> None:
    stores = [make_store(tmp_path / name) for name in ("alone", "helped")]
    alone, helped = (fill(store, clips, num_workers=n) for n, store in enumerate(stores))
    assert len(alone) == len(clips)
    for one, other in zip(sorted(alone), sorted(helped), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_key_changes_with_any_weight_of_the_encoder_alone(make_store: MakeStore) -> None:
    backbone = make_store(layer_weights=True).backbone
    before = encoder_digest(backbone)
    with torch.no_grad():
        backbone.get_parameter("layer_mix.weights").add_(1)
    assert encoder_digest(backbone) == before
    names = [name for name, _ in backbone.encoder.named_parameters()]
    for name in (names[0], names[-1]):
        with torch.no_grad():
            backbone.encoder.get_parameter(name).view(-1)[0] += 1e-3
        after = encoder_digest(backbone)
        assert after != before
        before = after


def test_replaced_recording_is_computed_anew(
    make_store: MakeStore, clips: list[Clip], tmp_path: Path
) -> None:
    """The name stays, the sound does not."""
    clip = Clip("a.wav", tmp_path / "a.wav", None, 0.5)
    store = make_store()
    states = []
    for source in (clips[0], clips[1]):
        assert source.path is not None
        shutil.copy(source.path, tmp_path / "a.wav")
        fill(store, [clip])
        states.append(states_of(store, clip))
    # 8,000 and 9,600 samples.
    assert [len(segments[0]) for segments in states] == [24, 29]
    assert len(files_of(store)) == 2


def test_one_recording_under_two_names_is_stored_once(
    make_store: MakeStore, clips: list[Clip]
) -> None:
    store = make_store()
    twin = replace(clips[4], utterance="twin.wav")
    assert len(fill(store, [*clips, twin])) == 10
    np.testing.assert_array_equal(states_of(store, twin), states_of(store, clips[4]))


def test_unusable_clips_are_reported_and_the_others_stored(
    make_store: MakeStore, clips: list[Clip], tmp_path: Path
) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    # Said to be the longest, so that the first batch holds nothing but it.
    bad = [
        Clip("empty.wav", tmp_path / "empty.wav", None, 9.0),
        Clip("absent.wav", tmp_path / "absent.wav", None, 8.0),
    ]
    store = make_store()
    problems = store.fill([*bad, *clips], batch_size=1, device=CPU)
    assert [problem.utterance for problem in sorted(problems)] == ["absent.wav", "empty.wav"]
    assert [problem.reason.partition(".")[2][:14] for problem in sorted(problems)] == [
        "wav does not e",
        "wav is empty (",
    ]
    assert len(files_of(store)) == 10


def test_trained_encoder_raises(make_store: MakeStore) -> None:
    with pytest.raises(BadValueError, match=r"output of a frozen encoder, but this one is trained"):
        make_store(freeze="convolutions")


def test_random_crops_raise(make_store: MakeStore) -> None:
    with pytest.raises(BadValueError, match=r"cannot keep random crops\. Use first, centre, full"):
        make_store(cropping=Cropping("random", 1.0))


def test_load_in_training_draws_the_segment_that_would_be_cut(
    make_store: MakeStore, clips: list[Clip]
) -> None:
    cropping = Cropping(3, 0.4, seed=5)
    store = make_store(cropping=cropping)
    assert fill(store, clips) == fill(make_store(cropping=Cropping(3, 0.4)), clips)
    drawn = []
    for epoch in range(8):
        n_samples = 22_400  # of the longest clip, 1.4 s
        bounds = window_bounds("n9.wav", n_samples, cropping, epoch)
        drawn.append(window_bounds("n9.wav", n_samples, cropping).index(bounds[0]))
        (segment,) = store.load(clips[9], epoch)
        expected = states_of(store, clips[9])[drawn[-1]]
        np.testing.assert_array_equal(segment["states"], expected)
    assert set(drawn) == {0, 1, 2}


def test_store_of_a_member_that_only_reads_raises(make_store: MakeStore) -> None:
    class Reader(WaveformInputs):
        needs_audio, needs_text = False, True

    store = make_store()
    with pytest.raises(BadValueError, match=r"this member only reads\. Remove cache"):
        FeatureStore(store.config, store.backbone, Reader(), CENTRE)


def test_collate_pads_to_the_longest_and_masks_the_rest() -> None:
    short, long = np.ones((2, 1, 3), np.float16), np.full((4, 1, 3), 2, np.float16)
    batch = collate_features([{"states": short}, {"states": long}])
    assert batch["states"].shape == (2, 1, 4, 3)  # (B, N, T, D)
    assert batch["states"].dtype == torch.float32
    assert batch["states"][:, 0, :, 0].tolist() == [[1, 1, 0, 0], [2, 2, 2, 2]]
    assert batch["mask"].tolist() == [[True, True, False, False], [True] * 4]


def test_fill_marks_what_it_uses_as_recent(make_store: MakeStore, clips: list[Clip]) -> None:
    store = make_store()
    fill(store, clips)
    for file in files_of(store):
        os.utime(file, (1, 1))
    fill(make_store(), clips[:2])
    assert sum(file.stat().st_mtime > 1 for file in files_of(store)) == 2


def test_features_that_somebody_deletes_while_they_are_made_raise(
    make_store: MakeStore, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No sound clip is lost without a word: prediction would abstain, training break off."""
    store = make_store()
    monkeypatch.setattr(FeatureStore, "_encode", lambda *_: None)
    with pytest.raises(BadValueError, match=r"features of 'n\d\.wav' .* are not there\. See that"):
        store.fill(clips, batch_size=3, device=CPU)


@pytest.mark.parametrize("damage", ["cut", "objects", "noise", "empty", "other shape"])
def test_damaged_stored_features_are_made_again(
    make_store: MakeStore,
    clips: list[Clip],
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = make_store()
    fill(store, clips)
    expected = states_of(store, clips[3])
    file = store._files[clips[3].utterance]
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-7])
    elif damage == "objects":
        np.save(file, np.array([{"a": 1}], dtype=object))
    elif damage == "other shape":
        np.save(file, np.zeros(3, np.float32))
    else:
        file.write_bytes(b"" if damage == "empty" else b"noise" * 50)
    again = make_store()
    fill(again, clips)
    np.testing.assert_array_equal(states_of(again, clips[3]), expected)
    assert f"{file} are made again" in caplog.text
