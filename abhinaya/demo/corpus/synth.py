"""Speech-like sounds: a glottal source, aspiration and frication noise, and a cascade of formants.

The source-filter model of Klatt, "Software for a cascade/parallel formant synthesizer" (JASA 67,
1980, https://doi.org/10.1121/1.383940), reduced to what carries emotion: pitch contour, timing,
level, voice quality and articulation. No human would be fooled, but an encoder can learn it.

A `Voice` is what the speaker brings, a `Style` what the emotion changes. Slow tracks are made on
frames of 10 ms, shape (T,), and brought to samples, shape (S,), where the sound is made.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.audio import SAMPLE_RATE_HZ
from abhinaya.demo.corpus.voices import NEUTRAL_SYLLABLES_PER_S, Style, Voice
from abhinaya.errors import BadValueError

__all__ = [
    "MAX_DURATION_S",
    "MIN_DURATION_S",
    "Phone",
    "spell",
    "synthesize",
]

MIN_DURATION_S = 1.0
MAX_DURATION_S = 3.0

_FRAME_SAMPLES = SAMPLE_RATE_HZ // 100
_FRAME_S = _FRAME_SAMPLES / SAMPLE_RATE_HZ
_UPPER_FORMANTS_HZ = (3500.0, 4500.0)
_LEVEL_DBFS = -25.0
_PEAK = 0.9

FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Phone:
    """A stretch of sound with one articulation.

    Args:
        formants_hz: F1, F2 and F3 of an average adult male voice.
        duration_s: length at a neutral rate.
        voicing: level of the glottal source, 0..1.
        hiss: level of noise around 5 kHz, as in s, 0..1.
        puff: level of noise around 2 kHz, as in f or after p, 0..1.
        is_vowel: whether it can carry a pitch accent.
    """

    formants_hz: tuple[float, float, float] = (500.0, 1500.0, 2500.0)
    duration_s: float = 0.06
    voicing: float = 0.0
    hiss: float = 0.0
    puff: float = 0.0
    is_vowel: bool = False


_VOWELS_HZ = {
    "a": (730.0, 1200.0, 2450.0),
    "e": (530.0, 1840.0, 2480.0),
    "i": (300.0, 2250.0, 3000.0),
    "o": (560.0, 880.0, 2400.0),
    "u": (320.0, 950.0, 2250.0),
}
_PAUSE = Phone(duration_s=0.0)
_CLOSURE = Phone(duration_s=0.04)
_CONSONANTS = {
    "ptkqbdg": (_CLOSURE, Phone(duration_s=0.025, puff=0.8)),
    "szcxj": (Phone(duration_s=0.08, hiss=0.7),),
    "fvh": (Phone(duration_s=0.06, puff=0.25),),
    "mn": (Phone((280.0, 1100.0, 2300.0), 0.06, voicing=0.4),),
    "lrwy": (Phone((370.0, 1250.0, 2300.0), 0.05, voicing=0.65),),
}


def spell(text: str) -> list[list[Phone]]:
    """Spell every word of an English text in rough phones, by its letters.

    Example:
        >>> [len(phones) for phones in spell("See, a dog.")]  # s ee | a | d(2) o g(2)
        [2, 1, 5]
    """
    # A final e after vowel and consonant is silent.
    words = re.findall(r"[a-z]+", text.lower().replace("'", ""))
    return [_spell_word(re.sub(r"(?<=[aeiou][b-df-hj-np-tv-z])e$", "", word)) for word in words]


def _spell_word(word: str) -> list[Phone]:
    phones: list[Phone] = []
    # A run of vowel letters is one vowel, named by its first; a doubled consonant is one consonant.
    for match in re.finditer(r"(?P<vowel>[aeiou]+|(?<=[a-z])y(?![aeiou]))|([a-z])\2*", word):
        letter = match.group()[0]
        if match["vowel"]:
            formants_hz = _VOWELS_HZ["i" if letter == "y" else letter]
            phones.append(Phone(formants_hz, 0.11, voicing=1.0, is_vowel=True))
        else:
            phones += next(made for letters, made in _CONSONANTS.items() if letter in letters)
    return phones


def synthesize(
    voice: Voice, style: Style, words: Sequence[Sequence[Phone]], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Synthesize a clip in which a voice says some words in a style.

    The length follows from the phones and the rate, and is kept between `MIN_DURATION_S` and
    `MAX_DURATION_S`. A little noise lies under everything, pauses included.

    Args:
        voice: who speaks.
        style: how.
        words: phones of every word, as `spell` gives them.
        rng: source of all randomness.

    Returns:
        Samples at 16 kHz, shape (S,), within -0.9..0.9.

    Raises:
        BadValueError: if there is no vowel to say.
    """
    if not any(phone.is_vowel for word in words for phone in word):
        raise BadValueError("The words have no vowel, so there is nothing to say; pass some text.")
    phones, durations_s = _time_phones(words, voice, style, rng)
    ends_s = np.cumsum(durations_s)
    n_frames = int(ends_s[-1] / _FRAME_S)
    times_s = (np.arange(n_frames) + 0.5) * _FRAME_S
    phone_idx = np.searchsorted(ends_s, times_s, side="right")
    vowels = [idx for idx, phone in enumerate(phones) if phone.is_vowel]
    onsets_s = (ends_s - durations_s)[vowels]

    accents = _accents(times_s, onsets_s, style, rng)
    pitch_st = _pitch_contour(times_s, accents, onsets_s[-1], style, rng)
    voicing = _smooth(np.array([phone.voicing for phone in phones])[phone_idx])
    voiced = _glottal_source(voice, style, pitch_st, voicing, rng)
    voiced = _apply_formants(voiced, _formants_hz(phones, phone_idx, voice, style), style)
    voiced /= np.sqrt(np.mean(voiced**2)) + 1e-9
    speech = voiced + _frication(phones, phone_idx, rng)

    progress = np.linspace(-0.5, 0.5, n_frames)  # shape (T,)
    gain_db = style.slope_db * progress + style.accent_db * accents
    speech *= 10 ** (_to_samples(gain_db) / 20)
    return _finish(speech, _LEVEL_DBFS + voice.level_db + style.level_db, rng)


