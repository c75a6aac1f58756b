"""MSP-Podcast as JSON lists, the form in which the authors of ABHINAYA share their splits.

A list is a dictionary of parallel lists: `path`, `label`, `text`, `valence`, `arousal`, `dominance`
and `gender`. Lists other than `path` may be empty or missing. The split is the stem of the file's
name, except for clips of Test3.
Source: https://github.com/iiscleap/ABHINAYA.
"""

from __future__ import annotations

import json
from pathlib import Path, PureWindowsPath
from typing import Any

from abhinaya.corpora.base import (
    CorpusFacts,
    Prepared,
    PrepareOptions,
    build_manifest,
    gender_or_none,
    names_in,
)
from abhinaya.corpora.msp_labels import SPLITS
from abhinaya.corpora.msp_podcast import FACTS as RELEASE
from abhinaya.corpora.msp_podcast import TEST3, is_test3, place_in_recording
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.problems import Problem
from abhinaya.errors import BadValueError, MissingFileError, ProblemsError

__all__ = ["FACTS", "prepare"]

FACTS = CorpusFacts(
    name="msp-podcast-lists",
    title="MSP-Podcast, as JSON lists",
    emotions=MSP_PODCAST,
    licence=RELEASE.licence,
    citation=RELEASE.citation,
    url="https://github.com/iiscleap/ABHINAYA",
)

_KEYS = ("path", "label", "text", "valence", "arousal", "dominance", "gender")
_SPLITS = {**SPLITS, "dev": "development", "valid": "development", "val": "development"}


def prepare(source: Path, options: PrepareOptions) -> Prepared:
    """Read manifest and transcripts from one JSON list, or from all in a folder.

    Labels are letters, or class indices in the order A C D F H N S U. The paths are those of the
    authors' machine; pass `--no-audio`, and later give `--audio-root` where audio is needed.

    Args:
        source: a JSON file such as `train.json`, or a folder of them.
        options: see `PrepareOptions`.

    Raises:
        MissingFileError: if the folder has no JSON file.
        BadValueError: if a file is not JSON.
        ProblemsError: if lists have different lengths, labels are unknown, or clips are in two
            lists.
    """
    files = sorted(source.glob("*.json")) if source.is_dir() else [source]
    if not files:
        raise MissingFileError(
            f"There is no JSON list in {str(source)!r}; it holds {names_in(source)}. "
            "Give a file such as train.json, or the folder of train.json and dev.json."
        )
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    wrong: list[str] = []
    for file in files:
        rows += _read_list(file, problems, wrong)
    if not rows:
        raise ProblemsError(str(source), wrong)
    texts = [row.pop("text") for row in rows]
    manifest = build_manifest(
        rows,
        FACTS,
        source if source.is_dir() else source.parent,
        emotions=MSP_PODCAST,
        where=str(source),
        wrong=wrong,
    )
    transcripts = [
        {"utterance": row["utterance"], "source": options.text_source, "text": text.strip()}
        for row, text in zip(rows, texts, strict=True)
        if isinstance(text, str)
    ]
    return Prepared(manifest, transcripts, problems)


def _read_list(file: Path, problems: list[Problem], wrong: list[str]) -> list[dict[str, Any]]:
    try:
        lists = json.loads(file.read_text(encoding="utf-8"))
    except (RecursionError, ValueError) as err:  # no JSON, no UTF-8, thousands of digits
        raise BadValueError(f"{str(file)!r} cannot be read as JSON: {err}.") from err
    if not isinstance(lists, dict) or not all(
        isinstance(values, list) for values in lists.values()
    ):
        wrong.append(f"{file.name} is not a dictionary of lists with the keys {', '.join(_KEYS)}")
        return []
    paths = lists.get("path", [])
    if not paths:
        wrong.append(f"{file.name} has no entries under 'path', got the keys {', '.join(lists)}")
        return []
    unknown = [key for key in lists if key not in _KEYS]
    if unknown:
        problems.append(Problem(file.name, f"the lists {', '.join(unknown)} are unknown; left out"))
    columns = {key: lists.get(key) or [None] * len(paths) for key in _KEYS}
    uneven = {key: cells for key, cells in columns.items() if len(cells) != len(paths)}
    wrong += [
        f"{file.name} has {len(cells)} entries under {key!r} but {len(paths)} under 'path', "
        "expected equally many or none"
        for key, cells in uneven.items()
    ]
    if uneven:
        return []
    split = _SPLITS.get(file.stem.lower(), file.stem.lower())
    return [
        _row(dict(zip(_KEYS, cells, strict=True)), split)
        for cells in zip(*columns.values(), strict=True)
    ]


def _row(entry: dict[str, Any], split: str) -> dict[str, Any]:
    # PureWindowsPath takes both kinds of slashes.
    name = PureWindowsPath(str(entry["path"])).name
    recording, turn = place_in_recording(name)
    return {
        "utterance": name,
        "audio": entry["path"],
        "split": TEST3 if is_test3(name) else split,
        "label": _letter(entry["label"]),
        "text": entry["text"],
        "gender": gender_or_none(entry["gender"]),
        "language": "en",
        "recording": recording,
        "turn": turn,
        **{key: entry[key] for key in ("arousal", "valence", "dominance")},
    }


def _letter(label: object) -> object:
    """Return a class index's letter; anything else stays as it is and is checked with the rows."""
    text = str(label)
    if text.isdigit() and int(text) < len(MSP_PODCAST):
        return MSP_PODCAST.codes[int(text)]
    return label
