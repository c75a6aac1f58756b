from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import make_manifest
from abhinaya.prompting.acoustics import (
    Hints,
    HintsConfig,
    Voice,
    describe_voice,
    measure_voice,
    track_pitch_hz,
)

SECOND = np.arange(16_000) / 16_000
USUAL = Voice(pitch_hz=200.0, pitch_range_st=6.0, loudness_db=-20.0, rate=3.0)


def voice_like(pitch_hz, seconds=SECOND):
    """A tone with the overtones of a buzz, each weaker than the one before."""
    return sum(np.sin(2 * np.pi * pitch_hz * n * seconds) / n for n in range(1, 8)) * 0.1


@pytest.mark.parametrize("pitch_hz", [65, 100, 117.3, 220, 440, 495])
@pytest.mark.parametrize("make", [voice_like, lambda hz: 0.1 * np.sin(2 * np.pi * hz * SECOND)])
def test_track_pitch_finds_the_pitch_of_a_tone(pitch_hz, make):
    pitches, powers = track_pitch_hz(make(pitch_hz))
    # 1 s holds (16000 - 1024) / 256 + 1 = 59.5 frames.
    assert pitches.shape == powers.shape == (59,)
    np.testing.assert_allclose(pitches, pitch_hz, rtol=1e-3)


def test_track_pitch_of_pulses_is_their_rate_although_the_ground_tone_is_weak():
    samples = np.zeros(16_000)
    samples[::100] = 1.0  # 160 per second
    pitches, _ = track_pitch_hz(samples)
    np.testing.assert_allclose(pitches, 160.0, rtol=1e-6)


@pytest.mark.parametrize(
    "samples",
    [
        np.random.default_rng(0).normal(size=16_000),
        np.zeros(16_000),
        np.full(16_000, 0.5),
        np.zeros(10),
    ],
    ids=["noise", "silence", "constant", "short"],
)
def test_track_pitch_finds_none_where_nobody_speaks(samples):
    assert not track_pitch_hz(samples)[0].any()


def test_track_pitch_is_the_same_in_blocks():
    # 40 s are more frames than are computed at a time.
    seconds = np.arange(40 * 16_000) / 16_000
    pitches, _ = track_pitch_hz(voice_like(150, seconds))
    assert len(pitches) == 2497
    np.testing.assert_allclose(pitches, 150, rtol=1e-3)


def test_measure_voice_by_hand():
    # Half a second of 100 Hz, a pause, half a second of 200 Hz: the median of both is either or
    # between, the 10th percentile 100 and the 90th 200: an octave, 12 semitones.
    pause = np.zeros(8_000)
    samples = np.concatenate(
        [voice_like(100, SECOND[:8000]), pause, voice_like(200, SECOND[:8000])]
    )
    voice = measure_voice(samples.astype(np.float32), "three words here")
    assert voice.pitch_range_st == pytest.approx(12, abs=0.1)
    assert voice.rate == pytest.approx(3 / 1.5)


def test_measure_voice_loudness_is_the_power_without_pauses():
    # A sine of amplitude a has the power a^2 / 2: 0.1 gives -23.01 dB. Frames at the edges of the
    # pause hold less of it.
    sine = 0.1 * np.sin(2 * np.pi * 125 * SECOND)
    whole = measure_voice(sine.astype(np.float32))
    assert whole.loudness_db == pytest.approx(-23.01, abs=0.01)
    with_pause = measure_voice(np.concatenate([sine, np.zeros(64_000)]).astype(np.float32))
    assert with_pause.loudness_db == pytest.approx(-23.01, abs=0.2)


