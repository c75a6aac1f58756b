"""EmoBox's files of folds: which clip is in which part, for one fold.

`data/cafe/fold_1/cafe_train_fold_1.jsonl` has one entry per line with `key`, `wav` and `emo`; the
`.json` beside it has the same as one object, by key. Parts are `train`, `test` and, seldom,
`valid`.
Source: https://github.com/emo-box/EmoBox.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from unicodedata import normalize

import pandas as pd

from abhinaya.data.manifest import Manifest
from abhinaya.data.problems import Problem
from abhinaya.errors import BadValueError, MissingFileError, ProblemsError, list_some
from abhinaya.files import parse_json, read_json_object, read_text

__all__ = ["split_by_folds"]

_PARTS = {"train": "train", "valid": "development", "test": "test"}
"""Name of a part in EmoBox -> split."""


def split_by_folds(manifest: Manifest, folder: Path, fold: int) -> tuple[Manifest, list[Problem]]:
    """Return the manifest with the parts of one fold as its splits.

    Entries and rows belong together by the name of the sound, or by the entry's key. Rows in no
    part have no split any more.

    Args:
        manifest: the rows.
        folder: EmoBox's folder of the corpus, such as `EmoBox/data/cafe`, or that of the fold.
        fold: its number, from 1.

    Raises:
        MissingFileError: if there is no file of that fold.
        BadValueError: if none of its entries is in the manifest.
        ProblemsError: if an entry has no `wav`, or a clip is in two parts.
    """
    rows: dict[str, str | None] = {}
    for utterance in manifest.rows["utterance"]:
        for name in {_name(utterance), _name(f"{manifest.facts.get('corpus')}-{utterance}")}:
            rows[name] = None if name in rows else utterance  # two of one name are neither
    parts: dict[str, str] = {}
    wrong, unknown, n_entries = [], [], 0
    files = _find_files(folder, fold)
    for part, file in files.items():
        for key, entry in _read_entries(file):
            if not isinstance(entry, dict) or not isinstance(entry.get("wav"), str):
                wrong.append(f"{file.name} has an entry without wav: {key!r}")
                continue
            n_entries += 1
            found = rows.get(_name(entry["wav"])) or rows.get(_name(key))
            if found is None:
                unknown.append(key)
            elif parts.setdefault(found, part) != part:
                wrong.append(f"{found} is in the parts {parts[found]} and {part}")
    if wrong:
        raise ProblemsError(str(folder), wrong)
    if not parts:
        raise BadValueError(
            f"None of the {n_entries} entries of fold {fold} in {str(folder)!r} is a clip of this "
            f"corpus, such as {list_some(unknown)}. Give EmoBox's folder of the same corpus."
        )
    problems = []
    if unknown:
        reason = f"{len(unknown)} entries are no clips that are there: {list_some(unknown)}"
        problems.append(Problem(f"fold {fold}", reason))
    splits = [parts.get(utterance) for utterance in manifest.rows["utterance"]]
    outside = [u for u, split in zip(manifest.rows["utterance"], splits, strict=True) if not split]
    if outside:
        reason = f"{len(outside)} clips are in no part, and so in no split: {list_some(outside)}"
        problems.append(Problem(f"fold {fold}", reason))
    frame = manifest.rows.assign(split=pd.Series(splits, index=manifest.rows.index, dtype="str"))
    return replace(manifest, rows=frame), problems


def _name(text: str) -> str:
    # Of `a.wav`, and of a key such as `cafe-08-P-2-1`, which is no file.
    path = PurePosixPath(normalize("NFC", text))
    stem = path.stem if path.suffix.lower() in _ENDINGS else path.name
    return stem.casefold()


_ENDINGS = (".wav", ".flac", ".mp3", ".webm", ".mp4", ".avi", ".aiff", ".ogg")


def _find_files(folder: Path, fold: int) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for part, split in _PARTS.items():
        for ending in ("jsonl", "json"):
            found = sorted(folder.glob(f"**/*_{part}_fold_{fold}.{ending}"))
            if len(found) > 1:
                names = list_some([str(path.relative_to(folder)) for path in found])
                raise BadValueError(
                    f"{str(folder)!r} has several files of one part of fold {fold}: {names}. Give "
                    "the folder of one corpus."
                )
            if found:
                files[split] = found[0]
                break
    if not files:
        raise MissingFileError(
            f"There is no file like NAME_train_fold_{fold}.jsonl in {str(folder)!r}. Give EmoBox's "
            "folder of the corpus, such as EmoBox/data/cafe, and a --fold that is there."
        )
    return files


def _read_entries(file: Path) -> list[tuple[str, Any]]:
    if file.suffix == ".json":
        return list(read_json_object(file).items())
    lines = enumerate(read_text(file).splitlines(), start=1)
    entries = [
        parse_json(line, f"{str(file)!r}, line {number},") for number, line in lines if line.strip()
    ]
    return [(str(e.get("key")) if isinstance(e, dict) else repr(e), e) for e in entries]
