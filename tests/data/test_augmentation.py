"""Each transform on clips small enough to say what comes out."""

from __future__ import annotations

import numpy as np
import pytest

from abhinaya.config import check_config
from abhinaya.data.augmentation import AugmentConfig, augment
from abhinaya.errors import ProblemsError

RATE_HZ = 16_000


def changed(waveform, seed=0, **transforms):
    content = {
        name: {"probability": 1, "range": [value, value] if np.isscalar(value) else value}
        for name, value in transforms.items()
    }
    config = check_config(content, AugmentConfig, "the test")
    given = np.array(waveform, np.float32)
    result = augment(given, config, np.random.default_rng(seed))
    np.testing.assert_array_equal(given, np.array(waveform, np.float32))
    assert result.dtype == np.float32
    return result


def test_gain_by_hand_is_cut_off_at_full_scale():
    # 20 dB are a factor of ten.
    np.testing.assert_allclose(changed([0.01, -0.02, 0.3], gain=20), [0.1, -0.2, 1.0], rtol=1e-6)


def test_shift_leaves_silence_on_either_side():
    assert changed([1, 2, 3, 4], shift=0.25).tolist() == [0, 1, 2, 3]
    assert changed([1, 2, 3, 4], shift=-0.5).tolist() == [3, 4, 0, 0]
    assert changed([1, 2, 3, 4], shift=0).tolist() == [1, 2, 3, 4]


def test_noise_has_the_wanted_distance():
    tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(RATE_HZ) / RATE_HZ)
    noise = changed(tone, noise=20) - tone.astype(np.float32)
    assert 10 * np.log10(np.mean(tone**2) / np.mean(noise**2)) == pytest.approx(20, abs=0.2)
    assert not changed(np.zeros(100), noise=20).any()


def test_speed_changes_length_and_pitch():
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE_HZ) / RATE_HZ)
    faster = changed(tone, speed=1.25)
    assert len(faster) == RATE_HZ / 1.25
    # Its spectrum has 1.25 Hz per bin, and peaks at 1,250 Hz.
    assert np.abs(np.fft.rfft(faster)).argmax() == 1000
    # A clip that would be too short for an encoder stays as it is.
    assert changed(tone[:400], speed=1.25).tolist() == tone[:400].astype(np.float32).tolist()


def test_time_mask_is_one_gap_of_the_wanted_length_at_most_half():
    ones = np.ones(RATE_HZ)
    silent = np.flatnonzero(changed(ones, time_mask=0.25) == 0)
    assert len(silent) == 4_000
    assert silent[-1] - silent[0] == 3_999
    starts = {int(np.flatnonzero(changed(ones, seed, time_mask=0.25) == 0)[0]) for seed in range(5)}
    assert len(starts) == 5
    assert (changed(np.ones(100), time_mask=0.25) == 0).sum() == 50


def test_transforms_are_applied_as_often_as_their_probability_says():
    config = AugmentConfig.model_validate({"gain": {"probability": 0.25, "range": [6, 6]}})
    clip = np.full(2, 0.1, np.float32)
    n_louder = sum(
        augment(clip, config, np.random.default_rng(seed))[0] > 0.15 for seed in range(2_000)
    )
    assert n_louder == pytest.approx(500, abs=60)  # three standard deviations


def test_strength_is_drawn_from_the_range():
    gains = [20 * np.log10(changed([0.1], seed, gain=[-6, 6])[0] / 0.1) for seed in range(200)]
    assert -6 <= min(gains) < -5
    assert 5 < max(gains) <= 6.001


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"gian": {"probability": 1, "range": [0, 1]}}, "gian is unknown, did you mean gain"),
        ({"gain": {"probability": 2, "range": [0, 1]}}, "gain.probability is 2"),
        ({"gain": {"probability": 1}}, "gain.range is missing"),
        (
            {"noise": {"probability": 1, "range": [40, 15]}},
            r"noise.range is \[40, 15\], expected two rising numbers between -20 and 100 \(dB",
        ),
        (
            {"speed": {"probability": 1, "range": [0, 1]}},
            r"speed.range is \[0, 1\], expected two rising numbers between 0.5 and 2 \(times as",
        ),
        ({"shift": {"probability": 1, "range": [0, float("nan")]}}, r"shift.range.1 is nan"),
    ],
)
def test_wrong_transform_or_range_is_said_in_one_line(content, message):
    with pytest.raises(ProblemsError, match=message) as caught:
        check_config(content, AugmentConfig, "augment.yaml")
    assert len(caught.value.problems) == 1
