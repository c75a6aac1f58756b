"""The size limit of the store: what is refused, and what is deleted to keep within it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from abhinaya.errors import BadValueError
from abhinaya.loading.clips import Clip, Cropping
from abhinaya.loading.features import FeatureStore
from abhinaya.nn.classifier_config import CacheConfig
from members.wavlm.member import WaveformInputs
from members.wavlm.model import WavLMBackbone

# Half a second is 24 frames of 16 float32 features: 24 * 16 * 4 bytes after a header of 128.
FILE_BYTES = 128 + 24 * 16 * 4


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Eight clips of half a second."""
    folder = tmp_path_factory.mktemp("halves")
    rng = np.random.default_rng(1)
    made = []
    for idx in range(8):
        path = folder / f"c{idx}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(8_000), 16_000)
        made.append(Clip(path.name, path, None, 0.5))
    return made


@pytest.fixture
def make_store(bases: dict[str, str], tmp_path: Path) -> Any:
    """A function that opens the same store with a limit of so many of these files."""

    def make(n_files: float, where: Any = "first") -> FeatureStore:
        backbone = WavLMBackbone.from_pretrained(bases["wavlm"], freeze="encoder")
        config = CacheConfig(dir=tmp_path / "store", max_gb=n_files * FILE_BYTES / 1e9)
        return FeatureStore(config, backbone, WaveformInputs(), Cropping(where, 1.0))

    return make


def fill(store: FeatureStore, clips: list[Clip], **options: Any) -> None:
    assert store.fill(clips, batch_size=2, device=torch.device("cpu"), **options) == []


def stored(store: FeatureStore) -> list[Path]:
    return sorted(store.config.dir.rglob("*.npy"), key=lambda file: file.stat().st_mtime)


def test_files_have_the_size_of_these_tests(make_store: Any, clips: list[Clip]) -> None:
    store = make_store(8)
    fill(store, clips)
    assert [file.stat().st_size for file in stored(store)] == 8 * [FILE_BYTES]


def test_too_small_a_limit_raises_after_one_batch(make_store: Any, clips: list[Clip]) -> None:
    # 8 * 1664 bytes are 1.33e-05 GB.
    message = (
        r"The features of 8 clips need about 1\.33e-05 GB, but cache\.max_gb is 1\.24\d*e-05\. "
        r"Raise cache\.max_gb, set cache\.dtype to float16, or remove cache\."
    )
    store = make_store(7.5)
    with pytest.raises(BadValueError, match=message):
        fill(store, clips)
    assert len(stored(store)) == 2


def test_limit_is_checked_when_the_longest_clips_are_unusable(
    make_store: Any, clips: list[Clip], tmp_path: Path
) -> None:
    """A damaged header that promises hours comes first; once nothing was measured then."""
    (tmp_path / "hours.wav").write_bytes(b"RIFF")
    bad = [Clip(f"hours{idx}.wav", tmp_path / "hours.wav", None, 0.6) for idx in range(2)]
    store = make_store(6)
    with pytest.raises(BadValueError, match=r"need about .* GB, but cache\.max_gb"):
        store.fill([*bad, *clips], batch_size=2, device=torch.device("cpu"))


def test_least_recently_used_files_go_first(make_store: Any, clips: list[Clip]) -> None:
    old = make_store(8)
    fill(old, clips[:5])
    names = {clip.utterance: old._files[clip.utterance] for clip in clips[:5]}
    for age, clip in enumerate(clips[:5]):
        os.utime(names[clip.utterance], (1_000 - age, 1_000 - age))  # c4 is the oldest, c0 newest
    # Three new ones beside five stored are two more than six: c4 and c3 have to go.
    store = make_store(6)
    fill(store, clips[5:])
    kept = set(stored(store))
    assert kept == {names[f"c{idx}.wav"] for idx in range(3)} | set(store._files.values())


def test_needed_files_stay_however_old(make_store: Any, clips: list[Clip]) -> None:
    fill(make_store(8), clips[:4])
    for file in stored(make_store(8)):
        os.utime(file, (1, 1))
    store = make_store(4)
    fill(store, [*clips[:2], *clips[6:]])
    assert set(stored(store)) == set(store._files.values())
    assert len(stored(store)) == 4


def test_files_of_others_in_the_folder_are_never_deleted(
    make_store: Any, clips: list[Clip]
) -> None:
    store = make_store(2)
    mine = store.config.dir / "my embeddings.npy"
    mine.parent.mkdir()
    np.save(mine, np.zeros(10_000))
    (mine.parent / "mine").mkdir()
    np.save(mine.parent / "mine" / "x.npy", np.zeros(10_000))
    fill(store, clips[:2])
    fill(make_store(2), clips[2:4])
    assert mine.exists()
    assert (mine.parent / "mine" / "x.npy").exists()
    assert len(stored(store)) == 2 + 2  # theirs and ours


def test_what_another_store_of_the_run_needs_stays(make_store: Any, clips: list[Clip]) -> None:
    """Filling the validation features once deleted those for training before they were read."""
    train, validation, of_another_run = (make_store(8, where) for where in ("first", "centre", 1))
    fill(train, clips[:6])
    for file in train.files:
        os.utime(file, (1, 1))
    fill(of_another_run, clips[:2])
    # Ten files where eight may be: the two that go are not the oldest, which are needed.
    fill(validation, clips[6:], keep=train.files)
    for clip in clips[:6]:
        assert train.load(clip)[0]["states"].shape == (24, 1, 16)
    assert set(stored(train)) == train.files | validation.files


def test_stores_of_one_run_that_do_not_fit_together_raise(
    make_store: Any, clips: list[Clip]
) -> None:
    train, validation = make_store(7.5), make_store(7.5, "centre")
    fill(train, clips[:6])
    with pytest.raises(BadValueError, match=r"features of 2 clips need about .*beside .* GB"):
        fill(validation, clips[6:], keep=train.files)
    assert len(stored(train)) >= 6


def test_nothing_is_deleted_while_another_run_reads_the_store(
    make_store: Any, clips: list[Clip]
) -> None:
    """With a small limit one run deleted what another one was about to read."""
    reader = make_store(8)
    fill(reader, clips[:6])
    script = (
        "import sys\nfrom pathlib import Path\nfrom abhinaya.loading.features import _hold\n"
        "_hold(Path(sys.argv[1]))\nprint('held', flush=True)\nsys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(reader.config.dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        fill(make_store(2), clips[6:])
        assert len(stored(reader)) == 8
        other.communicate()
    # Once it has ended, the limit holds.
    fill(make_store(2), clips[6:])
    assert len(stored(reader)) == 2
