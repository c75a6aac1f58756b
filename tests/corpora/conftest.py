"""Small releases, written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import soundfile

WriteWav = Callable[..., None]
WriteRelease = Callable[..., Path]

CONSENSUS = """\
FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set
MSP-PODCAST_0001_0008.wav,N,4.0,3.5,4.2,127,Male,Train
MSP-PODCAST_0001_0019.wav,A,6.25,2.0,5.0,Unknown,Unknown,Train
MSP-PODCAST_0002_0003_01.wav,X,4.0,4.0,4.0,8,Female,Development
"""
PARTITIONS = """\
Train; MSP-PODCAST_0001_0008.wav
Train; MSP-PODCAST_0001_0019.wav
Development; MSP-PODCAST_0002_0003_01.wav
"""
DETAILED = """\
FileName,worker,EmoClass_Major
MSP-PODCAST_0001_0008.wav,WORKER1,Neutral
MSP-PODCAST_0001_0019.wav,WORKER1,Angry
MSP-PODCAST_0002_0003_01.wav,WORKER2,Sad
"""
TEXTS = {
    "MSP-PODCAST_0001_0008": "well\nyes\n",
    "MSP-PODCAST_0001_0019": "",
    "MSP-PODCAST_0002_0003_01": "no",
}
AUDIO = (
    "MSP-PODCAST_0001_0008.wav",
    "MSP-PODCAST_0001_0019.wav",
    "MSP-PODCAST_0002_0003_01.wav",
    "MSP-PODCAST_test3_0001.wav",
)


@pytest.fixture
def write_wav() -> WriteWav:
    """Writes noise, other for every path: equal and silent clips are problems."""

    def write(
        path: Path, *, duration_s: float = 0.1, rate_hz: int = 16000, n_channels: int = 1
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(list(str(path).encode()))
        shape = (round(duration_s * rate_hz), n_channels)
        soundfile.write(path, noise.uniform(-0.1, 0.1, shape), rate_hz)

    return write


@pytest.fixture
def write_release(tmp_path: Path, write_wav: WriteWav) -> WriteRelease:
    """Writes three labelled clips and one of Test3; files given by path replace or add."""

    def write(
        files: Mapping[str, str | None] | None = None, audio: tuple[str, ...] = AUDIO
    ) -> Path:
        release = tmp_path / "release"
        texts: dict[str, str | None] = {
            "Labels/labels_consensus.csv": CONSENSUS,
            "Labels/labels_detailed.csv": DETAILED,
            "Partitions.txt": PARTITIONS,
            **{f"Transcripts/{name}.txt": text for name, text in TEXTS.items()},
            **(files or {}),
        }
        for name, text in texts.items():
            if text is not None:
                path = release / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
        for name in audio:
            write_wav(release / "Audios" / name)
        return release

    return write
