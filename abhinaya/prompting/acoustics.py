"""Words for how a voice sounds, for prompts to models that cannot hear: "pitch higher than usual".

Pitch, its range, loudness and speaking rate are measured and compared with their medians over the
same speaker's clips, or over everybody's where the speaker has too few. The same files give the
same words.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import PositiveInt

from abhinaya.config import Config
from abhinaya.data.audio import SAMPLE_RATE_HZ, read_audio
from abhinaya.data.manifest import Manifest
from abhinaya.errors import AudioError
from abhinaya.processes import map_in_shares

__all__ = ["Hints", "HintsConfig", "Voice", "describe_voice", "measure_voice", "track_pitch_hz"]

FloatArray = NDArray[np.float64]


_FRAME = 1024  # 64 ms: about four periods of the lowest pitch
_HOP = 256  # 16 ms
_LOWEST_HZ, _HIGHEST_HZ = 60, 500
_BLOCK = 2_000  # frames at a time: bounds the memory for long clips to some 100 MB

# Boersma's own values, see `track_pitch_hz`.
_VOICED_FROM = 0.45
_OCTAVE_COST = 0.01

# Frames this far below the loudest one are taken for pauses.
_PAUSE_DB = -30.0


class HintsConfig(Config):
    """How acoustic hints are worded."""

    min_clips: PositiveInt = 5
    """A speaker with fewer measured clips in the selection is compared with everybody."""


@dataclass(frozen=True)
class Voice:
    """What was measured of one clip; `None` where there is nothing to measure.

    Args:
        pitch_hz: median of the voiced frames' fundamental frequency, in [60, 500].
        pitch_range_st: from the 10th to the 90th percentile of it, in semitones.
        loudness_db: mean power of the frames that are no pause, in dB of full scale.
        rate: words per second, pauses included.
    """

    pitch_hz: float | None
    pitch_range_st: float | None
    loudness_db: float | None
    rate: float | None = None


@dataclass(frozen=True)
class _Quality:
    """How one measure is compared and worded."""

    name: str
    less: str
    more: str
    clear: float
    """Differences from here on are named, and called much from `strong` on."""
    strong: float

    def word(self, difference: float) -> str:
        size = abs(difference)
        if size < self.clear:
            return f"{self.name} as usual"
        much = "much " if size >= self.strong else ""
        return f"{self.name} {much}{self.more if difference > 0 else self.less} than usual"


# Differences in semitones, semitones, dB, and for the rate as a logarithm: a factor of 1.2 or 1.5.
_QUALITIES = {
    "pitch_hz": _Quality("pitch", "lower", "higher", clear=1.5, strong=4.0),
    "pitch_range_st": _Quality("pitch range", "narrower", "wider", clear=2.0, strong=5.0),
    "loudness_db": _Quality("voice", "softer", "louder", clear=3.0, strong=8.0),
    "rate": _Quality("speech", "slower", "faster", clear=math.log(1.2), strong=math.log(1.5)),
}


class Hints:
    """The words for every clip of a selection.

    All clips are measured at once, because each is compared with others.

    Args:
        manifest: where the audio lies.
        rows: rows of the manifest, the selection.
        transcripts: text by utterance, for the speaking rate; clips without go without it.
        settings: how they are worded.
    """

    def __init__(
        self,
        manifest: Manifest,
        rows: pd.DataFrame,
        transcripts: Mapping[str, str | None],
        settings: HintsConfig,
    ) -> None:
        columns = rows[["utterance", "audio", "speaker"]]
        entries = list(columns.itertuples(index=False, name=None))

        def measure(entry: tuple[str, str, str]) -> Voice | str:
            utterance, audio, _ = entry
            if pd.isna(audio):
                return "the manifest names no audio file"
            try:
                return _measure_file(manifest.audio_path(audio), transcripts.get(utterance))
            except AudioError as err:
                return str(err)

        found = map_in_shares(measure, entries, description="measuring voices")
        self._found = {entry[0]: voice for entry, voice in zip(entries, found, strict=True)}
        voices = [voice for voice in found if isinstance(voice, Voice)]
        by_speaker: dict[str, list[Voice]] = {}
        self._speaker: dict[str, str] = {}
        for (utterance, _, speaker), voice in zip(entries, found, strict=True):
            if pd.notna(speaker) and isinstance(voice, Voice):
                self._speaker[utterance] = speaker
                by_speaker.setdefault(speaker, []).append(voice)
        self._usual = _medians(voices)
        self._usual_of = {
            speaker: _medians(own)
            for speaker, own in by_speaker.items()
            if len(own) >= settings.min_clips
        }

    def words(self, utterance: str) -> str:
        """Return what is said about one clip.

        Raises:
            AudioError: if it could not be measured.
        """
        voice = self._found[utterance]
        if isinstance(voice, str):
            raise AudioError(voice)
        own = self._usual_of.get(self._speaker.get(utterance, ""))
        if own is None:
            return f"compared with all speakers: {describe_voice(voice, self._usual)}"
        return f"compared with the same speaker's clips: {describe_voice(voice, own)}"


def describe_voice(voice: Voice, usual: Voice) -> str:
    """Tell how one clip differs from what is usual, in words.

    Named are differences from 1.5 semitones of pitch on (much: 4), 2 semitones of pitch range (5),
    3 dB (8), and a factor of 1.2 in the speaking rate (1.5).

    Example:
        >>> describe_voice(Voice(200.0, None, -20.0, 3.0), Voice(150.0, 5.0, -24.0, 3.1))
        'pitch much higher than usual, voice louder than usual, speech as usual'
    """
    parts = []
    for key, quality in _QUALITIES.items():
        own, normal = getattr(voice, key), getattr(usual, key)
        if own is None or normal is None:
            continue
        if key == "pitch_hz":
            difference = 12 * math.log2(own / normal)
        elif key == "rate":
            difference = math.log(own / normal)
        else:
            difference = own - normal
        parts.append(quality.word(difference))
    return ", ".join(parts) or "nothing could be measured"


def measure_voice(waveform: NDArray[np.float32], text: str | None = None) -> Voice:
    """Return pitch, loudness and speaking rate of one clip.

    Args:
        waveform: mono at 16 kHz, shape (S,).
        text: its transcript; without words there is no rate.
    """
    samples = np.asarray(waveform, dtype=np.float64)
    pitches, powers = track_pitch_hz(samples)
    loudest = float(powers.max(initial=0.0))
    loudness = None
    if loudest > 0:
        loud = powers[powers >= loudest * 10 ** (_PAUSE_DB / 10)]
        loudness = 10 * math.log10(float(loud.mean()))
    n_words = len((text or "").split())
    rate = n_words / (len(samples) / SAMPLE_RATE_HZ) if n_words else None
    voiced = pitches[pitches > 0]
    if not len(voiced):
        return Voice(None, None, loudness, rate)
    low, high = np.quantile(voiced, [0.1, 0.9])
    return Voice(float(np.median(voiced)), 12 * math.log2(high / low), loudness, rate)


def track_pitch_hz(samples: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return fundamental frequency and power of frames of 64 ms, every 16 ms.

    Frame by frame the best peak of the normalised autocorrelation is taken, without a path through
    the frames: medians and percentiles do not need it.

    Source: Boersma, "Accurate short-term analysis of the fundamental frequency and the
    harmonics-to-noise ratio of a sampled sound", IFA Proceedings 17, 1993, without the Viterbi
    search.

    Args:
        samples: mono at 16 kHz, shape (S,); less than one frame is filled up with zeros.

    Returns:
        pitches: in Hz, shape (T,); 0 where a frame is no voice.
        powers: mean square of each frame, shape (T,).
    """
    if len(samples) < _FRAME:
        samples = np.pad(samples, (0, _FRAME - len(samples)))
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FRAME)[::_HOP]  # (T, 1024)
    powers = np.array([float(np.mean(frame**2)) for frame in frames])
    pitches = np.concatenate(
        [_pitches_of(frames[at : at + _BLOCK]) for at in range(0, len(frames), _BLOCK)]
    )
    pitches[powers < powers.max() * 10 ** (_PAUSE_DB / 10)] = 0.0
    return pitches, powers


