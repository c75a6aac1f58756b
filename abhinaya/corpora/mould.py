"""The mould of corpora whose files say who speaks in which emotion, by their names or in a table.

A corpus of this kind is its facts, a pattern and a function that reads one name; `named/urdu.py` is
a short one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from abhinaya.corpora.base import (
    CorpusFacts,
    Prepared,
    PrepareOptions,
    build_manifest,
    distinct_names,
    names_in,
)
from abhinaya.data.label_csv import read_lines
from abhinaya.data.labels import EmotionSet
from abhinaya.data.problems import Problem
from abhinaya.data.transcripts import HUMAN
from abhinaya.errors import MissingFileError, ProblemsError, list_some, shorten

__all__ = [
    "FILMS",
    "SOUNDS",
    "corpus_facts",
    "finish",
    "from_names",
    "join_sounds",
    "list_sounds",
    "read_side_table",
    "refuse_folder",
]

SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".aif", ".aiff")
"""Endings of what our reader opens."""

FILMS = (".avi", ".mp4", ".mkv", ".mov", ".webm")
"""Endings of films, whose sound has to be taken out first."""

Describe = Callable[[re.Match[str]], Mapping[str, Any]]
"""A name that fits -> `label`, `speaker` and further columns; `text` becomes the transcript."""


Complete = Callable[[Path, list[dict[str, Any]], list[Problem]], None]
"""Source, rows and problems -> None; adds to the rows what files beside the sound say."""


def corpus_facts(
    name: str,
    title: str,
    *,
    classes: Collection[str],
    licence: str,
    citation: str,
    url: str,
    n_published: int | None,
    outside: Sequence[str] = (),
    common: Mapping[str, str] | None = None,
) -> CorpusFacts:
    """Return facts of a corpus whose classes are words; see `CorpusFacts`."""
    return CorpusFacts(
        name=name,
        title=title,
        emotions=EmotionSet.from_codes(tuple(classes), outside=outside),
        licence=licence,
        citation=citation,
        url=url,
        n_published=n_published,
        common=common or {},
    )


def from_names(
    facts: CorpusFacts,
    pattern: str,
    describe: Describe,
    *,
    example: str,
    language: str = "en",
    complete: Complete | None = None,
) -> Callable[[Path, PrepareOptions], Prepared]:
    """Return the function `prepare` of a corpus whose file names say everything.

    Args:
        facts: of the corpus.
        pattern: regular expression of the end of a path, without the ending of the file, in any
            case of letters; with `/` where folders say something.
        describe: reads a match.
        example: a path that fits, for messages.
        language: of all clips, unless `describe` gives one.
        complete: adds what further files say.
    """
    fits = re.compile(rf"(?:.*/)?{pattern}", re.IGNORECASE)

    def prepare(source: Path, options: PrepareOptions) -> Prepared:
        del options
        sounds, problems = list_sounds(facts, source)
        rows = []
        for file in sounds:
            match = fits.fullmatch(os.path.splitext(file)[0])
            if match is None:
                problems.append(Problem(file, f"the name is not like {example!r}; left out"))
            else:
                rows.append({"audio": file, "language": language, **describe(match)})
        if complete is not None:
            complete(source, rows, problems)
        return finish(facts, source, rows, problems, example=example)

    return prepare


def list_sounds(facts: CorpusFacts, source: Path) -> tuple[list[str], list[Problem]]:
    """List all sound files below a folder, relative to it and sorted, and what else there is."""
    sounds: list[str] = []
    others: list[str] = []
    problems: list[Problem] = []
    for parent, subfolders, names in os.walk(source):
        subfolders.sort()
        relative = Path(os.path.relpath(parent, source))
        for name in sorted(names):
            file, ending = (relative / name).as_posix(), Path(name).suffix.lower()
            if ending in FILMS:
                reason = (
                    "a film; take its sound out with: ffmpeg -i FILM -vn -ac 1 -ar 16000 "
                    f"{Path(name).stem}.wav"
                )
                problems.append(Problem(file, reason))
            else:
                (sounds if ending in SOUNDS else others).append(file)
    if others:
        reason = f"{len(others)} files are no sound and no clips: {list_some(others)}"
        problems.append(Problem(facts.name, reason))
    return sorted(sounds), problems


def join_sounds(
    facts: CorpusFacts,
    source: Path,
    rows: list[dict[str, Any]],
    problems: list[Problem],
    *,
    where: str,
) -> None:
    """Give each row the sound file of its name, wherever it lies and whatever its ending.

    Args:
        facts: of the corpus.
        source: the corpus as published.
        rows: `audio` is the path as published; it stays where there is no such sound.
        problems: sounds that no row names are added.
        where: the table behind the rows, for messages.
    """
    sounds, found = list_sounds(facts, source)
    problems += found
    by_name = {Path(row["audio"]).stem: row for row in rows}
    for file in sounds:
        row = by_name.get(Path(file).stem)
        if row is None:
            problems.append(Problem(file, f"in no row of {where}; left out"))
        else:
            row["audio"] = file


def finish(
    facts: CorpusFacts,
    source: Path,
    rows: list[dict[str, Any]],
    problems: list[Problem],
    *,
    example: str,
    wrong: Iterable[str] = (),
    root: Path | None = None,
) -> Prepared:
    """Make manifest and transcripts of rows with `audio`, `label`, `speaker` and further columns.

    Speakers get the name of the corpus before theirs, so that corpora can be joined. A row's `text`
    is its human transcript.

    Args:
        facts: of the corpus.
        source: the corpus as published.
        rows: what was found; the utterance is the file's name, with its folders where names clash.
        problems: what was left out.
        example: a path that would have fitted.
        wrong: errors that the corpus has found.
        root: folder that `audio` is relative to, where it is not the source.

    Raises:
        MissingFileError: if there are no rows.
        ProblemsError: see `build_manifest`.
    """
    if not rows:
        raise refuse_folder(facts, source, f"there are no files like {example}")
    assert facts.emotions is not None
    names = distinct_names([row["audio"] for row in rows])
    for row, name in zip(rows, names, strict=True):
        row["utterance"] = name
        if row.get("speaker") is not None:
            row["speaker"] = f"{facts.name}-{row['speaker']}"
    texts = [row.pop("text", None) for row in rows]
    if facts.n_published and len(rows) != facts.n_published:
        reason = f"{len(rows)} of {facts.n_published} clips are there"
        problems.append(Problem(facts.name, reason))
    manifest = build_manifest(
        rows, facts, root or source, emotions=facts.emotions, where=str(source), wrong=wrong
    )
    transcripts = [
        {"utterance": name, "source": HUMAN, "text": " ".join(text.split())}
        for name, text in zip(names, texts, strict=True)
        if text is not None
    ]
    return Prepared(manifest, transcripts, problems)


def read_side_table(path: Path, key: str, separator: str = ",") -> dict[str, dict[str, str]]:
    """Read a CSV that is published beside the sound, by one of its columns; cells are stripped.

    Raises:
        ProblemsError: if the column is missing, or rows have too few or too many cells.
    """
    lines = [[cell.strip() for cell in cells] for _, cells in read_lines(path, separator)]
    header, *rows = lines or [[]]
    wrong = [] if key in header else [f"the column {key!r} is missing, got {shorten(header)}"]
    uneven = [number for number, cells in enumerate(rows, start=2) if len(cells) != len(header)]
    if uneven:
        wrong.append(f"{len(uneven)} rows do not have {len(header)} cells: row {list_some(uneven)}")
    if wrong:
        raise ProblemsError(str(path), wrong)
    return {cells[header.index(key)]: dict(zip(header, cells, strict=True)) for cells in rows}


def refuse_folder(facts: CorpusFacts, source: Path, what: str) -> MissingFileError:
    """Return the error of a folder that is not this corpus; it says what would be."""
    if not source.is_dir():
        return MissingFileError(
            f"{str(source)!r} is not {facts.title}: it is no folder. Give the folder of the corpus "
            "as published, unpacked."
        )
    return MissingFileError(
        f"{str(source)!r} is not {facts.title}: {what} in it or below. It holds "
        f"{names_in(source)}. Give the folder of the corpus as published ({facts.url}), unpacked."
    )
