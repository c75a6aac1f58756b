"""Where clips are augmented: in training alone, the same in every process."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from abhinaya.data.augmentation import AugmentConfig, Background
from abhinaya.errors import BadValueError, MissingFileError, ProblemsError
from abhinaya.loading.clips import Clip, Cropping, load_segments
from abhinaya.loading.dataset import ClipDataset
from abhinaya.registry import load_member
from abhinaya.training.train import training_digest

RANGES = {
    "speed": [0.9, 1.1],
    "time_stretch": [0.85, 1.2],
    "pitch": [-3, 3],
    "reverb": [0.1, 0.5],
    "low_pass": [2000, 7000],
    "high_pass": [100, 2000],
    "band_pass": [500, 3000],
    "band_stop": [200, 4000],
    "shift": [-0.2, 0.2],
    "gain": [-6, 6],
    "noise": [15, 40],
    "time_mask": [0.05, 0.5],
}
ALL = AugmentConfig.model_validate(
    {name: {"probability": 0.7, "range": limits} for name, limits in RANGES.items()}
)


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    """Four clips of noise, half a second to two seconds long."""
    rng = np.random.default_rng(0)
    found = []
    for idx in range(4):
        path = tmp_path / f"{idx}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(8_000 * (idx + 1)), 16_000)
        found.append(Clip(path.name, path, duration_s=0.5 * (idx + 1)))
    return found


def hear(clip: Clip, cropping: Cropping, epoch: int | None) -> torch.Tensor:
    (segment,) = load_segments(clip, cropping, epoch)
    assert segment.waveform is not None
    return torch.from_numpy(segment.waveform)


class _Load:
    """What workers take along."""

    def __init__(self, cropping: Cropping) -> None:
        self.cropping = cropping

    def __call__(self, clip: Clip, epoch: int | None) -> list[dict[str, Any]]:
        return [{"waveform": hear(clip, self.cropping, epoch)}]


def test_augmented_clips_are_the_same_for_any_workers_and_differ_by_epoch(
    clips: list[Clip],
) -> None:
    background = Background(probability=0.7, range=(10, 30), folder=clips[0].path.parent)
    everything = ALL.model_copy(update={"background": background})
    load = _Load(Cropping("random", 1.0, seed=3, augment=everything))
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    data: Any = ClipDataset(clips, load, np.zeros(4, np.int64))
    keys = [(idx, epoch) for epoch in (0, 1) for idx in range(4)]

    def heard(order: Any, workers: int) -> dict[Any, list[float]]:
        loader = DataLoader(data, batch_size=2, sampler=order, num_workers=workers, collate_fn=list)
        rows = [row for batch in loader for row in batch]
        return {
            key: row["segments"][0]["waveform"].tolist()
            for key, row in zip(order, rows, strict=True)
        }

    alone = {key: load(clips[key[0]], key[1])[0]["waveform"].tolist() for key in keys}
    assert states == (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_rng_state().tolist(),
    )
    assert heard(keys, 0) == alone
    assert heard(keys[::-1], 2) == alone
    assert all(alone[idx, 0] != alone[idx, 1] for idx in range(4))
    load.cropping = replace(load.cropping, seed=4)
    assert all(sound != alone[key] for key, sound in heard(keys, 0).items())


def test_augmented_clips_are_no_longer_than_the_longest_and_unchanged_outside_training(
    clips: list[Clip],
) -> None:
    slow = AugmentConfig.model_validate({"speed": {"probability": 1, "range": [0.5, 0.5]}})
    cropping = Cropping("first", 1.0, augment=slow)
    assert [len(hear(clip, cropping, 0)) for clip in clips] == [16_000] * 4
    assert [len(hear(clip, replace(cropping, where="full"), 0)) for clip in clips] == [
        16_000 * (idx + 1) for idx in range(4)
    ]
    plain = replace(cropping, augment=None)
    for clip in clips:
        torch.testing.assert_close(hear(clip, cropping, None), hear(clip, plain, None))


def test_the_crop_that_chance_chooses_is_the_same_with_augmentation(clips: list[Clip]) -> None:
    silent = AugmentConfig.model_validate({"gain": {"probability": 0, "range": [6, 6]}})
    random = Cropping("random", 0.5, augment=silent)
    torch.testing.assert_close(
        hear(clips[3], random, 2), hear(clips[3], replace(random, augment=None), 2)
    )


GAIN = "audio.augment.gain={probability: 1, range: [-6, 6]}"


def test_cache_and_augmentation_exclude_each_other(make_config: Callable[..., Any]) -> None:
    overrides = ("freeze=encoder", "audio.train_crop=first", "cache.dir=somewhere", GAIN)
    with pytest.raises(ProblemsError, match=r"audio.augment changes every clip.*remove one"):
        make_config(Path("run"), *overrides)


def test_augmentation_for_a_member_that_only_reads_raises(
    make_config: Callable[..., Any], manifest: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    config = make_config(tmp_path / "run", GAIN)
    member: Any = load_member("wavlm")
    builder = member.build_inputs(config)
    monkeypatch.setattr(type(builder), "needs_audio", False)
    with pytest.raises(BadValueError, match=r"audio.augment changes sound.*'wavlm' hears none"):
        member.train(config, manifest)


def test_recordings_belong_to_the_digest_of_a_run_but_not_their_place(
    make_config: Callable[..., Any], manifest: Any, clips: list[Clip], tmp_path: Path
) -> None:
    (tmp_path / "moved").mkdir()
    paths = [clip.path for clip in clips if clip.path is not None]
    for path in paths:
        (tmp_path / "moved" / path.name).write_bytes(path.read_bytes())

    def digest(folder: Path) -> str:
        reverb = f"audio.augment.reverb={{probability: 1, folder: {folder}}}"
        return training_digest(make_config(tmp_path / "run", reverb), manifest)

    before = digest(tmp_path / "moved")
    (tmp_path / "moved").rename(tmp_path / "again")
    assert digest(tmp_path / "again") == before
    (tmp_path / "again" / paths[0].name).write_bytes(paths[1].read_bytes())
    assert digest(tmp_path / "again") != before
    with pytest.raises(MissingFileError, match="moved' is not a folder, expected recordings"):
        digest(tmp_path / "moved")
