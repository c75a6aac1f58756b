"""The human transcripts of MSP-Podcast: a folder or a ZIP archive with one text file per clip."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from abhinaya.corpora.base import map_in_threads
from abhinaya.data.problems import Problem
from abhinaya.errors import BadValueError

__all__ = ["read_texts"]

_FOLDER = "Transcripts"


def read_texts(source: Path) -> tuple[dict[str, str], list[Problem]]:
    """Read every clip's text by file name, from `Transcripts/**/*.txt` or a ZIP archive.

    Archives are looked for as `Transcripts.zip` and in `Transcripts/`. Line breaks become blanks.
    An empty file is "", which means that nothing was said.

    Args:
        source: the release.

    Returns:
        texts: by clip, such as `MSP-PODCAST_0001_0001.wav`; none if there are no transcripts.
        problems: texts that are not UTF-8; they are read as Windows-1252. One if there are none at
            all.

    Raises:
        BadValueError: if an archive cannot be read.
    """
    files = sorted((source / _FOLDER).rglob("*.txt"))
    archives = [source / f"{_FOLDER}.zip", *sorted((source / _FOLDER).glob("*.zip"))]
    if files:
        contents = map_in_threads(Path.read_bytes, files)
        return _decode(zip([file.stem for file in files], contents, strict=True))
    for archive in archives:
        if archive.is_file():
            return _decode(_unzip(archive))
    reason = f"there are neither texts in {_FOLDER}/ nor a {_FOLDER}.zip; no human transcripts"
    return {}, [Problem(_FOLDER, reason)]


def _unzip(archive: Path) -> list[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(archive) as file:
            names = [PurePosixPath(name) for name in file.namelist()]
            # macOS stores a second, hidden entry beside every file.
            texts = [n for n in names if n.suffix == ".txt" and not n.name.startswith("._")]
            return [(name.stem, file.read(str(name))) for name in sorted(texts)]
    except zipfile.BadZipFile as err:
        raise BadValueError(
            f"{str(archive)!r} cannot be read as ZIP: {err}. Fetch it again, or unpack it."
        ) from err


def _decode(contents: Iterable[tuple[str, bytes]]) -> tuple[dict[str, str], list[Problem]]:
    texts: dict[str, str] = {}
    problems: list[Problem] = []
    for stem, content in contents:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("cp1252", errors="replace")
            reason = "the transcript is not UTF-8; it was read as Windows-1252"
            problems.append(Problem(f"{stem}.wav", reason))
        texts[f"{stem}.wav"] = " ".join(text.split())
    return texts, problems
