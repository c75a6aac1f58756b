from dataclasses import replace

import numpy as np
import pytest

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.demo.corpus.synth import MAX_DURATION_S, MIN_DURATION_S, Phone, spell, synthesize
from abhinaya.demo.corpus.voices import STYLES, Style, Voice, blend, draw_voice
from abhinaya.errors import BadValueError

RATE_HZ = 16_000
# Little noise and no perturbation, so that what is measured is what was asked for.
CLEAN = Voice(f0_hz=120.0, breathiness=0.0, jitter=0.0, shimmer=0.0)
TEXT = "We read a long letter about the dinner"


def say(voice=CLEAN, style=None, text=TEXT, seed=0):
    return synthesize(voice, style or Style(), spell(text), np.random.default_rng(seed))


def f0_track(samples):
    """Pitch of the voiced frames, Hz, and their height of the autocorrelation peak, by its lag."""
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(float), 800)[::160]
    spectra = np.fft.rfft(frames - frames.mean(axis=1, keepdims=True), 2048)
    correlations = np.fft.irfft(np.abs(spectra) ** 2)[:, :321]
    correlations *= 800 / (800 - np.arange(321))  # fewer products at longer lags
    correlations /= correlations[:, :1]
    lags = 40 + correlations[:, 40:].argmax(axis=1)  # 50 to 400 Hz
    heights = correlations[np.arange(len(lags)), lags]
    return RATE_HZ / lags[heights > 0.6], heights


def energy_db(samples, low_hz, high_hz):
    power = np.abs(np.fft.rfft(samples)) ** 2
    freqs_hz = np.fft.rfftfreq(len(samples), 1 / RATE_HZ)
    return 10 * np.log10(power[(freqs_hz >= low_hz) & (freqs_hz < high_hz)].sum())


@pytest.mark.parametrize("f0_hz", [95.0, 120.0, 180.0, 240.0])
def test_monotone_style_has_the_pitch_of_the_voice(f0_hz):
    track_hz, _ = f0_track(say(replace(CLEAN, f0_hz=f0_hz)))
    assert len(track_hz) > 50
    assert np.median(track_hz) == pytest.approx(f0_hz, rel=0.02)


def test_twelve_semitones_double_the_pitch():
    track_hz, _ = f0_track(say(style=Style(pitch_st=12)))
    assert np.median(track_hz) == pytest.approx(240, rel=0.02)


def test_rising_slope_ends_higher_than_it_starts():
    track_hz, _ = f0_track(say(style=Style(slope_st=8)))
    n_third = len(track_hz) // 3
    # The middles of the outer thirds are 2/3 of the way apart: 8 * 2/3 = 5.3 semitones.
    rise_st = 12 * np.log2(np.median(track_hz[-n_third:]) / np.median(track_hz[:n_third]))
    assert 4 < rise_st < 6.5


def test_accents_widen_the_pitch_range_and_keep_the_mean():
    flat_hz, _ = f0_track(say())
    lively_hz, _ = f0_track(say(style=Style(accent_st=6)))
    # Percentiles, because the tracker halves the pitch of a few frames at the edges.
    flat_st, lively_st = (
        np.ptp(np.percentile(12 * np.log2(track_hz), [15, 85])) for track_hz in (flat_hz, lively_hz)
    )
    assert flat_st < 0.7  # one sample of lag is 0.13 semitones
    assert lively_st > 2
    assert np.median(12 * np.log2(lively_hz / 120)) == pytest.approx(0, abs=2)


def test_jitter_and_breath_make_the_voice_less_periodic():
    heights = [
        np.percentile(f0_track(say(style=style))[1], 75)
        for style in (Style(), Style(jitter=0.06), Style(breathiness=0.5))
    ]
    assert heights[0] > heights[1] + 0.05
    assert heights[0] > heights[2] + 0.05


def test_tilt_takes_high_frequencies_away():
    def brightness_db(tilt_db):
        samples = say(style=Style(tilt_db=tilt_db), text="ee ee ee ee")  # no consonants
        return energy_db(samples, 2000, 5000) - energy_db(samples, 0, 1000)

    assert brightness_db(-5) > brightness_db(0) + 2 > brightness_db(8) + 4


