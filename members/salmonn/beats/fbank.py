"""The log-mel spectrogram that BEATs hears: Kaldi's, with BEATs' own scaling.

Kaldi's definition: frames without padding at the edges, each freed from its mean, pre-emphasised,
and weighted by the Povey window (a Hann window to the power of 0.85); power spectrum; triangles on
Kaldi's mel scale from 20 Hz to 8 kHz; natural logarithm, floored at float32's epsilon.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.audio import SAMPLE_RATE_HZ
from abhinaya.errors import BadShapeError

__all__ = ["MIN_SAMPLES", "N_MELS", "kaldi_fbank", "n_fbank_frames"]

N_MELS = 128

_FRAME_SAMPLES = 400  # 25 ms
_HOP_SAMPLES = 160  # 10 ms
_FFT_SAMPLES = 512  # the next power of two
_MIN_FRAMES = 16
_PREEMPHASIS = 0.97

# Frames that are transformed together. In float64 they fit into the cache, which makes them four
# times as fast as one by one, and twice as fast as all at once.
_BLOCK_FRAMES = 100

MIN_SAMPLES = _FRAME_SAMPLES + (_MIN_FRAMES - 1) * _HOP_SAMPLES
"""Samples of 16 frames, the height of one patch of BEATs; shorter clips are padded to it."""

# As published by BEATs: the mean of its training data, and twice their deviation.
_MEAN = 15.41663
_SCALE = 2 * 6.55582


def kaldi_fbank(waveform: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return normalised log-mel frames of one waveform, as BEATs was trained on them.

    All computing is in float64 on samples times 2 ** 15, without dither, and the result is
    (x - 15.41663) / (2 * 6.55582). Digital silence gives the floor, -2.3917 in every bin.

    Source: Chen et al., "BEATs: Audio Pre-Training with Acoustic Tokenizers", 2022,
    arXiv:2212.09058, section 4.1.

    Args:
        waveform: 16 kHz samples in [-1, 1], shape (S,). Fewer than `MIN_SAMPLES` are padded with
            zeros at the end.

    Returns:
        Shape (F, 128), F = `n_fbank_frames(S)`, one frame per 10 ms.

    Raises:
        BadShapeError: if the waveform is not one-dimensional, or empty.
    """
    if waveform.ndim != 1 or waveform.size == 0:
        raise BadShapeError(
            f"waveform has shape {waveform.shape}, expected (S,) with at least one sample. Mix "
            "channels first, and leave out empty clips."
        )
    samples = waveform.astype(np.float64) * 2.0**15
    samples = np.pad(samples, (0, max(0, MIN_SAMPLES - samples.size)))
    window, mel_filters = _window_and_filters()
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FRAME_SAMPLES)[::_HOP_SAMPLES]
    fbank = np.empty((len(frames), N_MELS), dtype=np.float32)
    for start in range(0, len(frames), _BLOCK_FRAMES):
        block = frames[start : start + _BLOCK_FRAMES]
        block = block - block.mean(axis=1, keepdims=True)
        block[:, 1:] -= _PREEMPHASIS * block[:, :-1]
        block[:, 0] *= 1 - _PREEMPHASIS
        spectrum = np.fft.rfft(block * window, _FFT_SAMPLES)
        mel = (spectrum.real**2 + spectrum.imag**2) @ mel_filters
        log_mel = np.log(np.maximum(mel, np.finfo(np.float32).eps))
        fbank[start : start + _BLOCK_FRAMES] = (log_mel - _MEAN) / _SCALE
    return fbank


def n_fbank_frames(n_samples: int) -> int:
    """Number of frames that `kaldi_fbank` makes of so many samples.

    Example:
        >>> n_fbank_frames(160_000), n_fbank_frames(1)
        (998, 16)
    """
    return 1 + (max(n_samples, MIN_SAMPLES) - _FRAME_SAMPLES) // _HOP_SAMPLES


@cache
def _window_and_filters() -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the Povey window, shape (400,), and mel triangles, shape (257, 128)."""
    from transformers.audio_utils import mel_filter_bank, window_function

    with warnings.catch_warnings():
        # The lowest triangles are narrower than a step of the Fourier transform; Kaldi's are too.
        warnings.filterwarnings("ignore", message="At least one mel filter has all zero values")
        filters = mel_filter_bank(
            num_frequency_bins=1 + _FFT_SAMPLES // 2,
            num_mel_filters=N_MELS,
            min_frequency=20.0,
            max_frequency=SAMPLE_RATE_HZ / 2,
            sampling_rate=SAMPLE_RATE_HZ,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )
    return window_function(_FRAME_SAMPLES, "povey", periodic=False), filters
