from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import find_batch_size

from abhinaya.loading.clips import Clip, Cropping
from abhinaya.loading.dataset import ClipDataset, Collator, fresh_loader
from abhinaya.loading.sampling import LengthGroupedSampler
from abhinaya.member import Utterance

N_CLIPS, N_SAMPLES = 6, 4000


class Ramps:
    """Gives the waveforms as they are."""

    needs_audio = True
    needs_text = False

    def encode(self, utterance: Utterance) -> dict[str, Any]:
        return {"waveform": utterance.waveform}

    def collate(self, encoded: list[dict[str, Any]]) -> dict[str, Any]:
        stacked = np.stack([segment["waveform"] for segment in encoded])
        return {"waveforms": torch.from_numpy(stacked)}


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[[Cropping], ClipDataset]:
    """Six clips of a quarter of a second; the first sample of a segment tells where it was cut."""
    ramp = np.arange(N_SAMPLES, dtype=np.int16)
    clips = []
    for idx in range(N_CLIPS):
        soundfile.write(tmp_path / f"{idx}.wav", ramp, 16000, subtype="PCM_16")
        clips.append(Clip(f"{idx}.wav", tmp_path / f"{idx}.wav", None, 0.25))

    def make(cropping: Cropping) -> ClipDataset:
        return ClipDataset(clips, fresh_loader(Ramps(), cropping), np.arange(N_CLIPS))

    return make


def starts_by_row(dataset: ClipDataset, epoch: int, *, n_workers: int) -> dict[int, int]:
    """Where the segment of each row starts, in samples."""
    sampler = LengthGroupedSampler([1.0] * N_CLIPS, 2, seed=0)
    sampler.set_epoch(epoch)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=2,
        sampler=sampler,
        collate_fn=Collator(Ramps().collate),
        num_workers=n_workers,
    )
    starts: dict[int, int] = {}
    for batch in loader:
        first = batch["inputs"]["waveforms"][:, 0] * 32768
        starts |= dict(zip(batch["labels"].tolist(), first.int().tolist(), strict=True))
    return starts


def test_dataset_random_crops_do_not_depend_on_workers(
    make_dataset: Callable[[Cropping], ClipDataset],
) -> None:
    dataset = make_dataset(Cropping("random", 0.1, seed=1))
    torch.manual_seed(1)
    alone = starts_by_row(dataset, 0, n_workers=0)
    torch.manual_seed(2)
    assert starts_by_row(dataset, 0, n_workers=2) == alone
    assert sorted(alone) == list(range(N_CLIPS))


def test_dataset_random_crops_depend_on_seed_epoch_and_utterance(
    make_dataset: Callable[[Cropping], ClipDataset],
) -> None:
    one, other = (make_dataset(Cropping("random", 0.1, seed=seed)) for seed in (1, 2))
    first, second = (starts_by_row(one, epoch, n_workers=0) for epoch in (0, 1))
    # 0.1 s of 0.25 s leaves 2,401 places to start; six clips hardly share one by chance.
    assert len(set(first.values())) > 3
    assert all(first[row] != second[row] for row in first)
    assert starts_by_row(one, 0, n_workers=0) == first
    assert starts_by_row(other, 0, n_workers=0) != first


def test_dataset_centre_crop_is_the_same_in_every_epoch(
    make_dataset: Callable[[Cropping], ClipDataset],
) -> None:
    dataset = make_dataset(Cropping("centre", 0.1))
    # (4000 - 1600) // 2 samples are left before the segment.
    assert set(starts_by_row(dataset, 3, n_workers=0).values()) == {1200}


def test_collator_single_segments_have_no_map(
    make_dataset: Callable[[Cropping], ClipDataset],
) -> None:
    dataset = make_dataset(Cropping("first", 0.1))
    batch = Collator(Ramps().collate)([dataset[3], dataset[1]])
    assert set(batch) == {"inputs", "labels"}
    assert batch["labels"].tolist() == [3, 1]
    assert batch["inputs"]["waveforms"].shape == (2, 1600)


def test_collator_several_segments_say_whose_they_are(
    make_dataset: Callable[[Cropping], ClipDataset],
) -> None:
    three, one = make_dataset(Cropping(3, 0.1)), make_dataset(Cropping("first", 0.1))
    batch = Collator(Ramps().collate)([three[0], one[4], three[5]])
    assert batch["segment_of"].tolist() == [0, 0, 0, 1, 2, 2, 2]
    assert batch["labels"].tolist() == [0, 4, 5]
    # Segments start at 0, half of 2400 and 2400.
    first = batch["inputs"]["waveforms"][:, 0] * 32768
    assert first.int().tolist() == [0, 1200, 2400, 0, 0, 1200, 2400]


def test_collator_vote_distributions_become_rows_of_a_tensor() -> None:
    segment = {"waveform": np.zeros(4, np.float32)}
    rows = [
        {"segments": [segment], "target": np.array([0.25, 0.75], np.float32)},
        {"segments": [segment], "target": np.array([1, 0], np.float32)},
    ]
    labels = Collator(Ramps().collate)(rows)["labels"]
    assert labels.dtype == torch.float32
    assert labels.tolist() == [[0.25, 0.75], [1, 0]]


def test_the_trainer_counts_clips_and_not_segments() -> None:
    """It takes the first tensor of a batch for its size and weighs the validation loss by it."""
    collate = Collator(lambda segments: {"x": torch.tensor([segment["x"] for segment in segments])})
    rows = [{"segments": [{"x": 1.0}, {"x": 2.0}, {"x": 3.0}], "target": np.int64(0)}] * 2
    assert find_batch_size(collate(rows)) == 2