def test_formants_stand_where_the_phone_and_the_tract_put_them():
    vowel = Phone((700.0, 1300.0, 2500.0), 1.0, voicing=1.0, is_vowel=True)
    for scale in (0.9, 1.2):
        # 40 Hz is no voice, but its harmonics sample the envelope finely.
        voice = Voice(f0_hz=40.0, formant_scale=scale, tilt_db=0.5, breathiness=0, jitter=0)
        samples = synthesize(voice, Style(), [[vowel]], np.random.default_rng(0))
        power = np.abs(np.fft.rfft(samples)) ** 2
        freqs_hz = np.fft.rfftfreq(len(samples), 1 / RATE_HZ)
        for formant_hz in (700 * scale, 1300 * scale):
            near = np.abs(freqs_hz - formant_hz) < 250
            peak_hz = freqs_hz[near][power[near].argmax()]
            assert peak_hz == pytest.approx(formant_hz, abs=50)


def test_faster_style_is_shorter():
    # 4.6 syllables per second are neutral; at twice the rate the words take half the time, while
    # the silence around them (0.1 to 0.3 s) stays.
    text = TEXT + " today"
    slow_s, fast_s = (
        len(say(style=Style(syllables_per_s=rate), text=text)) / RATE_HZ for rate in (4.6, 9.2)
    )
    assert MIN_DURATION_S < fast_s < slow_s < MAX_DURATION_S
    assert fast_s == pytest.approx(slow_s / 2, abs=0.16)


def test_six_decibels_double_the_amplitude():
    ratio = np.std(say(style=Style(level_db=6.0206))) / np.std(say())
    assert ratio == pytest.approx(2, rel=0.01)


def test_falling_level_ends_quieter():
    samples = say(style=Style(slope_db=-12))
    n_third = len(samples) // 3
    change_db = 20 * np.log10(samples[-n_third:].std() / samples[:n_third].std())
    assert change_db < 20 * np.log10(say()[-n_third:].std() / say()[:n_third].std()) - 4


@pytest.mark.parametrize(
    ("text", "duration_s"), [("a", MIN_DURATION_S), (TEXT * 5, MAX_DURATION_S)]
)
def test_length_stays_within_its_limits(text, duration_s):
    assert len(say(text=text)) / RATE_HZ == pytest.approx(duration_s, abs=0.011)


def test_loud_voice_is_not_clipped():
    samples = say(replace(CLEAN, level_db=40.0))
    assert samples.dtype == np.float32
    assert np.abs(samples).max() == pytest.approx(0.9, abs=1e-6)
    assert np.sum(np.abs(samples) > 0.899) < 5


@pytest.mark.parametrize("code", sorted(STYLES))
@pytest.mark.parametrize("gender", ["Female", "Male"])
def test_every_style_gives_finite_sound_at_a_reasonable_level(code, gender):
    samples = say(draw_voice(np.random.default_rng(3), gender), STYLES[code])
    assert np.isfinite(samples).all()
    assert 0.005 < np.std(samples) < 0.3
    assert abs(samples.mean()) < 0.005


def test_same_generator_gives_the_same_samples_and_another_does_not():
    np.testing.assert_array_equal(say(seed=1), say(seed=1))
    other, first = say(seed=2), say(seed=1)
    assert other.shape != first.shape or not np.array_equal(other, first)


def test_text_without_vowels_raises():
    with pytest.raises(BadValueError, match="no vowel"):
        say(text="hm, 12")


def test_spell_reads_letters_as_phones():
    (the,), (dog,) = spell("The"), spell("dog")
    assert [phone.is_vowel for phone in the] == [False, False, False, True]  # t(2) h e
    assert [phone.is_vowel for phone in spell("game")[0]] == [False, False, True, False]  # silent e
    assert [phone.puff for phone in dog] == [0, 0.8, 0, 0, 0.8]  # closure, burst, o, closure, burst
    assert spell("don't stop") == [*spell("dont"), *spell("stop")]
    assert spell("12, 13!") == []


def test_styles_cover_the_emotion_set():
    assert tuple(STYLES) == MSP_PODCAST.codes


def test_blend_is_linear_in_every_field():
    mixed = blend(Style(accent_st=2, tilt_db=-4), Style(accent_st=6, tilt_db=8), 0.25)
    assert mixed.accent_st == 3  # 0.75 * 2 + 0.25 * 6
    assert mixed.tilt_db == -1  # 0.75 * -4 + 0.25 * 8
    assert mixed.formant_spread == 1


def test_women_and_men_differ_in_pitch_and_tract():
    women = [draw_voice(np.random.default_rng(seed), "Female") for seed in range(20)]
    men = [draw_voice(np.random.default_rng(seed), "Male") for seed in range(20)]
    assert min(voice.f0_hz for voice in women) > max(voice.f0_hz for voice in men)
    assert min(v.formant_scale for v in women) > max(v.formant_scale for v in men)
    assert len({voice.f0_hz for voice in women + men}) == 40
