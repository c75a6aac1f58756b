"""Opening a data set of the library `datasets` as streams, whatever it is stored as."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from abhinaya.corpora.base import PrepareOptions, names_in
from abhinaya.errors import (
    BadValueError,
    MissingFileError,
    ProblemsError,
    UnknownNameError,
    did_you_mean,
    shorten,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasets import Features, IterableDataset

__all__ = ["Streams", "find_columns", "open_streams"]

_HINTS = {
    "audio": ("audio", "speech", "wav", "file", "path"),
    "label": ("label", "emotion", "emotions", "class", "target"),
}


@dataclass(frozen=True)
class Streams:
    """What was opened.

    Args:
        by_split: the stream of each split.
        features: the columns, as the data set describes them.
        holds_paths: True where sound is stored beside the table, False where it is in it.
    """

    by_split: Mapping[str, IterableDataset]
    features: Features
    holds_paths: bool


def open_streams(name: str, options: PrepareOptions, *, is_local: bool) -> Streams:
    """Open the wanted splits of a data set.

    Raises:
        MissingFileError: if nothing there is a data set.
        BadValueError: if it cannot be reached or has several configs.
        UnknownNameError: if it lacks a split.
    """
    import datasets
    from datasets import IterableDataset

    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # it raises what it logs
    folder = Path(name)
    try:
        if is_local and (folder / "dataset_dict.json").is_file():
            found = datasets.load_from_disk(name)
        elif is_local and (folder / "state.json").is_file():
            found = {"train": datasets.load_from_disk(name)}
        elif is_local and folder.is_file():
            found = datasets.load_dataset("parquet", data_files=name, streaming=True)
        else:
            revision = {} if is_local else {"revision": options.revision}
            found = datasets.load_dataset(name, name=options.config, streaming=True, **revision)
        streams = {
            split: one if isinstance(one, IterableDataset) else one.to_iterable_dataset()
            for split, one in found.items()
        }
    except FileNotFoundError as err:
        holds = f" It holds {names_in(folder)}." if is_local and folder.is_dir() else ""
        raise MissingFileError(
            f"{name!r} is no data set of the library datasets: {_line(err)}.{holds} Give its name "
            "on the hub, a save_to_disk folder, a folder of Parquet files or an audiofolder."
        ) from err
    except Exception as err:  # refusals of the hub, and of damaged files, are of many kinds
        raise BadValueError(
            f"The data set {name!r} cannot be opened: {_line(err)}. Look at its page for its name, "
            "its configs (--config) and whether it wants a login (hf auth login)."
        ) from err
    for split in options.split:
        if split not in streams:
            raise UnknownNameError(f"split of {name!r}", split, streams)
    wanted = {split: streams[split] for split in options.split or streams}
    first = next(iter(wanted.values()))
    if first.features is None:
        first = first._resolve_features()
    return Streams(wanted, first.features, first.info.builder_name == "audiofolder")


def find_columns(features: Features, given: Mapping[str, str], name: str) -> dict[str, str]:
    """Return the data set's name of each of our columns; `audio` and `label` are always there.

    Raises:
        ProblemsError: if a given column is missing, or `audio` or `label` is not given and missing.
    """
    from datasets import Audio, Value

    wrong = [
        f"there is no column {theirs!r} for {ours}.{did_you_mean(theirs, features)}".rstrip(".")
        for ours, theirs in given.items()
        if theirs not in features
    ]
    columns = dict(given)
    sounds = [column for column, kind in features.items() if isinstance(kind, Audio)]
    if "audio" not in columns and len(sounds) == 1:
        columns["audio"] = sounds[0]
    for ours, words in _HINTS.items():
        near = [column for column in features if column.lower() in words]
        hint = f"; read it with --columns {ours}={near[0]}" if near else ""
        if ours not in columns and ours in features:
            columns[ours] = ours
        elif ours not in columns:
            wrong.append(f"the column {ours!r} is missing, got {', '.join(features)}{hint}")
    kind = features.get(columns.get("audio", ""))
    is_path = isinstance(kind, Value) and kind.dtype in ("string", "large_string", "binary")
    if kind is not None and not isinstance(kind, Audio) and not is_path:
        wrong.append(f"the column {columns['audio']!r} is {shorten(kind)}, no sound and no path")
    if wrong:
        raise ProblemsError(f"the data set {name!r}", wrong)
    return columns


def _line(err: Exception) -> str:
    return shorten(" ".join(str(err).split()), 300)[1:-1].rstrip(".")