def _time_phones(
    words: Sequence[Sequence[Phone]], voice: Voice, style: Style, rng: np.random.Generator
) -> tuple[list[Phone], FloatArray]:
    """Put all phones in a row, silence around and between words, with lengths in seconds."""
    phones: list[Phone] = [_PAUSE]
    scales: list[float] = [0.0]
    pauses_s: list[float] = [rng.uniform(0.05, 0.15)]
    rate = voice.rate_scale * style.syllables_per_s / NEUTRAL_SYLLABLES_PER_S
    for word in words:
        for phone in word:
            stretch = style.vowel_stretch if phone.is_vowel else 1.0
            phones.append(phone)
            scales.append(stretch / rate * rng.uniform(0.85, 1.15))
            pauses_s.append(0.0)
        phones.append(_PAUSE)
        scales.append(0.0)
        pauses_s.append(rng.uniform(0.08, 0.25) if rng.random() < style.pause_prob else 0.0)
    pauses_s[-1] = rng.uniform(0.05, 0.15)
    spoken_s = np.array([phone.duration_s for phone in phones]) * np.array(scales)
    durations_s = spoken_s + np.array(pauses_s)
    wanted_s = np.clip(durations_s.sum(), MIN_DURATION_S, MAX_DURATION_S)
    return phones, durations_s * wanted_s / durations_s.sum()


