"""A clip as a picture: its waveform over its spectrogram."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.audio import SAMPLE_RATE_HZ

__all__ = ["draw_sound"]

_WINDOW = 400  # 25 ms
_HOP = 160


def draw_sound(waveform: NDArray[np.float32], title: str) -> bytes:
    """Draw a waveform and its spectrogram as PNG.

    Colours run from dark to light in even steps for every eye (matplotlib's cividis).

    Args:
        waveform: at 16 kHz, shape (S,).
        title: above it.
    """
    from matplotlib.figure import Figure

    times_s = np.arange(len(waveform)) / SAMPLE_RATE_HZ
    figure = Figure(figsize=(6, 3.6), layout="constrained", dpi=150)
    axes: Any = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    wave, spectrum = axes
    wave.plot(times_s, waveform, color="#33658a", linewidth=0.6)
    wave.set_ylabel("amplitude")
    wave.set_title(title, fontsize=10, parse_math=False)
    padded = np.pad(waveform, (0, max(0, 2 * _WINDOW - len(waveform)))) + 1e-6
    spectrum.specgram(
        padded,
        NFFT=_WINDOW,
        Fs=SAMPLE_RATE_HZ,
        noverlap=_WINDOW - _HOP,
        cmap="cividis",
        vmin=-130,  # dB of full scale per Hz, the same for every clip
        vmax=-30,
    )
    spectrum.set_ylabel("frequency (Hz)")
    spectrum.set_xlabel("time (s)")
    spectrum.set_xlim(0, max(times_s[-1], _WINDOW / SAMPLE_RATE_HZ))
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
