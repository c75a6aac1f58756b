import hashlib
import itertools
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from abhinaya.data import audio
from abhinaya.data.audio import read_audio
from abhinaya.errors import AudioError


def tone(rate_hz: int, *, frequency_hz: float = 440.0, duration_s: float = 1.0) -> np.ndarray:
    """A sine of amplitude 0.5, float64, shape (S,)."""
    time_s = np.arange(round(rate_hz * duration_s)) / rate_hz
    return 0.5 * np.sin(2 * np.pi * frequency_hz * time_s)


def write_wav(path: Path, *, endian: str = "LITTLE") -> bytes:
    """Write one second of 16-bit mono at 16 kHz: 44 bytes of header, 32000 of sound."""
    sf.write(path, tone(16_000), 16_000, subtype="PCM_16", format="WAV", endian=endian)
    content = path.read_bytes()
    assert len(content) == 44 + 32_000
    return content


def reason(path: Path) -> str:
    """Why a file cannot be read, one line that begins with its name."""
    with pytest.raises(AudioError) as caught:
        read_audio(path)
    message = str(caught.value)
    assert message.startswith(path.name)
    assert "\n" not in message
    return message


def test_read_audio_16_bit_at_16_khz_divides_by_32768(tmp_path: Path) -> None:
    samples = np.concatenate([np.array([0, 1, -32768, 32767], np.int16), np.zeros(396, np.int16)])
    sf.write(tmp_path / "a.wav", samples, 16_000)

    waveform = read_audio(tmp_path / "a.wav")

    assert waveform.dtype == np.float32
    assert waveform.shape == (400,)
    assert waveform[:4].tolist() == [0, 1 / 32768, -1, 32767 / 32768]


@pytest.mark.parametrize(
    ("name", "subtype", "tolerance"),
    [
        ("a.wav", "PCM_16", 1e-4),
        ("a.wav", "PCM_24", 1e-4),
        ("a.wav", "FLOAT", 1e-4),
        ("a.flac", "PCM_16", 1e-4),
        # Lossy: the tone has to be recognised, not reproduced.
        ("a.ogg", "VORBIS", 0.05),
        ("a.mp3", "MPEG_LAYER_III", 0.05),
    ],
)
@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_read_audio_any_format_gives_the_tone_at_16_khz(
    tmp_path: Path, name: str, subtype: str, tolerance: float, rate_hz: int
) -> None:
    sf.write(tmp_path / name, tone(rate_hz), rate_hz, subtype=subtype)

    waveform = read_audio(tmp_path / name)

    assert waveform.shape == (16_000,)
    # A filter rings where the tone is switched on and off, so the ends are left out.
    inside = slice(1_000, -1_000)
    np.testing.assert_allclose(waveform[inside], tone(16_000)[inside], atol=tolerance)


def test_read_audio_96_khz_six_channels_gives_their_mean(tmp_path: Path) -> None:
    gains = np.array([1.0, 0.5, 0.0, 0.0, -0.5, 0.2])  # mean 0.2
    sf.write(tmp_path / "a.wav", tone(96_000)[:, np.newaxis] * gains, 96_000, subtype="PCM_24")

    waveform = read_audio(tmp_path / "a.wav")

    assert waveform.shape == (16_000,)
    inside = slice(1_000, -1_000)
    np.testing.assert_allclose(waveform[inside], 0.2 * tone(16_000)[inside], atol=1e-4)


