"""Sound files in, mono waveforms at 16 kHz out; cropping, padding and normalising.

A file that cannot be used is an `AudioError` whose message fits into one row of `problems.csv`.
Reading is strict, because libsndfile is not: it returns the first half of a half-copied WAV
without a word.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from abhinaya.errors import AudioError, BadShapeError, BadValueError, UnknownNameError
from abhinaya.files import hash_file

__all__ = [
    "MIN_DURATION_S",
    "SAMPLE_RATE_HZ",
    "Crop",
    "audio_blocks",
    "audio_digest",
    "audio_duration_s",
    "crop_bounds",
    "crop_windows",
    "normalize_waveform",
    "pad_waveforms",
    "read_audio",
    "utterance_rng",
]

FloatArray = NDArray[np.float32]

SAMPLE_RATE_HZ = 16_000
"""Rate of every waveform that a model sees."""

MIN_DURATION_S = 0.025
"""Shortest clip that is read: 400 samples, the receptive field of one WavLM frame."""

Crop = Literal["first", "centre", "random", "full"]
"""Which segment of a long clip is kept."""

# Programs that write WAV to a pipe cannot know its length: they leave 0, 0xFFFFFFFF, or (SoX and
# others) a value just below 2 GiB in the header. From here on a length is no promise.
_UNKNOWN_LENGTH_BYTES = 0x7FFF_F000

# libsndfile's count of frames where a header does not say.
_UNKNOWN_FRAMES = 2**63 - 1


def read_audio(path: str | Path, *, min_duration_s: float = MIN_DURATION_S) -> FloatArray:
    """Read the sound of a file as a mono waveform at 16 kHz.

    Channels are averaged, then resampled (soxr, high quality). 16-bit samples are divided by
    32768, so full scale is 1; float samples are kept as they are. A WAV whose header promises more
    than the file holds and a FLAC that breaks off are refused. MP3 and OGG carry no dependable
    length: what can be decoded is taken.

    Args:
        path: WAV, FLAC, OGG or MP3 file (and what else libsndfile reads), any rate, any channels.
        min_duration_s: shorter clips are refused.

    Returns:
        Waveform, float32, shape (S,).

    Raises:
        AudioError: if the file is missing, a folder, empty, no sound, truncated or too short, or
            holds NaN or infinite samples.
    """
    path = Path(path)
    with _open_sound(path) as sound:
        rate_hz = int(sound.samplerate)
        # Some formats cannot be wound back (GSM 6.10, G.721); then the header's length is read.
        n_frames = -1 if sound.seekable() else int(sound.frames)
        channels: FloatArray = sound.read(n_frames, "float32", always_2d=True)  # (S, n_channels)
    if len(channels) == 0:
        raise AudioError(
            f"{path.name} has no samples. Export it again, or leave the utterance out."
        )
    duration_s = len(channels) / rate_hz
    if duration_s < min_duration_s:
        raise AudioError(
            f"{path.name} is too short: {duration_s:.6g} s is shorter than {min_duration_s:g} s. "
            "Leave the utterance out."
        )
    n_wrong = int((~np.isfinite(channels)).sum())
    if n_wrong > 0:
        raise AudioError(
            f"{path.name} holds NaN or infinite samples ({n_wrong} of {channels.size}), expected "
            "finite numbers. Export it again from its source."
        )
    waveform = channels.mean(axis=1)
    if rate_hz != SAMPLE_RATE_HZ:
        waveform = soxr.resample(waveform, rate_hz, SAMPLE_RATE_HZ, quality="HQ")
    return np.ascontiguousarray(waveform, dtype=np.float32)


def audio_duration_s(path: str | Path) -> float:
    """Return the length of a sound file in seconds, from its header, without decoding it.

    The length of an MP3 without a frame count is libsndfile's estimate.

    Args:
        path: the file.

    Raises:
        AudioError: if the file is missing, a folder, empty, no sound or a truncated WAV.
    """
    with _open_sound(Path(path)) as sound:
        return float(sound.frames / sound.samplerate)


def audio_blocks(path: str | Path, n_frames: int) -> Iterator[FloatArray]:
    """Give the samples of a file in blocks, at its own rate and with all channels.

    Args:
        path: the file.
        n_frames: longest block.

    Yields:
        float32, shape (S, n_channels).

    Raises:
        AudioError: if the file is missing, a folder, empty, no sound, or breaks off.
    """
    with _open_sound(Path(path)) as sound:
        while len(block := sound.read(n_frames, dtype="float32", always_2d=True)):
            yield block


def audio_digest(path: str | Path) -> str:
    """Hash the file's bytes with SHA-256, hexadecimal: a key for what was computed from it.

    Args:
        path: the file; whether it holds sound does not matter.

    Raises:
        AudioError: if the file is missing or a folder.
    """
    path = Path(path)
    with _as_audio_errors(path):
        return hash_file(path)


def crop_bounds(
    n_samples: int, max_samples: int, where: Crop, rng: np.random.Generator | None = None
) -> tuple[int, int]:
    """Start and stop of the segment of a clip that is kept, in samples.

    Args:
        n_samples: length of the clip, S.
        max_samples: longest segment that is kept; a clip that fits is kept whole.
        where: "first", "centre" (an odd rest leaves the longer side at the end), "random" or
            "full", which keeps everything whatever its length.
        rng: needed for "random"; see `utterance_rng`.

    Raises:
        BadValueError: if a length is out of range, or "random" comes without `rng`.
        UnknownNameError: if `where` is unknown.

    Example:
        >>> crop_bounds(10, 4, "centre")
        (3, 7)
    """
    _check_lengths(n_samples, max_samples)
    if where not in get_args(Crop):
        raise UnknownNameError("crop", where, get_args(Crop))
    if where == "full" or n_samples <= max_samples:
        return 0, n_samples
    n_left = n_samples - max_samples
    if where == "first":
        start = 0
    elif where == "centre":
        start = n_left // 2
    elif rng is None:
        raise BadValueError(
            "A random crop came without a random generator (rng=None), expected one per utterance. "
            "Pass rng=utterance_rng(seed, epoch, utterance)."
        )
    else:
        start = int(rng.integers(n_left + 1))
    return start, start + max_samples


def crop_windows(n_samples: int, max_samples: int, n_windows: int) -> list[tuple[int, int]]:
    """Start and stop of evenly spaced windows over a clip, in samples.

    The first window starts at 0 and the last one ends with the clip; they overlap where they must
    and leave gaps where they are few. A single window of a longer clip is its centre. A clip that
    fits into one window gives that one.

    Args:
        n_samples: length of the clip, S.
        max_samples: length of a window.
        n_windows: how many.

    Raises:
        BadValueError: if a length or the number of windows is out of range.

    Example:
        >>> crop_windows(10, 4, 3)
        [(0, 4), (3, 7), (6, 10)]
    """
    _check_lengths(n_samples, max_samples)
    if n_windows < 1:
        raise BadValueError(f"n_windows is {n_windows}, expected at least 1. Use 1 for the centre.")
    if n_samples <= max_samples:
        return [(0, n_samples)]
    if n_windows == 1:
        return [crop_bounds(n_samples, max_samples, "centre")]
    n_left = n_samples - max_samples
    starts = [idx * n_left // (n_windows - 1) for idx in range(n_windows)]
    return [(start, start + max_samples) for start in starts]


def utterance_rng(seed: int, epoch: int, utterance: str) -> np.random.Generator:
    """Return a random generator that depends on these three only.

    So the crop of an utterance is the same with any batch size, number of workers or GPUs, and
    after a resume.

    Args:
        seed: seed of the run.
        epoch: number of the pass over the data.
        utterance: name of the utterance.

    Example:
        >>> first, again = utterance_rng(1, 0, "a.wav"), utterance_rng(1, 0, "a.wav")
        >>> bool(first.random() == again.random())
        True
    """
    # Python's own hash() of a string differs between processes.
    digest = hashlib.sha256(f"{seed}/{epoch}/{utterance}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def pad_waveforms(waveforms: Sequence[FloatArray]) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Pad waveforms of different lengths to one batch, with zeros at the end.

    Args:
        waveforms: B waveforms, each of shape (S_i,).

    Returns:
        batch: float32, shape (B, S) with S the longest length.
        mask: True where there is signal, shape (B, S).

    Raises:
        BadShapeError: if there are no waveforms or one is not one-dimensional.

    Example:
        >>> batch, mask = pad_waveforms([np.ones(2, np.float32), np.ones(1, np.float32)])
        >>> batch.tolist(), mask.tolist()
        ([[1.0, 1.0], [1.0, 0.0]], [[True, True], [True, False]])
    """
    shapes = [np.shape(waveform) for waveform in waveforms]
    if not shapes or any(len(shape) != 1 for shape in shapes):
        raise BadShapeError(
            f"waveforms have the shapes {shapes}, expected at least one, each (n_samples,). "
            "Average the channels first; read_audio does."
        )
    lengths = np.array([shape[0] for shape in shapes])
    mask = np.arange(lengths.max()) < lengths[:, np.newaxis]  # (B, S)
    batch = np.zeros(mask.shape, dtype=np.float32)
    # Both sides run through the rows in order.
    batch[mask] = np.concatenate(waveforms)
    return batch, mask


