"""Cropping, padding and normalising: the half of `abhinaya.data.audio` that needs no files."""

import itertools

import numpy as np
import pytest

from abhinaya.data.audio import (
    crop_bounds,
    crop_windows,
    normalize_waveform,
    pad_waveforms,
    utterance_rng,
)
from abhinaya.errors import BadShapeError, BadValueError, UnknownNameError


@pytest.mark.parametrize(
    ("where", "expected"), [("first", (0, 4)), ("centre", (3, 7)), ("full", (0, 11))]
)
def test_crop_bounds_long_clip(where: str, expected: tuple[int, int]) -> None:
    # Centre: 7 samples are left over, 3 before and 4 behind.
    assert crop_bounds(11, 4, where) == expected


@pytest.mark.parametrize("where", ["first", "centre", "random", "full"])
@pytest.mark.parametrize("n_samples", [0, 3, 4])
def test_crop_bounds_clip_that_fits_is_kept_whole(n_samples: int, where: str) -> None:
    assert crop_bounds(n_samples, 4, where) == (0, n_samples)


def test_crop_bounds_random_reaches_every_start() -> None:
    rng = np.random.default_rng(0)

    found = {crop_bounds(6, 4, "random", rng) for _ in range(100)}

    assert found == {(0, 4), (1, 5), (2, 6)}


def test_crop_bounds_random_depends_on_seed_epoch_and_utterance_only() -> None:
    def crop(seed: int, epoch: int, utterance: str) -> tuple[int, int]:
        return crop_bounds(10**9, 16_000, "random", utterance_rng(seed, epoch, utterance))

    keys = [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"), (1, 11, "a"), (11, 1, "a")]
    crops = [crop(*key) for key in keys]

    assert len(set(crops)) == len(keys)
    assert [crop(*key) for key in reversed(keys)] == crops[::-1]


def test_utterance_rng_is_the_same_in_every_process() -> None:
    # Another number would mean other crops after the resume of every run that was begun before.
    assert utterance_rng(1, 2, "MSP-PODCAST_0001_0001.wav").integers(10**6) == 304_494


def test_crop_bounds_random_without_rng_raises() -> None:
    with pytest.raises(BadValueError, match=r"rng=None.*Pass rng=utterance_rng"):
        crop_bounds(10, 4, "random")


def test_crop_bounds_unknown_crop_raises() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown crop 'center'\. Did you mean 'centre'"):
        crop_bounds(10, 4, "center")


@pytest.mark.parametrize(("n_samples", "max_samples"), [(-1, 4), (10, 0)])
def test_crop_length_out_of_range_raises(n_samples: int, max_samples: int) -> None:
    message = f"n_samples is {n_samples} and max_samples is {max_samples}"
    with pytest.raises(BadValueError, match=message):
        crop_bounds(n_samples, max_samples, "first")
    with pytest.raises(BadValueError, match=message):
        crop_windows(n_samples, max_samples, 2)


@pytest.mark.parametrize(
    ("n_windows", "expected"),
    [
        (1, [(3, 7)]),
        (2, [(0, 4), (6, 10)]),
        (3, [(0, 4), (3, 7), (6, 10)]),
        (4, [(0, 4), (2, 6), (4, 8), (6, 10)]),
    ],
)
def test_crop_windows_are_evenly_spaced(n_windows: int, expected: list[tuple[int, int]]) -> None:
    assert crop_windows(10, 4, n_windows) == expected


def test_crop_windows_cover_both_ends_and_stay_inside() -> None:
    for n_samples, n_windows in itertools.product(range(5, 40), range(2, 6)):
        windows = crop_windows(n_samples, 4, n_windows)
        assert len(windows) == n_windows
        assert windows[0][0] == 0
        assert windows[-1][1] == n_samples
        assert all(stop - start == 4 for start, stop in windows)
        gaps = np.diff([start for start, _ in windows])
        assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("n_samples", [3, 4])
def test_crop_windows_clip_that_fits_is_one_window(n_samples: int) -> None:
    assert crop_windows(n_samples, 4, 5) == [(0, n_samples)]


def test_crop_windows_none_raises() -> None:
    with pytest.raises(BadValueError, match="n_windows is 0, expected at least 1"):
        crop_windows(10, 4, 0)


def test_pad_waveforms_fills_up_at_the_end() -> None:
    waveforms = [np.array(values, np.float32) for values in ([1, 2], [3], [4, 5, 6])]

    batch, mask = pad_waveforms(waveforms)

    assert batch.tolist() == [[1, 2, 0], [3, 0, 0], [4, 5, 6]]
    assert batch.dtype == np.float32
    assert mask.tolist() == [[True, True, False], [True, False, False], [True, True, True]]


def test_pad_waveforms_none_raises() -> None:
    with pytest.raises(BadShapeError, match=r"shapes \[\], expected at least one"):
        pad_waveforms([])


def test_pad_waveforms_two_channels_raises() -> None:
    with pytest.raises(BadShapeError, match=r"shapes \[\(4, 2\)\].*Average the channels first"):
        pad_waveforms([np.zeros((4, 2), np.float32)])


def test_normalize_waveform_matches_transformers() -> None:
    from transformers import Wav2Vec2FeatureExtractor

    extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
    rng = np.random.default_rng(0)
    for scale, offset in ((0.1, 0.0), (1e-4, 0.0), (0.5, 0.3)):
        waveform = (offset + scale * rng.normal(size=16_000)).astype(np.float32)

        ours = normalize_waveform(waveform)
        theirs = extractor(waveform, sampling_rate=16_000).input_values[0]

        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_normalize_waveform_matches_hand_computation() -> None:
    # Mean 2, variance 1; the 1e-7 below the root is out of sight.
    result = normalize_waveform(np.array([1, 3, 1, 3], np.float32))

    np.testing.assert_allclose(result, [-1, 1, -1, 1], atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_normalize_waveform_silence_stays_silence(value: float) -> None:
    result = normalize_waveform(np.full(100, value, np.float32))

    assert result.tolist() == [0] * 100


@pytest.mark.parametrize("shape", [(0,), (4, 2), ()])
def test_normalize_waveform_wrong_shape_raises(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadShapeError, match=r"expected \(n_samples,\) with at least one sample"):
        normalize_waveform(np.zeros(shape, np.float32))
