"""`abhinaya preview`: what there is to hear and to see of augmentation and mixing."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import soundfile
import yaml

RATE_HZ = 16_000
GAIN = "audio.augment.gain={probability: 0, range: [-6, -6]}"
MIXING = ("mixing.clips={overlap_probability: 0}", "loss.name=kl-divergence")


@pytest.fixture
def config(tmp_path):
    """A config whose weights and corpus are not there: a preview needs none."""
    file = tmp_path / "wavlm.yaml"
    content = {
        "member": "wavlm",
        "name": "tiny",
        "run_dir": "run",
        "seed": 3,
        "base": "nowhere",
        "data": {"manifest": "nowhere.parquet"},
        "audio": {"max_audio_s": 2, "train_crop": "first"},
        "training": {"global_batch_size": 4},
    }
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture
def clips(tmp_path):
    found = []
    for name, hz in (("a", 500), ("b", 2_000)):
        found.append(tmp_path / f"{name}.wav")
        tone = 0.5 * np.sin(2 * np.pi * hz * np.arange(3 * RATE_HZ) / RATE_HZ)
        soundfile.write(found[-1], tone, RATE_HZ)
    return found


def test_preview_writes_each_transform_what_training_hears_and_a_mix(
    config, clips, tmp_path, run_cli
):
    mask = "audio.augment.time_mask={probability: 1, range: [0.25, 0.25]}"
    out = tmp_path / "out"
    result = run_cli("preview", config, *clips, GAIN, mask, *MIXING, "--out", out, "--epoch", 1)
    assert result.code == 0, result.err
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    kinds = ("before", "gain", "time_mask", "trained")
    assert files == {
        "spectrograms.png",
        "1-a/mixed.wav",
        *(f"{clip}/{kind}.wav" for clip in ("1-a", "2-b") for kind in kinds),
    }
    before, gained, masked, trained, mixed = (
        soundfile.read(out / "1-a" / f"{kind}.wav")[0] for kind in (*kinds, "mixed")
    )
    # Cut to two seconds; half as loud by 6 dB, though chance would never choose it.
    assert len(before) == 2 * RATE_HZ
    np.testing.assert_allclose(gained, before * 10 ** (-6 / 20), atol=1e-4)
    # Of 4,000 masked samples a sixteenth is zero in the tone as well.
    assert ((masked == 0) & (before != 0)).sum() == 3_750
    # A mask of the same length elsewhere, for another draw came first.
    assert ((trained == 0) & (before != 0)).sum() == 3_750
    assert len(mixed) <= 2 * RATE_HZ
    ends = (mixed[:4_000], mixed[-4_000:])
    # A bin is 4 Hz.
    assert {4 * int(np.abs(np.fft.rfft(end)).argmax()) for end in ends} == {500, 2_000}
    assert "trained.wav is what epoch 1 of a training hears" in result.out
    again = run_cli("preview", config, *clips, GAIN, "--out", out)
    assert (again.code, "exists, and a preview overwrites nothing" in again.err) == (1, True)


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        ([], 1, "has neither audio.augment nor mixing.clips"),
        (MIXING, 0, "mixing.clips joins two clips; give a second one"),
        (["audio.augment.background={probability: 1, range: [9, 9], folder: away}"], 1, "'away'"),
    ],
)
def test_preview_of_one_clip(config, clips, tmp_path, run_cli, overrides, code, message):
    result = run_cli("preview", config, clips[0], *overrides, "--out", tmp_path / "out")
    assert result.code == code
    assert message in result.err
    assert (tmp_path / "out").exists() == (code == 0)


def test_preview_without_clip_or_matplotlib_raises(config, clips, tmp_path, run_cli, monkeypatch):
    assert "There is no clip among" in run_cli("preview", config, GAIN, "--out", tmp_path / "o").err
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    wrong = run_cli("preview", config, tmp_path / "broken.wav", GAIN, "--out", tmp_path / "o")
    assert (wrong.code, "broken.wav cannot be decoded" in wrong.err) == (1, True)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run_cli("preview", config, clips[0], GAIN, "--out", tmp_path / "o")
    assert result.code == 1
    assert "A picture of spectrograms needs the package matplotlib" in result.err
    assert "abhinaya[augment]" in result.err
