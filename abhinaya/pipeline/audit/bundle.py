"""The bundle: features and labels of every encoder and corpus, enough to do an audit again.

`bundle.json` is written last and holds the SHA-256 of every other file; `rows/CORPUS.parquet` the
utterances, labels and speakers, `features/ENCODER/CORPUS.npy` the layer averages (N, L + 1, D).
Neither sound nor weights are in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from abhinaya.data.manifest import read_manifest
from abhinaya.data.parquet import read_parquet
from abhinaya.data.problems import PROBLEMS, Problem, write_problems
from abhinaya.errors import BadValueError, MissingFileError, list_some
from abhinaya.files import (
    atomic_path,
    digest_of,
    hash_file,
    read_json_object,
    write_json,
)
from abhinaya.loading.clips import Clip, collect_clips
from abhinaya.pipeline.audit.config import AuditConfig, CorpusEntry
from abhinaya.probing.splits import Rows

__all__ = ["Bundle", "open_bundle"]

_BUNDLE = "bundle.json"
_COLUMNS = ("utterance", "label", "speaker", "gender")


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle whose files are whole.

    Args:
        folder: where it is.
        hashes: SHA-256 of each file by its name in the folder.
        tables: the rows of each corpus.
        own_classes: all classes that each corpus has.
    """

    folder: Path
    hashes: Mapping[str, str]
    tables: Mapping[str, pd.DataFrame]
    own_classes: Mapping[str, tuple[str, ...]]

    def load(self, encoder: str, corpus: str) -> NDArray[np.float32]:
        """Return the features of all rows of a corpus, shape (N, L + 1, D)."""
        return np.asarray(np.load(self.folder / _features(encoder, corpus)))

    def rows(self, corpus: str, classes: Sequence[str]) -> tuple[NDArray[np.int64], Rows]:
        """Return which rows of a corpus are of some classes, and their labels and speakers.

        Raises:
            BadValueError: if a class has no row.
        """
        table = self.tables[corpus]
        chosen = np.flatnonzero(table["label"].isin(classes))
        own = table.iloc[chosen]
        absent = [name for name in classes if name not in set(own["label"])]
        if absent:
            raise BadValueError(
                f"The corpus {corpus!r} has no rows of {list_some(absent)}; it has "
                f"{', '.join(self.own_classes[corpus])}. Give corpora.{corpus}.rename its labels' "
                "common names, or change `classes`."
            )
        index = {name: k for k, name in enumerate(classes)}
        labels = np.array([index[label] for label in own["label"]], dtype=np.int64)
        speakers, genders = (
            own[column].to_numpy(dtype=object).astype(str) for column in ("speaker", "gender")
        )
        return chosen, Rows(corpus, tuple(classes), labels, speakers, genders)

    def digest(self, *, encoders: Sequence[str] = (), corpora: Sequence[str]) -> list[str]:
        """Return what of the bundle decides a result."""
        names = [_rows(corpus) for corpus in corpora]
        names += [_features(encoder, corpus) for encoder in encoders for corpus in corpora]
        return [self.hashes[name] for name in names]


def open_bundle(config: AuditConfig) -> Bundle:
    """Return the bundle that the config names, or else make it in the output folder.

    Raises:
        MissingFileError: if the named one is not there, or lacks an encoder or a corpus.
        BadValueError: if one of its files is damaged or another, or no row of a corpus can be used.
    """
    folder = config.features
    if folder is None:
        folder = config.out / "bundle"
        _make(config, folder)
    elif not (folder / _BUNDLE).is_file():
        raise MissingFileError(
            f"There is no bundle of features {str(folder)!r}: it has no {_BUNDLE}. Name the folder "
            "`bundle` of a finished audit."
        )
    content = read_json_object(folder / _BUNDLE)
    hashes, classes = content.get("files"), content.get("classes")
    if not isinstance(hashes, dict) or not isinstance(classes, dict):
        raise BadValueError(f"{str(folder / _BUNDLE)!r} lists no files. Copy the bundle again.")
    needed = [_rows(corpus) for corpus in config.corpora]
    needed += [_features(encoder, name) for encoder in config.encoders for name in config.corpora]
    for name in needed:
        if name not in hashes:
            raise MissingFileError(
                f"The bundle {str(folder)!r} has no {name}; it has {list_some(sorted(hashes), 9)}. "
                "Name encoders and corpora as the audit that made it did."
            )
        if not (folder / name).is_file() or hash_file(folder / name) != hashes[name]:
            raise BadValueError(
                f"{str(folder / name)!r} is not the file that {_BUNDLE} lists. Copy the bundle "
                "again, or delete it and run the audit anew."
            )
    tables = {name: read_parquet(folder / _rows(name)).to_pandas() for name in config.corpora}
    own = {name: tuple(classes[name]) for name in config.corpora}
    return Bundle(folder, {name: hashes[name] for name in needed}, tables, own)