def test_measure_voice_of_silence_has_nothing_but_a_rate():
    silence = np.zeros(8_000, dtype=np.float32)
    assert measure_voice(silence, "a b") == Voice(None, None, None, 4.0)
    assert measure_voice(silence, " ") == Voice(None, None, None, None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        # 200 Hz times 2^(1.4/12) is 1.4 semitones up, and so on.
        ({"pitch_hz": 200 * 2 ** (1.4 / 12)}, "pitch as usual"),
        ({"pitch_hz": 200 * 2 ** (1.6 / 12)}, "pitch higher than usual"),
        ({"pitch_hz": 200 * 2 ** (4.1 / 12)}, "pitch much higher than usual"),
        ({"pitch_hz": 200 / 2 ** (1.6 / 12)}, "pitch lower than usual"),
        ({"pitch_hz": 100.0}, "pitch much lower than usual"),
        ({"pitch_range_st": 7.9}, "pitch range as usual"),
        ({"pitch_range_st": 8.0}, "pitch range wider than usual"),
        ({"pitch_range_st": 1.0}, "pitch range much narrower than usual"),
        ({"loudness_db": -17.1}, "voice as usual"),
        ({"loudness_db": -17.0}, "voice louder than usual"),
        ({"loudness_db": -28.0}, "voice much softer than usual"),
        ({"rate": 3.5}, "speech as usual"),
        ({"rate": 3.7}, "speech faster than usual"),
        ({"rate": 1.9}, "speech much slower than usual"),
    ],
)
def test_describe_voice_names_what_differs(change, words):
    places = {"pitch_hz": 0, "pitch_range_st": 1, "loudness_db": 2, "rate": 3}
    expected = [f"{name} as usual" for name in ("pitch", "pitch range", "voice", "speech")]
    expected[places[next(iter(change))]] = words
    assert describe_voice(replace(USUAL, **change), USUAL) == ", ".join(expected)


def test_describe_voice_leaves_out_what_was_not_measured():
    assert describe_voice(Voice(None, None, -20.0), USUAL) == "voice as usual"
    assert describe_voice(Voice(None, None, None), USUAL) == "nothing could be measured"


@pytest.fixture
def corpus(tmp_path):
    """A low and a high speaker of five clips each, the last a semitone pair up, and one of one."""
    rows = []
    for speaker, pitch_hz in (("low", 100.0), ("high", 200.0)):
        for number in range(5):
            factor = 2 ** (3 / 12) if number == 4 else 1.0
            rows.append((f"{speaker}{number}", speaker, pitch_hz * factor))
    rows += [("single", "single", 100.0), ("nobody", None, 200.0)]
    entries = []
    for name, speaker, pitch_hz in rows:
        soundfile.write(tmp_path / f"{name}.wav", voice_like(pitch_hz), 16_000)
        entries.append({"utterance": name, "audio": f"{name}.wav", "speaker": speaker})
    return make_manifest(entries, MSP_PODCAST, tmp_path)


def hints_of(manifest, **settings):
    return Hints(manifest, manifest.rows, {}, HintsConfig(**settings))


def pitch_words(text):
    against, _, described = text.partition(": ")
    return against, described.split(", ")[0]


def test_hints_compare_speakers_with_themselves(corpus):
    hints = hints_of(corpus)
    own = "compared with the same speaker's clips"
    assert pitch_words(hints.words("low0")) == (own, "pitch as usual")
    assert pitch_words(hints.words("high0")) == (own, "pitch as usual")
    # Three semitones up.
    assert pitch_words(hints.words("low4")) == (own, "pitch higher than usual")
    assert pitch_words(hints.words("high4")) == (own, "pitch higher than usual")


def test_hints_compare_with_all_where_a_speaker_has_few_clips_or_is_unknown(corpus):
    # Of 12 clips five have 100 Hz, one 118.9, five 200 and one 237.8: the median lies between.
    hints = hints_of(corpus)
    assert pitch_words(hints.words("single"))[0] == "compared with all speakers"
    assert pitch_words(hints.words("single"))[1] == "pitch much lower than usual"
    assert pitch_words(hints.words("nobody"))[1] == "pitch higher than usual"
    few = hints_of(corpus, min_clips=6)
    assert pitch_words(few.words("low0"))[0] == "compared with all speakers"


def test_hints_measure_a_file_again_once_it_has_changed(corpus):
    first = hints_of(corpus).words("low0")
    soundfile.write(corpus.root / "low0.wav", voice_like(150)[:12_000], 16_000)
    assert hints_of(corpus).words("low0") != first


def test_hints_log_their_progress(corpus, caplog):
    with caplog.at_level(logging.INFO):
        hints_of(corpus)
    assert caplog.messages[-1] == "measuring voices: 12 of 12"


def test_range_of_words_is_symmetric():
    # Up and down by the same factor are named alike.
    for factor in (1.05, 1.2, 1.6):
        up = describe_voice(Voice(200 * factor, None, None, 3 * factor), USUAL)
        down = describe_voice(Voice(200 / factor, None, None, 3 / factor), USUAL)
        assert up.replace("higher", "lower").replace("faster", "slower") == down
    assert math.isclose(12 * math.log2(1.0595), 1.0, rel_tol=1e-3)
