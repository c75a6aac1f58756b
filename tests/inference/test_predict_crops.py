"""What a member hears of a clip that is longer than it takes at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import Manifest, make_manifest

MEMBERS = ("wavlm", "whisper-encoder")

# A clip of one second heard 0.4 s at a time: three windows start at 0, 0.3 and 0.6 s.
N_SAMPLES, WINDOW = 16_000, 6_400
STARTS = (0, 4_800, 9_600)


@pytest.fixture
def cut(tmp_path: Path) -> Manifest:
    """`long.wav`, its three windows as files of their own, and two clips shorter than a window."""
    rng = np.random.default_rng(3)
    noise = 0.2 * rng.standard_normal(N_SAMPLES)
    # Louder and darker towards the end, so that the windows sound different.
    noise[WINDOW:] = np.convolve(noise, np.ones(8), mode="same")[WINDOW:]
    noise[2 * WINDOW :] = np.convolve(noise, np.ones(3), mode="same")[2 * WINDOW :]
    segments = {"long.wav": noise, "short.wav": noise[:4_000], "exact.wav": noise[:WINDOW]}
    segments |= {f"w{start}.wav": noise[start : start + WINDOW] for start in STARTS}
    for name, samples in segments.items():
        soundfile.write(tmp_path / name, samples.astype(np.float32), 16_000, subtype="FLOAT")
    rows = [{"utterance": name, "audio": name} for name in segments]
    return make_manifest(rows, MSP_PODCAST, tmp_path)


@pytest.fixture
def probs_of(make_run: Any, predict: Any, cut: Manifest, tmp_path: Path) -> Any:
    """A function that gives probabilities by utterance, for a member and its `eval_crop`."""

    def run(member: str, crop: str, *overrides: str) -> dict[str, NDArray[np.float32]]:
        name = f"{member}-{crop}"
        settings = ("audio.max_audio_s=0.4", f"audio.eval_crop={crop}", *overrides)
        table = predict(
            make_run(*settings, member=member, name=name),
            member=member,
            manifest=cut,
            out=tmp_path / f"{name}.parquet",
        )
        return dict(zip(table.utterances, table.probs, strict=True))

    return run


@pytest.mark.parametrize("member", MEMBERS)
def test_first_and_centre_hear_one_window(probs_of: Any, member: str) -> None:
    first, centre = probs_of(member, "first"), probs_of(member, "centre")
    np.testing.assert_allclose(first["long.wav"], first["w0.wav"], atol=1e-5)
    # The centre of 16,000 samples starts at (16,000 - 6,400) / 2 = 4,800.
    np.testing.assert_allclose(centre["long.wav"], centre["w4800.wav"], atol=1e-5)
    assert np.abs(first["long.wav"] - centre["long.wav"]).max() > 1e-3


@pytest.mark.parametrize("member", MEMBERS)
def test_three_segments_average_the_logits_of_their_windows(probs_of: Any, member: str) -> None:
    probs = probs_of(member, "3")
    # log p = logit - c with one c per window, and softmax does not see a sum of such constants.
    mean = np.mean([np.log(probs[f"w{start}.wav"]) for start in STARTS], axis=0)
    expected = np.exp(mean) / np.exp(mean).sum()
    np.testing.assert_allclose(probs["long.wav"], expected, atol=1e-5)
    one = probs_of(member, "1")
    np.testing.assert_allclose(one["long.wav"], one["w4800.wav"], atol=1e-5)
    assert np.abs(one["long.wav"] - probs["long.wav"]).max() > 1e-3


@pytest.mark.parametrize("member", MEMBERS)
def test_clips_that_fit_are_one_segment_with_every_crop(probs_of: Any, member: str) -> None:
    tables = [probs_of(member, crop) for crop in ("first", "centre", "full", "3")]
    for name in ("short.wav", "exact.wav", *(f"w{start}.wav" for start in STARTS)):
        for table in tables[1:]:
            np.testing.assert_allclose(table[name], tables[0][name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("member", MEMBERS)
def test_full_hears_the_whole_clip(probs_of: Any, member: str) -> None:
    full = probs_of(member, "full")["long.wav"]
    # A window of the whole second hears as much.
    whole = probs_of(member, "first", "audio.max_audio_s=1.0")["long.wav"]
    np.testing.assert_allclose(full, whole, atol=1e-5)
    assert np.abs(full - probs_of(member, "3")["long.wav"]).max() > 1e-3


def test_normalize_makes_loudness_irrelevant(probs_of: Any, cut: Manifest) -> None:
    name = "short.wav"
    samples, rate_hz = soundfile.read(cut.root / name, dtype="float32")
    loud = probs_of("wavlm", "first", "audio.normalize=true")[name]
    as_is = probs_of("wavlm", "centre")[name]
    soundfile.write(cut.root / name, 0.1 * samples, rate_hz, subtype="FLOAT")
    quiet = probs_of("wavlm", "first", "audio.normalize=true")[name]
    np.testing.assert_allclose(quiet, loud, atol=1e-4)
    assert np.abs(probs_of("wavlm", "centre")[name] - as_is).max() > 1e-3


def test_full_clip_longer_than_whisper_hears_raises(
    make_run: Any, predict: Any, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(40_000), 16_000)
    manifest = make_manifest(
        [{"utterance": "long.wav", "audio": "long.wav"}], MSP_PODCAST, tmp_path
    )
    run = make_run("audio.eval_crop=full", member="whisper-encoder")
    with pytest.raises(ValueError, match=r"'long\.wav' has 2\.5 s, but the model hears 2 s at"):
        predict(run, manifest=manifest, member="whisper-encoder")
