"""Folders of recordings: background noise, and impulse responses of rooms."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from abhinaya.data.audio import FloatArray, audio_digest, read_audio
from abhinaya.errors import AudioError, MissingFileError
from abhinaya.files import digest_of
from abhinaya.processes import map_in_shares

__all__ = [
    "check_sounds",
    "draw_sound",
    "find_audio",
    "find_sounds",
    "list_sounds",
    "sounds_digest",
]


def find_audio(folder: Path) -> list[Path]:
    """Return the files of a folder and its subfolders that end as audio does, sorted by path."""
    import soundfile

    endings = {f".{name.lower()}" for name in soundfile.available_formats()} | {".opus", ".aif"}
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in endings)


def find_sounds(folder: Path) -> list[Path]:
    """Return the WAV files of a folder and its subfolders, sorted by their path, if any."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".wav")


def list_sounds(folder: Path) -> list[Path]:
    """Return what `find_sounds` finds, which must be something.

    Raises:
        MissingFileError: if there is no such folder, or no WAV in it.
    """
    if not folder.is_dir():
        raise MissingFileError(
            f"{str(folder)!r} is not a folder, expected recordings for audio.augment. Correct its "
            "folder."
        )
    found = find_sounds(folder)
    if not found:
        raise MissingFileError(
            f"{str(folder)!r} holds no WAV file, expected recordings for audio.augment. Convert "
            "them to WAV, or correct its folder."
        )
    return found


def sounds_digest(folder: Path) -> str:
    """Hash the names and bytes of all recordings; where the folder lies does not matter."""
    files = list_sounds(folder)
    return digest_of([(file.relative_to(folder).as_posix(), audio_digest(file)) for file in files])


def check_sounds(folder: Path) -> None:
    """Check that every recording can be read; every process of a launch calls this.

    Raises:
        MissingFileError: as `list_sounds`.
        AudioError: with the reason of each file that cannot be used.
    """

    def check(file: Path) -> str | None:
        try:
            read_audio(file, min_duration_s=0)
        except AudioError as err:
            return str(err)
        return None

    files = list_sounds(folder)
    wrong = [reason for reason in map_in_shares(check, files) if reason is not None]
    if wrong:
        raise AudioError(
            f"{len(wrong)} of {len(files)} recordings in {str(folder)!r} cannot be used: "
            f"{'; '.join(wrong)} Repair them, or take them out of the folder."
        )


def draw_sound(folder: Path, rng: np.random.Generator) -> FloatArray:
    """Read one of the recordings, all equally likely, at 16 kHz; shape (S,)."""
    files = _known_sounds(folder)
    return read_audio(files[int(rng.integers(len(files)))], min_duration_s=0)


@functools.cache
def _known_sounds(folder: Path) -> list[Path]:
    return list_sounds(folder)  # once per process, not once per clip