def test_read_audio_tone_above_8_khz_does_not_alias(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", tone(48_000, frequency_hz=12_000), 48_000, subtype="FLOAT")

    # 12 kHz cannot exist at 16 kHz; a plain decimation would turn it into 4 kHz.
    assert np.abs(read_audio(tmp_path / "a.wav")[1_000:-1_000]).max() < 1e-4


def test_read_audio_float_beyond_full_scale_is_not_clipped(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.full(500, 1.5), 16_000, subtype="FLOAT")

    assert read_audio(tmp_path / "a.wav").max() == 1.5


def test_read_audio_shortest_clip_is_read_at_any_rate(tmp_path: Path) -> None:
    for rate_hz in (8_000, 11_025, 16_000, 22_050, 44_100, 48_000):
        n_samples = int(np.ceil(0.025 * rate_hz))
        sf.write(tmp_path / "a.wav", np.zeros(n_samples), rate_hz)
        assert len(read_audio(tmp_path / "a.wav")) >= 400


def test_read_audio_too_short_raises(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.zeros(80), 16_000)

    assert "0.005 s is shorter than 0.025 s" in reason(tmp_path / "a.wav")
    assert read_audio(tmp_path / "a.wav", min_duration_s=0.005).shape == (80,)


def test_read_audio_no_samples_raises(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.zeros(0), 16_000)

    assert "has no samples" in reason(tmp_path / "a.wav")


def test_read_audio_missing_file_raises(tmp_path: Path) -> None:
    assert "does not exist" in reason(tmp_path / "a.wav")


def test_read_audio_folder_raises(tmp_path: Path) -> None:
    (tmp_path / "a.wav").mkdir()

    assert "is a folder" in reason(tmp_path / "a.wav")


def test_read_audio_impossible_name_raises(tmp_path: Path) -> None:
    assert "cannot be opened" in reason(tmp_path / ("a" * 300 + ".wav"))


def test_read_audio_empty_file_raises(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()

    assert "is empty (0 bytes)" in reason(tmp_path / "a.wav")


@pytest.mark.parametrize("content", [b"<html>not found</html>" * 50, b"RIFF", b"RIFF\0\0\0\0WAVE"])
def test_read_audio_no_sound_file_raises(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(content)

    assert "cannot be decoded" in reason(tmp_path / "a.wav")


def test_read_audio_headerless_raises(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(32_000))

    assert "has no header with rate and channels" in reason(tmp_path / "a.raw")


@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
@pytest.mark.parametrize("n_bytes", [44 + 31_999, 44 + 16_000, 44 + 1_000])
def test_read_audio_truncated_wav_raises(tmp_path: Path, endian: str, n_bytes: int) -> None:
    content = write_wav(tmp_path / "a.wav", endian=endian)
    (tmp_path / "a.wav").write_bytes(content[:n_bytes])

    message = reason(tmp_path / "a.wav")

    assert (
        f"truncated: its header promises 32000 bytes of sound, the file holds {n_bytes - 44}"
        in message
    )
    with pytest.raises(AudioError, match="truncated"):
        audio.audio_duration_s(tmp_path / "a.wav")


@pytest.mark.parametrize("n_bytes", [13, 30, 40, 44])
def test_read_audio_wav_cut_in_its_header_raises(tmp_path: Path, n_bytes: int) -> None:
    content = write_wav(tmp_path / "a.wav")
    (tmp_path / "a.wav").write_bytes(content[:n_bytes])

    reason(tmp_path / "a.wav")


def test_read_audio_truncated_wav_behind_an_odd_chunk_raises(tmp_path: Path) -> None:
    content = write_wav(tmp_path / "a.wav")
    # A chunk of three bytes takes four: lengths are padded to even ones.
    odd_chunk = b"note" + struct.pack("<I", 3) + b"abc\0"
    longer = content[:36] + odd_chunk + content[36:]
    (tmp_path / "whole.wav").write_bytes(longer)
    (tmp_path / "a.wav").write_bytes(longer[:-2])

    assert len(read_audio(tmp_path / "whole.wav")) == 16_000
    assert "holds 31998" in reason(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("riff_bytes", "data_bytes"),
    [
        *itertools.product([0, 8, 0xFFFF_FFFF], [0, 0xFFFF_FFFF]),
        (0x7FFF_F024, 0x7FFF_F000),  # SoX
    ],
)
def test_read_audio_wav_from_a_pipe_is_read_whole(
    tmp_path: Path, riff_bytes: int, data_bytes: int
) -> None:
    content = write_wav(tmp_path / "a.wav")
    expected = read_audio(tmp_path / "a.wav")
    piped = content[:4] + struct.pack("<I", riff_bytes) + content[8:40]
    (tmp_path / "a.wav").write_bytes(piped + struct.pack("<I", data_bytes) + content[44:])

    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), expected)
    assert audio.audio_duration_s(tmp_path / "a.wav") == 1.0


def test_read_audio_chunk_behind_the_sound_is_not_sound(tmp_path: Path) -> None:
    content = write_wav(tmp_path / "a.wav")
    expected = read_audio(tmp_path / "a.wav")
    remark = b"note" + struct.pack("<I", 1_000) + bytes(range(250)) * 4
    (tmp_path / "a.wav").write_bytes(content[:4] + bytes(4) + content[8:] + remark)

    # The length of the whole file is missing, that of the sound is not.
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), expected)


