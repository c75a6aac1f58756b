"""Rows of a data set, streamed into a manifest by batches, so that a killed import goes on."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from abhinaya.corpora.base import (
    CorpusFacts,
    Prepared,
    PrepareOptions,
    build_manifest,
    gender_or_none,
)
from abhinaya.corpora.hub.opening import Streams, find_columns, open_streams
from abhinaya.corpora.mould import SOUNDS
from abhinaya.data.labels import EmotionSet
from abhinaya.data.manifest import ALL, MANIFEST
from abhinaya.data.manifest_cells import known_or_none
from abhinaya.data.problems import Problem
from abhinaya.data.transcripts import HUMAN
from abhinaya.errors import AbhinayaError, BadValueError, shorten
from abhinaya.files import atomic_path, read_json_object, write_json
from abhinaya.progress import progress

if TYPE_CHECKING:
    from datasets import Features, IterableDataset

__all__ = ["import_data_set"]

BATCH = 200
"""Rows between two points at which a killed import goes on."""

_STATE = "import"
_MAGIC = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"FORM": ".aiff"}
_CLEANERS = {"speaker": known_or_none, "gender": gender_or_none, "language": known_or_none}
_SPECIAL = ("audio", "label", "utterance", "text", "corpus", "split")


def import_data_set(
    facts: CorpusFacts, name: str, options: PrepareOptions, *, is_local: bool
) -> Prepared:
    """Import a data set: its sound as files, as they are, and its rows.

    Our columns are `audio`, `label`, `utterance` (else the name of the sound), `text`, which
    becomes the human transcript, `speaker` and the others of a manifest; `corpus` names a column
    whose word is put before the speaker's, so that a collection has no speaker twice. Columns of
    text and numbers that are none of ours are kept. Splits keep their names; `all` is none.

    Args:
        facts: of hub or disk.
        name: of the data set, or its path.
        options: splits, columns, config, revision, and `out` for the sound.
        is_local: False if it lies on the hub.

    Raises:
        ProblemsError: if columns are missing, or names are repeated.
        BadValueError: if there are no labels, or the data cannot be read.
    """
    try:
        return _import(facts, name, options, is_local=is_local)
    except Exception as err:
        if is_local and not (options.out.parent / MANIFEST).exists():
            # The data are at fault, and the same next time; the hub may only be out of reach.
            shutil.rmtree(options.out.parent / _STATE, ignore_errors=True)
            shutil.rmtree(options.out, ignore_errors=True)
        if isinstance(err, AbhinayaError):
            raise
        # A damaged file comes out as whatever the library trips over.
        what = shorten(" ".join(str(err).split()), 300)[1:-1].rstrip(".")
        raise BadValueError(
            f"The data set {name!r} cannot be read: {type(err).__name__}: {what}. Fetch it again, "
            "or run the same command again where the hub was out of reach: it goes on."
        ) from err


def _import(facts: CorpusFacts, name: str, options: PrepareOptions, *, is_local: bool) -> Prepared:
    streams = open_streams(name, options, is_local=is_local)
    columns = find_columns(streams.features, options.columns, name)
    state = options.out.parent / _STATE
    asked = {
        "name": name,
        "config": options.config,
        "revision": options.revision,
        "columns": columns,
        "audio": options.check_audio,
    }
    _begin(state, asked)
    rows: list[dict[str, Any]] = []
    for split, stream in streams.by_split.items():
        for batch in _batches(split, stream, streams, columns, options, state):
            rows += batch
    problems = [
        Problem(row["utterance"], "there is no sound in this row")
        for row in rows
        if row["audio"] is None and options.check_audio
    ]
    left = [c for c, kind in streams.features.items() if not _is_plain(kind)]
    left = [column for column in left if column not in columns.values()]
    if left:
        problems.append(Problem(name, f"the columns {', '.join(left)} are no text or number"))
    texts = [row.pop("text", None) for row in rows]
    emotions = _emotions_of(streams.features, columns["label"], rows, name)
    manifest = build_manifest(rows, facts, options.out, emotions=emotions, where=name)
    transcripts = [
        {"utterance": row["utterance"], "source": HUMAN, "text": " ".join(str(text).split())}
        for row, text in zip(rows, texts, strict=True)
        if text is not None
    ]
    return Prepared(manifest, transcripts, problems)


def _begin(state: Path, asked: Mapping[str, Any]) -> None:
    """Delete the batches of another import, and keep what is asked for now."""
    settings = state / "settings.json"
    if settings.is_file() and read_json_object(settings) != asked:
        shutil.rmtree(state)
    write_json(settings, asked)


def _batches(
    split: str,
    stream: IterableDataset,
    streams: Streams,
    columns: Mapping[str, str],
    options: PrepareOptions,
    state: Path,
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a split, those of an earlier run first."""
    from datasets import Audio, Value

    names: set[str] = set()
    number, ended = 0, False
    while (path := state / f"{split}-{number:05d}.json").is_file():
        done = read_json_object(path)
        names |= {row["utterance"] for row in done["rows"]}
        yield done["rows"]
        stream_state, ended = done["state"], done["ended"]
        number += 1
    if ended:
        return
    if isinstance(streams.features[columns["audio"]], Audio):
        # The library would decode with torchcodec, and encode paths with it; our reader decodes.
        kind = Value("string") if streams.holds_paths else Audio(decode=False)
        stream = stream.cast_column(columns["audio"], kind)
    if number:
        stream.load_state_dict(stream_state)
    source = iter(stream)
    total = ((stream.info.splits or {}).get(split) or _Unknown).num_examples or 0
    with progress(f"importing {split}", total) as advance:
        advance(number * BATCH)
        while not ended:
            rows: list[dict[str, Any]] = []
            for entry in source:
                rows.append(_row(entry, split, columns, streams.features, options, names))
                if len(rows) == BATCH:
                    break
            ended = len(rows) < BATCH
            batch = {"rows": rows, "state": stream.state_dict(), "ended": ended}
            write_json(state / f"{split}-{number:05d}.json", batch)
            advance(len(rows))
            number += 1
            yield rows


