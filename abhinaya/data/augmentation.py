"""Training clips that sound a little different in every epoch.

Written with numpy, scipy and soxr. audiomentations, the usual library, cannot be installed beside
them: its releases for numpy 2 want soxr below 1, where ours is newer; older ones were made for
numpy 1. It also draws from the global generators of `random` and numpy, so what a clip becomes
would depend on the process that loads it and on the clips loaded before. Stretching is left to the
engine that it uses itself, Signalsmith Stretch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import soxr
from numpy.typing import NDArray
from pydantic import Field, model_validator

from abhinaya.config import Config, is_unset
from abhinaya.data.audio import MIN_DURATION_S, SAMPLE_RATE_HZ
from abhinaya.data.sound_folders import check_sounds, draw_sound, list_sounds
from abhinaya.errors import MissingPackageError

__all__ = [
    "TRANSFORMS",
    "AugmentConfig",
    "Background",
    "Reverb",
    "Transform",
    "augment",
    "require_augmentation",
]

_FloatArray = NDArray[np.float32]


class Transform(Config):
    """How often a transform is applied, and how strongly: drawn evenly from a range."""

    probability: float = Field(ge=0, le=1)
    """Of a clip to be changed, in each epoch."""
    range: tuple[float, float]
    """Lowest and highest strength; evenly drawn."""


class Background(Transform):
    """A transform that adds recordings."""

    folder: Path
    """WAV files, in subfolders too; one is drawn, and of a longer one its place."""


class Reverb(Config):
    """The sound of a room: recorded ones, or noise that decays."""

    probability: float = Field(ge=0, le=1)
    """Of a clip to be changed, in each epoch."""
    range: tuple[float, float] | None = None
    """Seconds in which decaying noise loses 60 dB, such as [0.1, 0.8]; it is as strong as the
    direct sound."""
    folder: Path | None = None
    """WAV files with impulse responses of rooms, in subfolders too, in place of noise."""

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.range is None) == (self.folder is None):
            raise ValueError(
                "reverb takes either a range of seconds, or a folder of impulse responses; give "
                "exactly one of them"
            )
        return self


class AugmentConfig(Config):
    """Transforms in the order in which they are applied; those left out are not."""

    speed: Transform | None = None
    """So many times as fast and high, such as [0.9, 1.1]; a slower clip loses its end where it
    exceeds max_audio_s."""
    time_stretch: Transform | None = Field(default=None, exclude_if=is_unset)
    """So many times as fast at the same pitch, such as [0.85, 1.2]; a slower clip as above."""
    pitch: Transform | None = Field(default=None, exclude_if=is_unset)
    """Higher by so many semitones at the same speed, such as [-3, 3]."""
    shift: Transform | None = None
    """Later by such a share of the clip (earlier below 0), such as [-0.2, 0.2], after silence."""
    reverb: Reverb | None = Field(default=None, exclude_if=is_unset)
    """As loud as before, in a room."""
    gain: Transform | None = None
    """Louder by so many decibels, such as [-6, 6]; cut off at full scale."""
    noise: Transform | None = None
    """White noise so many decibels below the clip, such as [15, 40]."""
    background: Background | None = Field(default=None, exclude_if=is_unset)
    """Recorded noise so many decibels below the clip, such as [10, 30]."""
    low_pass: Transform | None = Field(default=None, exclude_if=is_unset)
    """Without what is above so many Hz, such as [2000, 7000]; this and the following filters are
    of Butterworth's kind and fall by 24 dB per octave."""
    high_pass: Transform | None = Field(default=None, exclude_if=is_unset)
    """Without what is below so many Hz, such as [100, 2000]."""
    band_pass: Transform | None = Field(default=None, exclude_if=is_unset)
    """Only the two octaves around so many Hz, such as [500, 3000]."""
    band_stop: Transform | None = Field(default=None, exclude_if=is_unset)
    """Without the octave around so many Hz, such as [200, 4000]."""
    time_mask: Transform | None = None
    """So many seconds of silence somewhere, such as [0.05, 0.5]; at most half of the clip."""

    @property
    def folders(self) -> list[Path]:
        """Where recordings are drawn from."""
        sources = [self.background, self.reverb]
        return [source.folder for source in sources if source and source.folder]

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        for name, (_, lowest, highest, unit) in TRANSFORMS.items():
            transform: Transform | Reverb | None = getattr(self, name)
            if transform is not None and transform.range is not None:
                low, high = transform.range
                if not lowest <= low <= high <= highest:
                    raise ValueError(
                        f"{name}.range is [{low:g}, {high:g}], expected two rising numbers between "
                        f"{lowest:g} and {highest:g} ({unit})"
                    )
        return self


