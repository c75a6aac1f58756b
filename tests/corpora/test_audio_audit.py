from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from abhinaya.corpora.audio_audit import count_kinds, measure_audio
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import Manifest, make_manifest
from abhinaya.errors import MissingFileError

WriteWav = Callable[..., None]

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def listing(root: Path, **splits: str) -> Manifest:
    rows = [{"utterance": f"{n}.wav", "audio": f"{n}.wav", "split": s} for n, s in splits.items()]
    return make_manifest(rows, MSP_PODCAST, root)


def reasons(manifest: Manifest) -> dict[str, str]:
    return {problem.utterance: problem.reason for problem in measure_audio(manifest)[1]}


@pytest.mark.parametrize(
    ("kind", "samples"),
    [
        ("silent", np.zeros(1600)),
        ("silent", np.full((1600, 2), 1e-6)),
        ("constant", np.full(1600, 0.25)),
        ("cancels", np.stack([np.sin(np.arange(1600)), -np.sin(np.arange(1600))], axis=1)),
        ("too short", np.random.default_rng(0).uniform(-0.1, 0.1, 399)),
        ("too long", np.random.default_rng(0).uniform(-0.1, 0.1, 60 * 16000 + 1)),
        ("not finite", np.full(1600, np.nan)),
    ],
    ids=["silent", "stereo dither", "constant", "antiphase", "short", "long", "NaN"],
)
def test_sound_that_teaches_nothing_is_a_problem(
    tmp_path: Path, write_wav: WriteWav, kind: str, samples: np.ndarray
) -> None:
    write_wav(tmp_path / "good.wav")
    soundfile.write(tmp_path / "bad.wav", samples, 16000, subtype="FLOAT")
    found = reasons(listing(tmp_path, good="train", bad="train"))
    assert set(found) == {"bad.wav"}
    assert kind in found["bad.wav"]


def test_clips_at_the_limits_are_no_problem(tmp_path: Path, write_wav: WriteWav) -> None:
    write_wav(tmp_path / "short.wav", duration_s=0.025)
    write_wav(tmp_path / "long.wav", duration_s=60)
    assert reasons(listing(tmp_path, short="train", long="train")) == {}


def test_same_sound_in_two_splits_is_a_problem_of_both(tmp_path: Path, write_wav: WriteWav) -> None:
    """Also in another format: what is compared is the sound, not the file."""
    write_wav(tmp_path / "a.wav")
    samples, rate_hz = soundfile.read(tmp_path / "a.wav", dtype="int16")
    soundfile.write(tmp_path / "b.wav", samples, rate_hz, format="FLAC")
    write_wav(tmp_path / "c.wav")
    found = reasons(listing(tmp_path, a="train", b="test", c="test"))
    assert found == {
        "a.wav": "same sound in train as 'b.wav' in test; a score on it is one of seen sound",
        "b.wav": "same sound in test as 'a.wav' in train; a score on it is one of seen sound",
    }


def test_same_sound_twice_in_a_split_is_a_problem(tmp_path: Path, write_wav: WriteWav) -> None:
    write_wav(tmp_path / "a.wav")
    shutil.copy(tmp_path / "a.wav", tmp_path / "b.wav")
    found = reasons(listing(tmp_path, a="train", b="train"))
    assert set(found) == {"a.wav", "b.wav"}
    assert found["a.wav"].startswith("same sound as 'b.wav'")


def test_shadows_and_pointers_are_named(tmp_path: Path, write_wav: WriteWav) -> None:
    write_wav(tmp_path / "good.wav")
    (tmp_path / "._good.wav").write_bytes(b"\0\5\x16\7" + bytes(100))
    (tmp_path / "pointer.wav").write_text(LFS)
    manifest = make_manifest(
        [{"utterance": n, "audio": n} for n in ("good.wav", "._good.wav", "pointer.wav")],
        MSP_PODCAST,
        tmp_path,
    )
    measured, problems = measure_audio(manifest)
    found = {problem.utterance: problem.reason for problem in problems}
    assert "macOS shadow" in found["._good.wav"]
    assert "Git LFS pointer" in found["pointer.wav"]
    assert "git lfs pull" in found["pointer.wav"]
    assert measured.rows["duration_s"].isna().tolist() == [False, True, True]
    assert count_kinds(problems) == {"macOS shadow": 1, "Git LFS pointer": 1}


def test_wav_from_a_pipe_is_heard_though_its_header_says_zero(
    tmp_path: Path, write_wav: WriteWav
) -> None:
    write_wav(tmp_path / "a.wav")
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[4:8] = content[40:44] = bytes(4)
    (tmp_path / "a.wav").write_bytes(content)
    measured, problems = measure_audio(listing(tmp_path, a="train"))
    assert problems == []
    assert measured.rows["duration_s"].tolist() == [0.1]


def test_missing_ending_is_named(tmp_path: Path, write_wav: WriteWav) -> None:
    write_wav(tmp_path / "a.wav")
    manifest = make_manifest([{"utterance": "a", "audio": "a"}], MSP_PODCAST, tmp_path)
    with pytest.raises(MissingFileError, match=r"'a\.wav' is there: write the endings too"):
        measure_audio(manifest)
