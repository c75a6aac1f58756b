"""Training clips that sound a little different in every epoch.

Written with numpy and soxr: audiomentations, the usual library, draws from the global generators of
`random` and numpy, so what a clip becomes would depend on the process that loads it and on the
clips loaded before; and it brings librosa for five transforms of a line or two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self

import numpy as np
import soxr
from numpy.typing import NDArray
from pydantic import Field, model_validator

from abhinaya.config import Config
from abhinaya.data.audio import MIN_DURATION_S, SAMPLE_RATE_HZ

__all__ = ["AugmentConfig", "Transform", "augment"]

_FloatArray = NDArray[np.float32]


class Transform(Config):
    """How often a transform is applied, and how strongly: drawn evenly from a range."""

    probability: float = Field(ge=0, le=1)
    range: tuple[float, float]


class AugmentConfig(Config):
    """Transforms in the order in which they are applied; those left out are not."""

    speed: Transform | None = None
    """So many times as fast and high, such as [0.9, 1.1]; a slower clip loses its end where it
    exceeds max_audio_s."""
    shift: Transform | None = None
    """Later by such a share of the clip (earlier below 0), such as [-0.2, 0.2], after silence."""
    gain: Transform | None = None
    """Louder by so many decibels, such as [-6, 6]; cut off at full scale."""
    noise: Transform | None = None
    """White noise so many decibels below the clip, such as [15, 40]."""
    time_mask: Transform | None = None
    """So many seconds of silence somewhere, such as [0.05, 0.5]; at most half of the clip."""

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        for name, (_, lowest, highest, unit) in _TRANSFORMS.items():
            transform: Transform | None = getattr(self, name)
            if transform is not None:
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
        float32, shape (S',); only `speed` changes the length.
    """
    for name, (apply, *_) in _TRANSFORMS.items():
        transform: Transform | None = getattr(config, name)
        if transform is not None and rng.random() < transform.probability:
            waveform = apply(waveform, rng.uniform(*transform.range), rng)
    return np.asarray(waveform, dtype=np.float32)


def _speed(waveform: _FloatArray, factor: float, rng: np.random.Generator) -> _FloatArray:
    changed = soxr.resample(waveform, SAMPLE_RATE_HZ * factor, SAMPLE_RATE_HZ, quality="HQ")
    # Encoders need as much as `read_audio` promises.
    return waveform if len(changed) < MIN_DURATION_S * SAMPLE_RATE_HZ else changed


def _shift(waveform: _FloatArray, share: float, rng: np.random.Generator) -> _FloatArray:
    n_samples = round(share * len(waveform))
    shifted = np.roll(waveform, n_samples)
    shifted[slice(n_samples) if n_samples >= 0 else slice(n_samples, None)] = 0
    return shifted


def _gain(waveform: _FloatArray, gain_db: float, rng: np.random.Generator) -> _FloatArray:
    return (waveform * np.float32(10 ** (gain_db / 20))).clip(-1, 1)


def _noise(waveform: _FloatArray, snr_db: float, rng: np.random.Generator) -> _FloatArray:
    noise = rng.standard_normal(len(waveform), dtype=np.float32)
    level = np.sqrt(np.mean(waveform**2)) * np.float32(10 ** (-snr_db / 20))
    noisy: _FloatArray = waveform + level * noise
    return noisy.clip(-1, 1)


def _time_mask(waveform: _FloatArray, gap_s: float, rng: np.random.Generator) -> _FloatArray:
    n_samples = min(round(gap_s * SAMPLE_RATE_HZ), len(waveform) // 2)
    start = int(rng.integers(len(waveform) - n_samples + 1))
    masked = waveform.copy()
    masked[start : start + n_samples] = 0
    return masked


class _Kind(NamedTuple):
    apply: Callable[[_FloatArray, float, np.random.Generator], _FloatArray]
    lowest: float
    highest: float
    unit: str


_TRANSFORMS = {
    "speed": _Kind(_speed, 0.5, 2, "times as fast"),
    "shift": _Kind(_shift, -1, 1, "share of the clip"),
    "gain": _Kind(_gain, -60, 60, "dB"),
    "noise": _Kind(_noise, -20, 100, "dB below the clip"),
    "time_mask": _Kind(_time_mask, 0, 10, "seconds"),
}
"""What each does, and between which numbers it makes sense."""