def augment(waveform: _FloatArray, config: AugmentConfig, rng: np.random.Generator) -> _FloatArray:
    """Apply the transforms that chance chooses.

    Args:
        waveform: at 16 kHz, shape (S,); it is not changed.
        config: which transforms.
        rng: of this utterance in this epoch, see `utterance_rng`.

    Returns:
        float32, shape (S',); only `speed` and `time_stretch` change the length.
    """
    for name, kind in TRANSFORMS.items():
        transform: Transform | Reverb | None = getattr(config, name)
        if transform is not None and rng.random() < transform.probability:
            apply = kind.apply
            if folder := getattr(transform, "folder", None):
                apply = partial(apply, folder=folder)
            waveform = apply(waveform, rng.uniform(*(transform.range or (0, 0))), rng)
    return np.asarray(waveform, dtype=np.float32)


def require_augmentation(config: AugmentConfig, *, listens: bool = True) -> None:
    """Check, before anything is computed, that all is there that the transforms need.

    Args:
        config: the transforms.
        listens: read every recording, too.

    Raises:
        MissingPackageError: if the stretching engine is not installed.
        MissingFileError: if a folder of recordings is not there, or empty.
        AudioError: if recordings cannot be used; it names all of them.
    """
    if config.time_stretch is not None or config.pitch is not None:
        _stretcher()
    for folder in config.folders:
        check_sounds(folder) if listens else list_sounds(folder)


def _speed(waveform: _FloatArray, factor: float, rng: np.random.Generator) -> _FloatArray:
    changed = soxr.resample(waveform, SAMPLE_RATE_HZ * factor, SAMPLE_RATE_HZ, quality="HQ")
    # Encoders need as much as `read_audio` promises.
    return waveform if len(changed) < MIN_DURATION_S * SAMPLE_RATE_HZ else changed


def _stretcher() -> Any:
    try:
        from python_stretch import Signalsmith
    except ImportError as err:
        purpose = "audio.augment.time_stretch or .pitch"
        raise MissingPackageError("python-stretch", purpose, "augment") from err
    stretcher: Any = Signalsmith.Stretch()
    stretcher.preset(1, SAMPLE_RATE_HZ)
    return stretcher


def _time_stretch(waveform: _FloatArray, factor: float, rng: np.random.Generator) -> _FloatArray:
    stretcher = _stretcher()
    stretcher.timeFactor = factor
    changed: _FloatArray = stretcher.process(waveform[np.newaxis])[0].clip(-1, 1)
    return waveform if len(changed) < MIN_DURATION_S * SAMPLE_RATE_HZ else changed


def _pitch(waveform: _FloatArray, semitones: float, rng: np.random.Generator) -> _FloatArray:
    stretcher = _stretcher()
    stretcher.setTransposeSemitones(semitones)
    changed: _FloatArray = stretcher.process(waveform[np.newaxis])[0].clip(-1, 1)
    return changed


def _shift(waveform: _FloatArray, share: float, rng: np.random.Generator) -> _FloatArray:
    n_samples = round(share * len(waveform))
    shifted = np.roll(waveform, n_samples)
    shifted[slice(n_samples) if n_samples >= 0 else slice(n_samples, None)] = 0
    return shifted


