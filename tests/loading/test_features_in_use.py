"""Training and prediction over stored features: the same numbers as without, and no audio read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import abhinaya.data.audio
import abhinaya.loading.clips
import abhinaya.loading.features as module
from abhinaya.data.manifest import Manifest
from abhinaya.errors import AudioError, BadValueError
from abhinaya.registry import load_member

MEMBERS = ("wavlm", "whisper-encoder")
FROZEN = ("freeze=encoder", "audio.max_audio_s=0.6", "audio.eval_crop=2")

Train = Callable[..., Path]


@pytest.fixture
def train(make_config: Any, manifest: Manifest, tmp_path: Path) -> Train:
    """A function that trains a tiny frozen member for two epochs."""

    def run(name: str, *overrides: str, member: str = "wavlm") -> Path:
        config = make_config(tmp_path / name, *FROZEN, *overrides, member=member)
        return load_member(member).train(config, manifest)

    return run


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("average", ["true", "false"])
@pytest.mark.parametrize("layers", ["true", "false"])
def test_predict_stored_equals_fresh(
    make_run: Any, predict: Any, tmp_path: Path, member: str, average: str, layers: str
) -> None:
    run = make_run(*FROZEN, f"average_frames={average}", f"layer_weights={layers}", member=member)
    fresh = predict(run, member=member, out=tmp_path / "fresh.parquet", with_embedding=True)
    cache = f"cache.dir={tmp_path / 'store'}"
    for attempt in ("filling", "filled"):
        stored = predict(
            run,
            cache,
            "inference.batch_size=3",
            member=member,
            out=tmp_path / f"{attempt}.parquet",
            with_embedding=True,
        )
        np.testing.assert_allclose(stored.probs, fresh.probs, atol=1e-5)
        np.testing.assert_allclose(stored.embeddings, fresh.embeddings, atol=1e-5)
    assert len(list((tmp_path / "store").rglob("*.npy"))) == 10


def test_predict_stored_in_float16_is_near(make_run: Any, predict: Any, tmp_path: Path) -> None:
    run = make_run(*FROZEN)
    cache = f"cache.dir={tmp_path / 'store'}"
    full = predict(run, cache)
    half = predict(run, cache, "cache.dtype=float16")  # another table, though of the same name
    # float16 keeps 11 bits.
    assert 0 < np.abs(half.probs - full.probs).max() < 5e-3
    sizes = [
        sum(file.stat().st_size - 128 for file in (tmp_path / "store").rglob(f"{kind}/*/*.npy"))
        for kind in ("float32", "float16")
    ]
    assert sizes[0] == 2 * sizes[1] > 0


def test_predict_stored_leaves_out_unusable_audio(
    make_run: Any, predict: Any, manifest: Manifest, corpus: Path, tmp_path: Path
) -> None:
    """A part of which nothing can be heard is written, too, and the table is whole."""
    folder = tmp_path / "damaged"
    shutil.copytree(corpus, folder)
    for idx in range(5, 10):  # the longest: they make up the first part, and more
        (folder / f"n{idx}.wav").write_bytes(b"no sound")
    damaged = replace(manifest, root=folder)
    run = make_run(*FROZEN)
    fresh = predict(run, manifest=damaged, out=tmp_path / "fresh.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("abhinaya.inference.sharding.CHUNK_SIZE", 4)
        stored = predict(run, f"cache.dir={tmp_path / 'store'}", manifest=damaged)
    assert stored.reasons == fresh.reasons
    assert [reason is None for reason in stored.reasons] == 5 * [True] + 5 * [False]
    np.testing.assert_allclose(stored.probs, fresh.probs, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("average", ["true", "false"])
def test_train_stored_equals_fresh(train: Train, tmp_path: Path, member: str, average: str) -> None:
    settings = (f"average_frames={average}", "standardize=true", "layer_weights=true")
    fresh = train("fresh", *settings, member=member)
    stored = train("stored", *settings, f"cache.dir={tmp_path / 'store'}", member=member)
    theirs = load_file(fresh / "best" / "model.safetensors")
    ours = load_file(stored / "best" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_train_stored_segments_are_drawn_as_fresh_ones(train: Train, tmp_path: Path) -> None:
    """One store serves training, which draws a segment in each epoch, and validation, on all."""
    settings = ("audio.train_crop=3", "audio.eval_crop=3", "audio.max_audio_s=0.3")
    fresh = train("fresh", *settings)
    stored = train("stored", *settings, f"cache.dir={tmp_path / 'store'}")
    first = train("first", *settings[1:])
    theirs, ours, others = (
        load_file(run / "best" / "model.safetensors") for run in (fresh, stored, first)
    )
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, atol=1e-5, err_msg=name)
    assert any(np.abs(others[name] - value).max() > 1e-4 for name, value in theirs.items())
    # Six clips to train on and three for validation: no clip is stored twice.
    assert len(list((tmp_path / "store").rglob("*.npy"))) == 9


def test_train_over_a_filled_store_reads_no_audio_again(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs read each clip as often as none at all: once to look at it, once to encode it."""
    names: list[str] = []
    read = abhinaya.data.audio.read_audio

    def counting(path: Any, **options: Any) -> Any:
        names.append(Path(path).name)
        return read(path, **options)

    monkeypatch.setattr(abhinaya.loading.clips, "read_audio", counting)
    cache = f"cache.dir={tmp_path / 'store'}"
    train("first", cache)
    # Six clips to train on and three for validation; the fourth has no label of the set.
    assert sorted(names) == sorted(2 * [f"n{idx}.wav" for idx in range(9)])
    names.clear()
    monkeypatch.setattr(module.FeatureStore, "_encode", lambda *_: pytest.fail("encoded again"))
    train("second", cache, "seed=1")
    assert sorted(names) == [f"n{idx}.wav" for idx in range(9)]


def test_train_limit_below_training_and_validation_together_raises(
    train: Train, tmp_path: Path
) -> None:
    """Each alone would fit; filling one would delete the other's before it is read."""
    train("measured", f"cache.dir={tmp_path / 'measured-store'}")
    sizes = sum(file.stat().st_size for file in (tmp_path / "measured-store").rglob("*.npy"))
    with pytest.raises(BadValueError, match=r"beside .* GB of others that the run needs"):
        train("run", f"cache.dir={tmp_path / 'store'}", f"cache.max_gb={0.9 * sizes / 1e9}")


def test_trained_encoder_with_a_store_raises(
    make_config: Any, manifest: Manifest, tmp_path: Path
) -> None:
    config = make_config(tmp_path / "run", f"cache.dir={tmp_path / 'store'}")
    with pytest.raises(BadValueError, match="this one is trained"):
        load_member("wavlm").train(config, manifest)


def test_random_crops_with_a_store_raise(make_config: Any, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"but audio\.train_crop is 'random'; set .* or a number of"
    ):
        make_config(tmp_path / "run", f"cache.dir={tmp_path}", "audio.train_crop=random")


def test_train_names_clips_that_can_no_longer_be_read_for_the_store(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `fill` reported was not looked at; training died of a missing key."""
    fill = module.FeatureStore.fill

    def losing(self: Any, clips: Any, **options: Any) -> Any:
        problems = fill(self, clips[1:], **options)
        return [*problems, module.Problem(clips[0].utterance, "it is gone.")]

    monkeypatch.setattr(module.FeatureStore, "fill", losing)
    with pytest.raises(AudioError, match=r"1 clips can no longer be read .* 'n5\.wav': it is gone"):
        train("run", f"cache.dir={tmp_path / 'store'}")