def _make(config: AuditConfig, folder: Path) -> None:
    """Write what is not there as the config wants it."""
    corpora = {name: _read_rows(name, entry) for name, entry in config.corpora.items()}
    wanted = digest_of(
        [
            {name: entry.model_dump(mode="json") for name, entry in config.encoders.items()},
            {name: [clip.utterance for clip in found.clips] for name, found in corpora.items()},
            {name: digest_of(found.table.to_csv()) for name, found in corpora.items()},
            config.max_audio_s,
        ]
    )
    listed = read_json_object(folder / _BUNDLE) if (folder / _BUNDLE).is_file() else {}
    if listed.get("digest") == wanted:
        return
    from abhinaya.probing.encoders import embed_layers, load_layer_averages

    (folder / _BUNDLE).unlink(missing_ok=True)
    problems = [problem for found in corpora.values() for problem in found.problems]
    files: dict[str, Path] = {}
    kept: dict[str, set[str]] = {}
    features: dict[tuple[str, str], NDArray[np.float32]] = {}
    for encoder, entry in config.encoders.items():
        backbone = load_layer_averages(
            entry.base, random_seed=entry.random_seed if entry.random else None
        )
        for name, found in corpora.items():
            values, used, lost = embed_layers(
                backbone, found.clips, config.cache, max_audio_s=config.max_audio_s
            )
            problems += lost
            kept[name] = {clip.utterance for clip in used}
            if not used:
                raise BadValueError(
                    f"No clip of the corpus {name!r} can be heard, such as {lost[0].reason}. "
                    f"Give corpora.{name}.audio_root."
                )
            features[encoder, name] = values
    for name, found in corpora.items():
        table = found.table[found.table["utterance"].isin(kept[name])]
        files[_rows(name)] = folder / _rows(name)
        with atomic_path(folder / _rows(name)) as temporary:
            pq.write_table(pa.Table.from_pandas(table, preserve_index=False), temporary)
    for (encoder, name), values in features.items():
        files[_features(encoder, name)] = folder / _features(encoder, name)
        with (
            atomic_path(folder / _features(encoder, name)) as temporary,
            temporary.open("wb") as stream,
        ):
            np.save(stream, values)
    write_problems(folder / PROBLEMS, problems)
    content: dict[str, Any] = {
        "digest": wanted,
        "classes": {name: found.classes for name, found in corpora.items()},
        "files": {name: hash_file(path) for name, path in files.items()},
    }
    write_json(folder / _BUNDLE, content)


@dataclass(frozen=True, eq=False)
class _Corpus:
    """The rows of a corpus that can be looked at, and why others cannot."""

    clips: list[Clip]
    table: pd.DataFrame
    classes: list[str]
    problems: list[Problem]


def _read_rows(name: str, entry: CorpusEntry) -> _Corpus:
    from abhinaya.probing.encoders import WaveformInputs

    manifest = read_manifest(entry.manifest, audio_root=entry.audio_root)
    unknown = [label for label in entry.rename if label not in manifest.emotions.data_labels]
    if unknown:
        raise BadValueError(
            f"corpora.{name}.rename has {list_some(unknown)}; the corpus has "
            f"{' '.join(manifest.emotions.data_labels)}."
        )
    rows = manifest.select(entry.select)
    problems = [
        Problem(utterance, f"the manifest gives it no {column} that can be used")
        for column, usable in (
            ("label", rows["label"].isin(manifest.emotions.codes)),
            ("speaker", rows["speaker"].notna()),
        )
        for utterance in rows.loc[~usable, "utterance"]
    ]
    rows = rows[rows["label"].isin(manifest.emotions.codes) & rows["speaker"].notna()]
    if rows.empty:
        raise BadValueError(
            f"The corpus {name!r} has no row with label and speaker, such as {problems[0].reason}. "
            f"Change corpora.{name}.select, or prepare the corpus with speakers."
        )
    clips, lost = collect_clips(rows.reset_index(drop=True), manifest, WaveformInputs())
    known = {clip.utterance for clip in clips}
    table = rows[rows["utterance"].isin(known)][list(_COLUMNS)].reset_index(drop=True)
    table = table.astype(object).fillna("").astype(str)
    table["label"] = [entry.rename.get(label, label) for label in table["label"]]
    order = [entry.rename.get(code, code) for code in manifest.emotions.codes]
    present = set(table["label"])
    classes = list(dict.fromkeys(label for label in order if label in present))
    return _Corpus(clips, table, classes, [*problems, *lost])


def _rows(corpus: str) -> str:
    return f"rows/{corpus}.parquet"


def _features(encoder: str, corpus: str) -> str:
    return f"features/{encoder}/{corpus}.npy"