def _pitches_of(frames: FloatArray) -> FloatArray:
    window = np.hanning(_FRAME + 2)[1:-1]
    centred = (frames - frames.mean(axis=1, keepdims=True)) * window
    own = _autocorrelation(window[np.newaxis])[0]
    raw = _autocorrelation(centred)  # (T, 1024)
    power = np.maximum(raw[:, :1], np.finfo(np.float64).tiny)
    # Dividing by the window's own undoes its fading towards long lags.
    r = raw / power / own * own[0]

    first, last = SAMPLE_RATE_HZ // _HIGHEST_HZ, -(-SAMPLE_RATE_HZ // _LOWEST_HZ)
    middle = r[:, first : last + 1]
    left, right = r[:, first - 1 : last], r[:, first + 1 : last + 2]
    is_peak = (middle >= left) & (middle > right)
    # A parabola through three points has its top between the samples.
    bend = np.where(is_peak, left - 2 * middle + right, -1.0)
    shift = np.where(is_peak, 0.5 * (left - right) / np.minimum(bend, -1e-12), 0.0)
    height = middle - 0.25 * (left - right) * shift
    lags = np.arange(first, last + 1) + shift
    # Twice the period fits as well as the period: shorter lags get a little ahead.
    score = np.where(
        is_peak, height - _OCTAVE_COST * np.log2(lags * _LOWEST_HZ / SAMPLE_RATE_HZ), -np.inf
    )
    best = score.argmax(axis=1)
    every = np.arange(len(frames))
    is_voiced = is_peak[every, best] & (height[every, best] > _VOICED_FROM)
    pitches = np.clip(SAMPLE_RATE_HZ / lags[every, best], _LOWEST_HZ, _HIGHEST_HZ)
    return np.where(is_voiced, pitches, 0.0)


def _autocorrelation(frames: FloatArray) -> FloatArray:
    """Return of every row, at the lags 0 to 1023."""
    spectrum = np.fft.rfft(frames, 2 * _FRAME, axis=1)
    return np.fft.irfft(np.abs(spectrum) ** 2, axis=1)[:, :_FRAME]


def _medians(voices: Sequence[Voice]) -> Voice:
    def median(key: str) -> float | None:
        values = [getattr(voice, key) for voice in voices if getattr(voice, key) is not None]
        return statistics.median(values) if values else None

    return Voice(*(median(key) for key in _QUALITIES))


def _measure_file(path: Path, text: str | None) -> Voice:
    try:
        status = path.stat()
    except OSError:
        return measure_voice(read_audio(path), text)  # which says what is wrong
    return _measure_unchanged(path, status.st_mtime_ns, status.st_size, text)


@lru_cache(maxsize=2**18)
def _measure_unchanged(path: Path, mtime_ns: int, size: int, text: str | None) -> Voice:
    """Return the features of a clip, kept because several prompts are tried on the same clips."""
    del mtime_ns, size
    return measure_voice(read_audio(path), text)