def _accents(
    times_s: FloatArray, onsets_s: FloatArray, style: Style, rng: np.random.Generator
) -> FloatArray:
    """Draw where the voice is raised, 0..1, shape (T,): a bump near every accented vowel."""
    is_accented = rng.random(len(onsets_s)) < 0.55
    is_accented[rng.integers(len(onsets_s))] = True  # no clip without an accent
    heights = is_accented * rng.uniform(0.6, 1.0, len(onsets_s))
    peaks_s = onsets_s + style.accent_lag_s
    bumps = heights * np.exp(-0.5 * ((times_s[:, None] - peaks_s) / 0.06) ** 2)  # (T, vowels)
    accents: FloatArray = bumps.max(axis=1)
    return accents


def _pitch_contour(
    times_s: FloatArray,
    accents: FloatArray,
    last_onset_s: float,
    style: Style,
    rng: np.random.Generator,
) -> FloatArray:
    """Return the pitch relative to the voice, semitones, shape (T,); its mean is the style's."""
    moving_st = style.accent_st * accents + style.slope_st * times_s / times_s[-1]
    moving_st += style.final_st * np.clip((times_s - last_onset_s) / 0.15, 0, 1)
    phase = 2 * np.pi * (style.tremor_hz * times_s + rng.random())
    moving_st += style.tremor_st * np.sin(phase)
    pitch_st: FloatArray = style.pitch_st + moving_st - moving_st.mean()
    return pitch_st


def _glottal_source(
    voice: Voice,
    style: Style,
    pitch_st: FloatArray,
    voicing: FloatArray,
    rng: np.random.Generator,
) -> FloatArray:
    """Make the derivative of the glottal flow with aspiration noise, shape (S,).

    The pulse is Rosenberg's trigonometric one ("Effect of glottal pulse shape on the quality of
    natural vowels", JASA 49, 1971): a raised cosine opens, a quarter cosine closes.
    """
    from scipy.signal import lfilter

    breathiness = min(voice.breathiness + style.breathiness, 0.7)
    f0_hz = _to_samples(voice.f0_hz * 2 ** (pitch_st / 12))
    even_cycle = np.floor(np.cumsum(f0_hz) / SAMPLE_RATE_HZ).astype(int)
    deviations = np.clip(rng.normal(size=(2, even_cycle[-1] + 1)), -2, 2)
    f0_hz *= 1 + (voice.jitter + style.jitter) * deviations[0, even_cycle]
    phase = np.cumsum(f0_hz) / SAMPLE_RATE_HZ
    height = 1 + (voice.shimmer + style.shimmer) * deviations[1, even_cycle]
    phase %= 1.0

    opening = (
        0.35 + 0.3 * breathiness
    )  # fractions of a period; breathy voices close late and softly
    closing = 0.12 + 0.2 * breathiness
    rising = phase < opening
    falling = ~rising & (phase < opening + closing)
    pulse = np.zeros_like(phase)
    pulse[rising] = np.pi / (2 * opening) * np.sin(np.pi * phase[rising] / opening)
    angle = np.pi / 2 * (phase[falling] - opening) / closing
    pulse[falling] = -np.pi / (2 * closing) * np.sin(angle)
    pulse *= height

    # One pole that has lost `tilt_db` at 3 kHz: 10 log10(1 + (3000 / cutoff)^2) = tilt_db.
    tilt_db = np.clip(voice.tilt_db + style.tilt_db, 0.5, 24)
    cutoff_hz = 3000 / np.sqrt(10 ** (tilt_db / 10) - 1)
    pole = np.exp(-2 * np.pi * cutoff_hz / SAMPLE_RATE_HZ)
    pulse = lfilter([1 - pole], [1, -pole], pulse)
    pulse /= pulse.std() + 1e-9

    aspiration = rng.normal(size=len(phase)) * np.where(rising | falling, 1.0, 0.4)
    source: FloatArray = (1 - breathiness) * pulse + 0.6 * breathiness * aspiration
    return source * _to_samples(voicing)


