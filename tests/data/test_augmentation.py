"""Each transform on clips small enough to say what comes out."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import soundfile

from abhinaya.config import check_config
from abhinaya.data.augmentation import AugmentConfig, augment, require_augmentation
from abhinaya.data.sound_folders import sounds_digest
from abhinaya.errors import AudioError, MissingFileError, MissingPackageError, ProblemsError

RATE_HZ = 16_000


def changed(waveform, seed=0, **transforms):
    content = {
        name: {"probability": 1}
        | (
            value
            if isinstance(value, dict)
            else {"range": [value, value] if np.isscalar(value) else value}
        )
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


def tone(hz, n=RATE_HZ, size=0.5):
    return size * np.sin(2 * np.pi * hz * np.arange(n) / RATE_HZ)


def level_db(waveform):
    """Decibels of the middle half, where filters have settled."""
    middle = waveform[len(waveform) // 4 : -len(waveform) // 4]
    return 10 * np.log10(np.mean(middle**2))


def peak_hz(waveform):
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return spectrum.argmax() * RATE_HZ / len(waveform)


@pytest.mark.parametrize("semitones", [-3, 3, 12])
def test_pitch_moves_by_semitones_and_keeps_the_length(semitones):
    higher = changed(tone(500), pitch=semitones)
    assert len(higher) == RATE_HZ
    # One bin is 1 Hz.
    assert peak_hz(higher) == pytest.approx(500 * 2 ** (semitones / 12), rel=0.01)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_time_stretch_changes_the_length_and_keeps_the_pitch(factor):
    stretched = changed(tone(500), time_stretch=factor)
    assert len(stretched) == pytest.approx(RATE_HZ / factor, abs=1)
    assert peak_hz(stretched) == pytest.approx(500, rel=0.01)
    assert np.abs(stretched).max() <= 1
    # A clip that would be too short for an encoder stays as it is.
    short = tone(500, 400)
    if factor > 1:
        assert changed(short, time_stretch=factor).tolist() == short.astype(np.float32).tolist()


@pytest.mark.parametrize(
    ("transform", "hz", "lost", "kept"),
    [
        # Order 4: 10 log10(1 + (tan(pi f / rate) / tan(pi edge / rate)) ** 8); at the edge 3.01.
        ("low_pass", 2_000, [(4_000, 30.6, 0.1), (2_000, 3.0, 0.1)], [500]),
        ("high_pass", 1_000, [(500, 24.4, 0.1), (1_000, 3.0, 0.1)], [4_000]),
        # The edges lie an octave from the middle, or half of one.
        ("band_pass", 1_000, [(250, 18, 60), (4_000, 18, 60), (2_000, 3.0, 0.1)], [1_000]),
        ("band_stop", 1_000, [(1_000, 40, 400)], [250, 4_000]),
    ],
)
def test_filters_lose_what_they_should(transform, hz, lost, kept):
    for frequency, decibels, slack in lost:
        loss = level_db(tone(frequency)) - level_db(changed(tone(frequency), **{transform: hz}))
        assert decibels - 0.05 <= loss <= decibels + slack
    for frequency in kept:
        loss = level_db(tone(frequency)) - level_db(changed(tone(frequency), **{transform: hz}))
        assert loss == pytest.approx(0, abs=0.2)


@pytest.fixture
def noises(tmp_path):
    """One short and one long recording, one of them in a subfolder, at another rate."""
    rng = np.random.default_rng(0)
    (tmp_path / "far").mkdir()
    soundfile.write(tmp_path / "a.wav", 0.1 * rng.standard_normal(4_000), RATE_HZ)
    soundfile.write(tmp_path / "far" / "b.WAV", 0.1 * rng.standard_normal(96_000), 48_000)
    (tmp_path / "readme.txt").write_text("no sound")
    return tmp_path


def test_background_has_the_wanted_distance_and_comes_from_the_folder(noises):
    sound = tone(440, size=0.1)
    added = [
        changed(sound, seed, background={"range": [15, 15], "folder": noises})
        - sound.astype(np.float32)
        for seed in range(8)
    ]
    for noise in added:
        distance = 10 * np.log10(np.mean(sound**2) / np.mean(noise**2))
        assert distance == pytest.approx(15, abs=0.1)
    # The short one is repeated every 4,000 samples, the long one is not.
    repeats = [np.allclose(noise[:4_000], noise[4_000:8_000], atol=1e-5) for noise in added]
    assert set(repeats) == {True, False}


def test_silent_background_changes_nothing(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(4_000), RATE_HZ)
    for transform in ({"background": {"range": [15, 15], "folder": tmp_path}},
                      {"reverb": {"folder": tmp_path}}):  # fmt: skip
        assert changed(tone(440), **transform).tolist() == tone(440).astype(np.float32).tolist()


def test_reverb_by_a_recorded_response_by_hand(tmp_path):
    # Direct sound after two samples, half of it again two samples later.
    soundfile.write(tmp_path / "room.wav", [0, 0, 0.5, 0, 0.25], RATE_HZ, subtype="FLOAT")
    heard = changed([0.4, 0, 0, 0.2], reverb={"folder": tmp_path})
    # 0.4, 0, 0.2, 0.2 times a factor that gives back the level: 0.16 + 0.04 over 0.24 of power.
    expected = np.array([0.4, 0, 0.2, 0.2]) * np.sqrt(0.20 / 0.24)
    np.testing.assert_allclose(heard, expected, atol=1e-6)


def test_decaying_reverb_falls_by_60_decibels_in_its_time():
    click = np.zeros(RATE_HZ)
    click[0] = 0.5
    heard = changed(click, reverb=0.4)
    assert np.sqrt(np.sum(heard**2)) == pytest.approx(0.5, rel=1e-3)
    # Direct sound and room are equally strong.
    assert heard[0] ** 2 == pytest.approx(0.125, rel=0.02)
    assert not heard[round(0.4 * RATE_HZ) + 1 :].round(6).any()
    power = [np.mean(heard[at : at + 800] ** 2) for at in (1, 4_801)]
    # 0.3 s of 0.4 s: 45 dB.
    assert 10 * np.log10(power[0] / power[1]) == pytest.approx(45, abs=1.5)


def test_all_transforms_leave_full_scale_alone(noises):
    loud = np.sign(tone(200)) * 0.99
    for transform in (
        *({name: hz} for name, hz in
          {"low_pass": 3_000, "high_pass": 500, "band_pass": 1_000, "band_stop": 1_000,
           "pitch": 2, "time_stretch": 0.9, "reverb": 0.3}.items()),
        {"background": {"range": [0, 0], "folder": noises}},
    ):  # fmt: skip
        heard = changed(loud, **transform)
        assert np.abs(heard).max() <= 1
        assert np.isfinite(heard).all()


def test_digest_of_a_folder_knows_names_and_bytes_but_not_the_place(noises, tmp_path_factory):
    first = sounds_digest(noises)
    moved = tmp_path_factory.mktemp("moved")
    for file in ("a.wav", "far/b.WAV"):
        (moved / file).parent.mkdir(exist_ok=True)
        (moved / file).write_bytes((noises / file).read_bytes())
    assert sounds_digest(moved) == first
    (moved / "a.wav").rename(moved / "c.wav")
    assert sounds_digest(moved) != first
    soundfile.write(noises / "a.wav", np.ones(9), RATE_HZ)
    assert sounds_digest(noises) != first


def test_missing_parts_are_told_before_training(noises, monkeypatch):
    def require(**transforms):
        require_augmentation(AugmentConfig.model_validate(transforms))

    on = {"probability": 1, "range": [10, 20]}
    require(background=on | {"folder": noises})
    (noises / "a.wav").write_bytes(b"")
    (noises / "far/b.WAV").write_bytes(b"RIFFxxxxWAVE")
    with pytest.raises(AudioError, match=r"2 of 2 recordings.*a\.wav is empty.*b\.WAV cannot be"):
        require(background=on | {"folder": noises})
    with pytest.raises(MissingFileError, match=r"nowhere' is not a folder, expected recordings"):
        require(reverb={"probability": 1, "folder": noises / "nowhere"})
    (noises / "empty").mkdir()
    with pytest.raises(MissingFileError, match="empty' holds no WAV file, expected recordings"):
        require(background=on | {"folder": noises / "empty"})
    monkeypatch.setitem(sys.modules, "python_stretch", None)
    for name in ("pitch", "time_stretch"):
        with pytest.raises(MissingPackageError, match=r"python-stretch.*'abhinaya\[augment\]'"):
            require(**{name: {"probability": 1, "range": [1, 1]}})


def test_transforms_of_earlier_versions_keep_their_written_form():
    config = AugmentConfig.model_validate({"gain": {"probability": 1, "range": [1, 2]}})
    assert list(config.model_dump()) == ["speed", "shift", "gain", "noise", "time_mask"]


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
        ({"low_pass": {"probability": 1, "range": [0, 9_000]}}, r"between 20 and 7900 \(Hz\)"),
        ({"background": {"probability": 1, "range": [9, 9]}}, "background.folder is missing"),
        ({"reverb": {"probability": 1}}, "either a range of seconds, or a folder of impulse resp"),
        (
            {"reverb": {"probability": 1, "range": [1, 1], "folder": "rooms"}},
            "give exactly one of them",
        ),
    ],
)
def test_wrong_transform_or_range_is_said_in_one_line(content, message):
    with pytest.raises(ProblemsError, match=message) as caught:
        check_config(content, AugmentConfig, "augment.yaml")
    assert len(caught.value.problems) == 1
