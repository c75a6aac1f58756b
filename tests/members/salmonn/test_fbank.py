from __future__ import annotations

import numpy as np
import pytest
import soundfile as sf
from golden_set import LENGTHS, ROWS, WAVS, golden
from transformers.audio_utils import spectrogram

from abhinaya.errors import BadShapeError
from members.salmonn.beats.fbank import (
    MIN_SAMPLES,
    N_MELS,
    _window_and_filters,
    kaldi_fbank,
    n_fbank_frames,
)

GOLDEN = golden("salmonn")


def golden_waveform(utterance):
    waveform, rate = sf.read(WAVS[utterance])
    assert rate == 16_000
    return waveform


def noise(n_samples, seed=0):
    return np.random.default_rng(seed).normal(0.0, 0.1, n_samples)


@pytest.mark.parity
@pytest.mark.parametrize("utterance", ROWS)
def test_frames_match_published_with_padding_and_silence(utterance):
    waveform = golden_waveform(utterance)
    ours = kaldi_fbank(np.pad(waveform, (0, max(LENGTHS) - len(waveform))))
    assert ours.shape == (n_fbank_frames(max(LENGTHS)), N_MELS)
    theirs = GOLDEN["fbank_every4"][utterance]
    # torchaudio makes its mel triangles in float32.
    np.testing.assert_allclose(ours[::4], theirs, rtol=0, atol=5e-5)


@pytest.mark.parity
def test_every_frame_of_a_clip_alone_matches_published():
    ours = kaldi_fbank(golden_waveform(0))
    np.testing.assert_allclose(ours, GOLDEN["single0_fbank"][0], rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    ("n_samples", "n_frames"),
    # 400 samples make the first frame, each 160 another; 2800 make 16, and so do fewer.
    [(1, 16), (399, 16), (2800, 16), (2959, 16), (2960, 17), (16_000, 98), (160_000, 998)],
)
def test_number_of_frames_is_known_beforehand(n_samples, n_frames):
    assert n_fbank_frames(n_samples) == n_frames
    assert kaldi_fbank(noise(n_samples)).shape == (n_frames, 128)


def test_clip_of_a_tenth_of_a_second_is_padded_with_silence():
    clip = noise(1600)
    assert MIN_SAMPLES == 2800
    frames = kaldi_fbank(clip)
    np.testing.assert_array_equal(frames, kaldi_fbank(np.append(clip, np.zeros(1200))))
    # Frames from sample 1600 on hear nothing: the first of these is number 10.
    assert (frames[10:] == frames[10, 0]).all()
    assert (frames[9] > frames[10]).any()


def test_silence_is_the_floor():
    # (ln(2 ** -23) - 15.41663) / 13.11164 = (-15.94238 - 15.41663) / 13.11164
    np.testing.assert_allclose(kaldi_fbank(np.zeros(4000)), -2.391692, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_samples", [2800, 16_319, 16_320, 50_001])  # 100 frames are a block
def test_frames_are_those_of_transformers_one_by_one(n_samples):
    window, filters = _window_and_filters()
    waveform = noise(n_samples)
    theirs = spectrogram(
        waveform * 2.0**15,
        window,
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        remove_dc_offset=True,
        mel_filters=filters,
        mel_floor=2.0**-23,
        log_mel="log",
    )
    expected = (theirs.T - 15.41663) / (2 * 6.55582)
    np.testing.assert_allclose(kaldi_fbank(waveform), expected, rtol=0, atol=5e-7)


def test_constant_offset_is_silence():
    np.testing.assert_allclose(kaldi_fbank(np.full(4000, 0.25)), -2.391692, rtol=0, atol=1e-6)


def test_twice_the_amplitude_adds_the_same_everywhere():
    quiet, loud = kaldi_fbank(noise(8000)), kaldi_fbank(2 * noise(8000))
    audible = quiet.max(axis=0) > -2  # a triangle between two steps of the transform hears nothing
    assert audible.sum() >= 120
    # 2 ln(2) / 13.11164 = 0.105730
    np.testing.assert_allclose((loud - quiet)[:, audible], 0.105730, rtol=0, atol=1e-5)


def test_tone_appears_in_its_bin():
    # 1127 ln(1 + f / 700) is 31.75 at 20 Hz, 2840.02 at 8 kHz and 1953.3 at 3260.6 Hz; 129 steps of
    # 21.77 lie between, and the centre of bin i is after i + 1 of them: (1953.3 - 31.75) / 21.77 =
    # 88.27, so bin 87.
    tone = 0.5 * np.sin(2 * np.pi * 3260.6 * np.arange(8000) / 16_000)
    assert (kaldi_fbank(tone).argmax(axis=1) == 87).all()


def test_samples_in_single_precision_make_no_difference():
    single = noise(8000).astype(np.float32)
    before = single.copy()
    ours = kaldi_fbank(single)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, kaldi_fbank(single.astype(np.float64)))
    np.testing.assert_array_equal(single, before)


@pytest.mark.parametrize("shape", [(0,), (2, 8000), ()])
def test_other_shapes_raise(shape):
    with pytest.raises(BadShapeError, match=r"waveform has shape .* expected \(S,\) with at least"):
        kaldi_fbank(np.zeros(shape))