def _formants_hz(
    phones: Sequence[Phone], phone_idx: NDArray[np.intp], voice: Voice, style: Style
) -> FloatArray:
    """Return five formant frequencies per frame, shape (T, 5), gliding from phone to phone."""
    schwa = np.array(Phone().formants_hz)
    lower = np.array([phone.formants_hz for phone in phones])
    lower = schwa + style.formant_spread * (lower - schwa)
    lower[:, 0] *= style.f1_scale
    upper = np.broadcast_to(_UPPER_FORMANTS_HZ, (len(phones), 2))
    targets_hz = np.hstack([lower, upper]) * voice.formant_scale * style.formant_scale
    return np.clip(_smooth(targets_hz[phone_idx]), 150, 0.47 * SAMPLE_RATE_HZ)


def _apply_formants(source: FloatArray, formants_hz: FloatArray, style: Style) -> FloatArray:
    """Filter the source by a cascade of two-pole resonators, gain 1 at 0 Hz, shape (S,)."""
    from scipy.signal import sosfilt

    bandwidths_hz = style.bandwidth_scale * (50 + 0.05 * formants_hz)
    radii = np.exp(-np.pi * bandwidths_hz / SAMPLE_RATE_HZ)
    first = -2 * radii * np.cos(2 * np.pi * formants_hz / SAMPLE_RATE_HZ)
    second = radii**2
    zeros, ones = np.zeros_like(first), np.ones_like(first)
    sections = np.stack(
        [1 + first + second, zeros, zeros, ones, first, second], axis=-1
    )  # (T, 5, 6)
    state = np.zeros((sections.shape[1], 2))
    filtered = np.empty_like(source)
    for frame_idx, sos in enumerate(sections):
        span = slice(frame_idx * _FRAME_SAMPLES, (frame_idx + 1) * _FRAME_SAMPLES)
        filtered[span], state = sosfilt(sos, source[span], zi=state)
    return filtered


def _frication(
    phones: Sequence[Phone], phone_idx: NDArray[np.intp], rng: np.random.Generator
) -> FloatArray:
    """Make the noise of unvoiced consonants, relative to a voiced level of 1, shape (S,)."""
    from scipy.signal import lfilter

    total = np.zeros(len(phone_idx) * _FRAME_SAMPLES)
    for centre_hz, levels in (
        (5000.0, [phone.hiss for phone in phones]),
        (2000.0, [phone.puff for phone in phones]),
    ):
        angle = 2 * np.pi * centre_hz / SAMPLE_RATE_HZ
        noise = lfilter([1, 0, -1], [1, -1.7 * np.cos(angle), 0.7225], rng.normal(size=len(total)))
        total += 0.5 * noise / noise.std() * _to_samples(np.array(levels)[phone_idx])
    return total


def _finish(speech: FloatArray, level_dbfs: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Set the speech to its level over a faint noise floor, peaks below full scale."""
    speech = speech * 10 ** (level_dbfs / 20) / np.sqrt(np.mean(speech**2))
    floor_dbfs = rng.uniform(-66, -56)
    speech = speech + 10 ** (floor_dbfs / 20) * rng.normal(size=len(speech))
    peak = np.abs(speech).max()
    samples: NDArray[np.float32] = (speech * min(1.0, _PEAK / peak)).astype(np.float32)
    return samples


def _smooth(track: FloatArray) -> FloatArray:
    """Average a track, shape (T,) or (T, D), over some 50 ms: articulators do not jump."""
    from scipy.ndimage import convolve1d

    return np.asarray(convolve1d(track, [0.1, 0.25, 0.3, 0.25, 0.1], axis=0, mode="nearest"))


def _to_samples(track: FloatArray) -> FloatArray:
    """Interpolate a track on frames, shape (T,), to samples, shape (S,) with S = 160 T."""
    positions = (np.arange(len(track) * _FRAME_SAMPLES) + 0.5) / _FRAME_SAMPLES - 0.5
    return np.interp(positions, np.arange(len(track)), track)