def _reverb(
    waveform: _FloatArray, decay_s: float, rng: np.random.Generator, folder: Path | None = None
) -> _FloatArray:
    from scipy.signal import fftconvolve

    if folder is None:
        times = np.arange(1, round(decay_s * SAMPLE_RATE_HZ) + 1) / (decay_s * SAMPLE_RATE_HZ)
        tail = rng.standard_normal(len(times)) * 10 ** (-3 * times)
        response = np.concatenate([[1.0], tail / np.sqrt((tail**2).sum())]).astype(np.float32)
    else:
        response = draw_sound(folder, rng)
        response = response[np.abs(response).argmax() :]  # begins with the direct sound
    heard = fftconvolve(waveform, response)[: len(waveform)]
    level, before = np.sqrt(np.mean(heard**2)), np.sqrt(np.mean(waveform**2))
    return (heard * (before / level)).clip(-1, 1) if level > 0 else waveform


def _gain(waveform: _FloatArray, gain_db: float, rng: np.random.Generator) -> _FloatArray:
    return (waveform * np.float32(10 ** (gain_db / 20))).clip(-1, 1)


def _noise(waveform: _FloatArray, snr_db: float, rng: np.random.Generator) -> _FloatArray:
    noise = rng.standard_normal(len(waveform), dtype=np.float32)
    level = np.sqrt(np.mean(waveform**2)) * np.float32(10 ** (-snr_db / 20))
    noisy: _FloatArray = waveform + level * noise
    return noisy.clip(-1, 1)


def _background(
    waveform: _FloatArray, snr_db: float, rng: np.random.Generator, folder: Path
) -> _FloatArray:
    sound = draw_sound(folder, rng)
    start = int(rng.integers(max(len(sound) - len(waveform), 0) + 1))
    noise = np.resize(sound[start:], len(waveform))  # a shorter one is repeated
    level = np.sqrt(np.mean(noise**2))
    if level == 0:
        return waveform
    wanted = np.sqrt(np.mean(waveform**2)) * np.float32(10 ** (-snr_db / 20))
    noisy: _FloatArray = waveform + noise * (wanted / level)
    return noisy.clip(-1, 1)


def _filter(
    kind: Literal["lowpass", "highpass", "bandpass", "bandstop"], octaves: float = 0.0
) -> Callable[[_FloatArray, float, np.random.Generator], _FloatArray]:
    """Make a filter at a frequency, or on so many octaves around it."""

    def apply(waveform: _FloatArray, hz: float, rng: np.random.Generator) -> _FloatArray:
        from scipy.signal import butter, sosfilt

        edges = [hz * 2 ** (-octaves / 2), hz * 2 ** (octaves / 2)] if octaves else hz
        filtered: _FloatArray = sosfilt(
            butter(4, edges, kind, output="sos", fs=SAMPLE_RATE_HZ), waveform
        )
        return filtered.clip(-1, 1)

    return apply


def _time_mask(waveform: _FloatArray, gap_s: float, rng: np.random.Generator) -> _FloatArray:
    n_samples = min(round(gap_s * SAMPLE_RATE_HZ), len(waveform) // 2)
    start = int(rng.integers(len(waveform) - n_samples + 1))
    masked = waveform.copy()
    masked[start : start + n_samples] = 0
    return masked


class _Kind(NamedTuple):
    apply: Callable[..., _FloatArray]
    lowest: float
    highest: float
    unit: str


TRANSFORMS = {
    "speed": _Kind(_speed, 0.5, 2, "times as fast"),
    "time_stretch": _Kind(_time_stretch, 0.5, 2, "times as fast"),
    "pitch": _Kind(_pitch, -12, 12, "semitones"),
    "shift": _Kind(_shift, -1, 1, "share of the clip"),
    "reverb": _Kind(_reverb, 0.01, 10, "seconds to lose 60 dB"),
    "gain": _Kind(_gain, -60, 60, "dB"),
    "noise": _Kind(_noise, -20, 100, "dB below the clip"),
    "background": _Kind(_background, -20, 100, "dB below the clip"),
    "low_pass": _Kind(_filter("lowpass"), 20, 7_900, "Hz"),
    "high_pass": _Kind(_filter("highpass"), 20, 7_900, "Hz"),
    "band_pass": _Kind(_filter("bandpass", octaves=2), 40, 3_900, "Hz"),
    "band_stop": _Kind(_filter("bandstop", octaves=1), 40, 5_500, "Hz"),
    "time_mask": _Kind(_time_mask, 0, 10, "seconds"),
}
"""What each does, in order, and between which numbers it makes sense."""