def normalize_waveform(waveform: FloatArray) -> FloatArray:
    """Scale a waveform to zero mean and unit variance: (x - mean) / sqrt(var + 1e-7).

    This is what `Wav2Vec2FeatureExtractor` of transformers does with `do_normalize`; the models
    that were trained with it need it. Silence stays silence.

    Args:
        waveform: shape (S,).

    Returns:
        float32, shape (S,).

    Raises:
        BadShapeError: if the waveform is empty or not one-dimensional.
    """
    if np.ndim(waveform) != 1 or len(waveform) == 0:
        raise BadShapeError(
            f"waveform has shape {np.shape(waveform)}, expected (n_samples,) with at least one "
            "sample. Normalise each clip before padding."
        )
    scaled = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
    return np.asarray(scaled, dtype=np.float32)


def _check_lengths(n_samples: int, max_samples: int) -> None:
    if n_samples < 0 or max_samples < 1:
        raise BadValueError(
            f"n_samples is {n_samples} and max_samples is {max_samples}, expected at least 0 and "
            "1. Check the crop length of the config."
        )


@contextmanager
def _as_audio_errors(path: Path) -> Iterator[None]:
    """Turn errors of the system and of libsndfile into an `AudioError` that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise AudioError(
            f"{path.name} does not exist. Correct the audio root, or copy the file there."
        ) from error
    except IsADirectoryError as error:
        raise AudioError(
            f"{path.name} is a folder, expected a sound file. Correct the manifest's audio column."
        ) from error
    except OSError as error:
        raise AudioError(
            f"{path.name} cannot be opened ({error.strerror}). Check its name and permissions."
        ) from error
    except AudioError:
        raise
    except sf.LibsndfileError as error:
        raise AudioError(
            f"{path.name} cannot be decoded ({error.error_string.strip().rstrip('.')}), expected a "
            "whole WAV, FLAC, OGG or MP3 file. Copy or convert it again."
        ) from error
    except (ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise AudioError(  # a name that no file can have, or a header of impossible numbers
            f"{path.name} cannot be read ({' '.join(str(error).split()) or type(error).__name__}"
            "), expected a whole WAV, FLAC, OGG or MP3 file. Copy or convert it again."
        ) from error


@contextmanager
def _open_sound(path: Path) -> Iterator[Any]:
    """Open a `soundfile.SoundFile` whose header is known to be honest."""
    with _as_audio_errors(path):
        if path.suffix.lower() == ".raw":
            raise AudioError(
                f"{path.name} has no header with rate and channels, expected a WAV, FLAC, OGG or "
                "MP3 file. Convert it."
            )
        with sf.SoundFile(_sound_source(path)) as sound:
            if sound.frames == _UNKNOWN_FRAMES:
                raise AudioError(
                    f"{path.name} does not say how long it is, as files written to a pipe do. "
                    "Convert it again, from file to file."
                )
            yield sound


def _sound_source(path: Path) -> Path | io.BytesIO:
    """Return what libsndfile should open: the path, or a WAV's bytes with its length filled in.

    Raises:
        AudioError: if the file is empty, or a WAV that holds less than its header promises.
    """
    with path.open("rb") as file:
        header = file.read(12)
        n_bytes = path.stat().st_size
        if n_bytes == 0:
            raise AudioError(f"{path.name} is empty (0 bytes). Copy it again.")
        if header[:4] not in (b"RIFF", b"RIFX") or header[8:] != b"WAVE":
            return path
        order: Literal["little", "big"] = "little" if header[:4] == b"RIFF" else "big"
        while (chunk := file.read(8))[:4] != b"data":
            if len(chunk) < 8:
                return path  # No sound at all; libsndfile says so.
            size = int.from_bytes(chunk[4:], order)
            file.seek(size + size % 2, io.SEEK_CUR)  # Chunks are padded to even lengths.
        data_start = file.tell()
    n_promised = int.from_bytes(chunk[4:], order)
    n_held = n_bytes - data_start
    if n_held < n_promised < _UNKNOWN_LENGTH_BYTES:
        raise AudioError(
            f"{path.name} is truncated: its header promises {n_promised} bytes of sound, the file "
            f"holds {n_held}. Copy it again."
        )
    is_finished = 8 + int.from_bytes(header[4:8], order) == n_bytes
    if n_promised == 0 and n_held > 0 and not is_finished:
        # libsndfile fills in the length itself only where the size of the whole file is 8.
        content = bytearray(path.read_bytes())
        content[data_start - 4 : data_start] = n_held.to_bytes(4, order)
        return io.BytesIO(content)
    return path
