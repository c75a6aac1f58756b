"""PAVOQUE: sentences in five styles, by one actor, in German.

Each style is one long recording, `pavoque-angry.flac`, and a list of its sentences,
`pavoque-angry.yaml`: `prompt`, `text`, `style`, `start` and `end` in seconds. The sentences are cut
out into `audio/` beside the manifest, under the names that EmoBox uses, such as
`pavoque-a0001-angry.flac`. Poker is a style, a face without expression. Outtakes are left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import soundfile

from abhinaya.config import parse_yaml
from abhinaya.corpora.base import Prepared, PrepareOptions
from abhinaya.corpora.mould import corpus_facts, finish, refuse_folder
from abhinaya.data.problems import Problem
from abhinaya.errors import BadValueError
from abhinaya.files import atomic_path, read_text

__all__ = ["FACTS", "prepare"]

_CLASSES = ("angry", "happy", "neutral", "poker", "sad")

FACTS = corpus_facts(
    "pavoque",
    "PAVOQUE, corpus of expressive speech",
    classes=_CLASSES,
    licence="CC-BY-NC-SA-4.0",
    citation="Steiner, Schröder and Klepp, The PAVOQUE corpus as a resource for analysis and "
    "synthesis of expressive speech, Phonetik & Phonologie 9, 2013",
    url="https://github.com/marytts/pavoque-data/releases",
    n_published=7334,
)

# Phones, which no one here reads, are nine tenths of a list.
_SEGMENTS = re.compile(r"^  segments:.*\n(?:(?:   |  -).*\n)*", re.MULTILINE)
_KEYS = {"prompt", "style", "start", "end"}


def prepare(source: Path, options: PrepareOptions) -> Prepared:
    """Return manifest and texts; cut the sentences out, if audio is wanted.

    Sentences that were cut by an earlier run are not cut again.

    Raises:
        MissingFileError: if there is no list of sentences.
        BadValueError: if a list is no YAML of sentences.
    """
    lists = [source / f"pavoque-{style}.yaml" for style in _CLASSES]
    if not any(path.is_file() for path in lists):
        raise refuse_folder(FACTS, source, "there are no files like pavoque-angry.yaml")
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for path in lists:
        if not path.is_file():
            problems.append(Problem(path.name, "there is no such list of sentences"))
            continue
        recording = path.with_suffix(".flac")
        is_there = recording.is_file()
        if options.check_audio and not is_there:
            problems.append(Problem(recording.name, "the recording is absent; nothing is cut"))
        for entry in _read_list(path):
            style = str(entry["style"]).lower()
            name = f"pavoque-{entry['prompt']}-{style}.flac"
            if options.check_audio and is_there:
                _cut(recording, float(entry["start"]), float(entry["end"]), options.out / name)
            rows.append(
                {
                    "audio": name,
                    "label": style,
                    "speaker": "stefan-roettig",
                    "gender": "male",
                    "language": "de",
                    "text_code": str(entry["prompt"]),
                    "text": str(entry["text"]) if "text" in entry else None,
                }
            )
    return finish(FACTS, source, rows, problems, example="pavoque-angry.yaml", root=options.out)


def _read_list(path: Path) -> list[dict[str, Any]]:
    entries = parse_yaml(_SEGMENTS.sub("", read_text(path) + "\n"))
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and entry.keys() >= _KEYS for entry in entries
    ):
        raise BadValueError(
            f"{str(path)!r} is no list of sentences, expected a list of entries with "
            f"{', '.join(sorted(_KEYS))} and text. Fetch it again."
        )
    return entries


def _cut(recording: Path, start_s: float, end_s: float, out: Path) -> None:
    if out.is_file():
        return
    rate_hz = soundfile.info(str(recording)).samplerate
    samples, _ = soundfile.read(
        str(recording), start=round(start_s * rate_hz), stop=round(end_s * rate_hz), dtype="int16"
    )
    with atomic_path(out) as temporary:
        soundfile.write(temporary, samples, rate_hz, format="FLAC", subtype="PCM_16")