class _Unknown:
    num_examples = 0


def _row(
    entry: Mapping[str, Any],
    split: str,
    columns: Mapping[str, str],
    features: Features,
    options: PrepareOptions,
    names: set[str],
) -> dict[str, Any]:
    """Return the manifest's row of an entry, and write its sound."""
    sound = entry[columns["audio"]]
    content, path = _parts(sound)
    given = entry.get(columns.get("utterance", ""))
    base = str(given) if given else PureWindowsPath(path).name or f"{len(names):06d}"
    utterance = base if base not in names else f"{split}/{len(names):06d}-{base}"
    names.add(utterance)
    row: dict[str, Any] = {"utterance": utterance, "split": None if split == ALL else split}
    label = entry[columns["label"]]
    classes = getattr(features[columns["label"]], "names", None)
    row["label"] = classes[label] if classes and isinstance(label, int) and label >= 0 else label
    if classes and row["label"] == -1:
        row["label"] = None
    if content is not None:
        row["audio"] = f"{split}/{_safe(base, len(names))}{_ending(path, content)}"
        if options.check_audio:
            with atomic_path(options.out / row["audio"]) as temporary:
                temporary.write_bytes(content)
    else:
        row["audio"] = path or None
    theirs = {name: ours for ours, name in columns.items()}
    for column, value in entry.items():
        ours = theirs.get(column, column)
        if ours == "text":
            row["text"] = value
        elif column in theirs and ours not in _SPECIAL:
            row[ours] = value
        elif column not in theirs and ours not in (*_SPECIAL, *row) and _is_plain(features[column]):
            row[ours] = value
    for column, clean in _CLEANERS.items():
        if column in row:
            row[column] = clean(row[column])
    if "corpus" in columns:
        row["corpus"] = entry[columns["corpus"]]
        if row.get("speaker") is not None:
            row["speaker"] = f"{row['corpus']}-{row['speaker']}"
    return row


def _parts(sound: Any) -> tuple[bytes | None, str]:
    """Return the bytes of a sound, if the table holds them, and its path, if it has one."""
    if isinstance(sound, bytes):
        return sound, ""
    if isinstance(sound, Mapping):
        content, path = sound.get("bytes"), sound.get("path") or ""
    else:
        content, path = None, sound or ""
    if content is None and "://" in path:
        import fsspec

        with fsspec.open(path, "rb") as file:
            content = file.read()
    return content, path


def _safe(base: str, number: int) -> str:
    stem = base
    for ending in SOUNDS:
        stem = stem.removesuffix(ending)
    return f"{number - 1:06d}-{re.sub(r'[^A-Za-z0-9._-]+', '_', stem)[:80]}"


def _ending(path: str, content: bytes) -> str:
    ending = PureWindowsPath(path).suffix.lower()
    return _MAGIC.get(content[:4]) or (ending if ending in SOUNDS else ".mp3")


def _is_plain(kind: Any) -> bool:
    from datasets import ClassLabel, Value

    return isinstance(kind, Value | ClassLabel) and getattr(kind, "dtype", "") != "binary"


def _emotions_of(
    features: Features, column: str, rows: list[dict[str, Any]], name: str
) -> EmotionSet:
    """Return the classes that the data set names in order, else its labels, sorted."""
    if names := getattr(features[column], "names", None):
        return EmotionSet.from_codes(names)
    labels = sorted({str(row["label"]).strip() for row in rows if row["label"] is not None} - {""})
    if len(labels) < 2:
        raise BadValueError(
            f"The column {column!r} of {name!r} has {len(labels)} different labels, {labels!r}, "
            "expected two or more. Name another one with --columns label=COLUMN."
        )
    return EmotionSet.from_codes(labels)