def test_read_audio_finished_wav_without_sound_raises(tmp_path: Path) -> None:
    content = write_wav(tmp_path / "a.wav")
    remark = b"note" + struct.pack("<I", 1_000) + bytes(1_000)
    riff_bytes = 44 - 8 + len(remark)
    header = content[:4] + struct.pack("<I", riff_bytes) + content[8:40] + bytes(4)
    (tmp_path / "a.wav").write_bytes(header + remark)

    assert "has no samples" in reason(tmp_path / "a.wav")


@pytest.mark.parametrize("share", [0.03, 0.5, 0.99])
def test_read_audio_truncated_flac_raises(tmp_path: Path, share: float) -> None:
    noise = np.random.default_rng(0).normal(scale=0.1, size=32_000)
    sf.write(tmp_path / "a.flac", noise, 16_000)
    content = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(content[: int(len(content) * share)])

    assert "cannot be decoded" in reason(tmp_path / "a.flac")


def test_read_audio_flac_without_length_raises(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.flac", tone(16_000), 16_000)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    # The number of samples is the last 36 bits of bytes 18 to 25; an encoder in a pipe leaves zero.
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(content)

    assert "does not say how long it is" in reason(tmp_path / "a.flac")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_read_audio_not_finite_raises(tmp_path: Path, bad: float) -> None:
    samples = np.zeros((500, 2))
    samples[[3, 7], 1] = bad
    sf.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")

    assert "NaN or infinite samples (2 of 1000)" in reason(tmp_path / "a.wav")


def test_audio_duration_s_is_exact_for_lossless_files(tmp_path: Path) -> None:
    for name in ("a.wav", "a.flac"):
        sf.write(tmp_path / name, np.zeros((11_025, 2)), 44_100)
        assert audio.audio_duration_s(tmp_path / name) == 0.25


def test_audio_duration_s_unreadable_header_raises(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("no sound")

    with pytest.raises(AudioError, match=r"a\.wav cannot be decoded"):
        audio.audio_duration_s(tmp_path / "a.wav")


def test_audio_digest_is_sha256_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"abc")

    # The digest of "abc" is the first example of FIPS 180-2.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert audio.audio_digest(tmp_path / "a.wav") == expected
    assert expected == hashlib.sha256(b"abc").hexdigest()


def test_audio_digest_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"a\.wav does not exist"):
        audio.audio_digest(tmp_path / "a.wav")


def test_audio_import_is_light() -> None:
    code = "import sys, abhinaya.data.audio; print('torch' in sys.modules, 'scipy' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("WAV", "GSM610"), ("WAV", "NMS_ADPCM_32"), ("AU", "G721_32"), ("AIFF", "GSM610")],
)
def test_formats_that_cannot_be_wound_back_are_read(
    tmp_path: Path, kind: str, subtype: str
) -> None:
    """soundfile raises a ValueError of its own there, which was no AudioError."""
    path = tmp_path / "a.wav"
    sf.write(path, tone(8_000), 8_000, subtype=subtype, format=kind)
    with sf.SoundFile(path) as sound:
        assert not sound.seekable()
    waveform = read_audio(path)
    assert abs(len(waveform) - 16_000) <= 640  # these have blocks of up to 320 samples at 8 kHz
    assert 0.3 < np.sqrt(np.mean(waveform**2)) < 0.4  # 0.5 / sqrt(2) is 0.354


@pytest.mark.parametrize("error", [ValueError("frames"), RuntimeError("x"), MemoryError()])
def test_whatever_soundfile_raises_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    write_wav(tmp_path / "a.wav")
    monkeypatch.setattr(sf.SoundFile, "read", failing)
    assert "cannot be read" in reason(tmp_path / "a.wav")


def test_name_that_no_file_can_have_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="cannot be read"):
        read_audio(tmp_path / "a\0.wav")
