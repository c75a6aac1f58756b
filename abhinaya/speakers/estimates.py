"""Speakers in a manifest: which are official, which are estimated, and how estimates are written.

Column `speaker_source` says of each row `official` or `estimated`; None is unknown. Where estimates
replace official speakers, `speaker_official` keeps these.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from abhinaya.data.manifest import Manifest, make_manifest, write_manifest
from abhinaya.data.transcripts import transcripts_path
from abhinaya.errors import BadValueError
from abhinaya.files import atomic_path

__all__ = [
    "OFFICIAL_COLUMN",
    "SOURCE_COLUMN",
    "name_speakers",
    "official_speakers",
    "with_estimates",
    "write_copy",
]

SOURCE_COLUMN = "speaker_source"
"""Column that says where a row's speaker comes from."""

OFFICIAL_COLUMN = "speaker_official"
"""Column of the corpus' own speakers, where estimates stand in `speaker`."""

_OFFICIAL, _ESTIMATED = "official", "estimated"


def official_speakers(rows: pd.DataFrame) -> list[str | None]:
    """Return the corpus' own speaker of each row of a manifest, None where it names none.

    Args:
        rows: rows with `speaker`, and perhaps the two columns of this module.
    """
    speakers = rows["speaker"]
    if SOURCE_COLUMN in rows:
        is_estimated = (rows[SOURCE_COLUMN] == _ESTIMATED).fillna(False).astype(bool)
        kept = rows[OFFICIAL_COLUMN] if OFFICIAL_COLUMN in rows else None
        speakers = speakers.mask(is_estimated, kept)
    return [value if isinstance(value, str) else None for value in speakers]


def name_speakers(clusters: Mapping[str, int], taken: set[str]) -> dict[str, str]:
    """Name a speaker such as `spk-0001` for each utterance of a cluster.

    Args:
        clusters: cluster of each utterance, numbered from 0.
        taken: names that stand for somebody else.
    """
    names: list[str] = []
    number = 0
    for _ in range(max(clusters.values(), default=-1) + 1):
        number += 1
        while f"spk-{number:04d}" in taken:
            number += 1
        names.append(f"spk-{number:04d}")
    return {utterance: names[cluster] for utterance, cluster in clusters.items()}


def with_estimates(
    manifest: Manifest, estimates: Mapping[str, str | None], facts: Mapping[str, str]
) -> Manifest:
    """Return the manifest with estimated speakers; all other rows keep what they have.

    Args:
        manifest: the corpus.
        estimates: speaker of each utterance to change, None where none could be estimated.
        facts: what the estimates come from, added to the manifest's facts.
    """
    rows = manifest.rows.copy()
    official = official_speakers(rows)
    is_changed = rows["utterance"].isin(list(estimates))
    before = (
        rows[SOURCE_COLUMN]
        if SOURCE_COLUMN in rows
        else rows["speaker"].map(lambda value: _OFFICIAL if isinstance(value, str) else None)
    )
    found = [estimates.get(utterance) for utterance in rows["utterance"]]
    rows["speaker"] = [
        new if changed else old
        for new, old, changed in zip(found, rows["speaker"], is_changed, strict=True)
    ]
    rows[SOURCE_COLUMN] = [
        (_ESTIMATED if new is not None else None) if changed else old
        for new, old, changed in zip(found, before, is_changed, strict=True)
    ]
    is_hidden = [
        name is not None and changed for name, changed in zip(official, is_changed, strict=True)
    ]
    if OFFICIAL_COLUMN in rows or any(is_hidden):
        rows[OFFICIAL_COLUMN] = official
    return make_manifest(
        rows,
        manifest.emotions,
        manifest.root,
        subsets=manifest.subsets,
        facts={**manifest.facts, **facts},
    )


def write_copy(manifest: Manifest, path: Path) -> None:
    """Write a manifest that may lie elsewhere than the one it was made of.

    Paths of audio are rewritten to start at the new place; transcripts are copied with it.

    Raises:
        BadValueError: if `path` does not end in .parquet.
    """
    if path.suffix != ".parquet":
        raise BadValueError(f"The manifest {str(path)!r} must end in .parquet.")
    folder = path.parent
    if folder.resolve() != manifest.root.resolve():
        rows = manifest.rows.copy()
        rows["audio"] = [
            Path(os.path.relpath(manifest.root / audio, folder)).as_posix()
            if isinstance(audio, str)
            else None
            for audio in rows["audio"]
        ]
        source = transcripts_path(manifest.root)
        if source.is_file():
            with atomic_path(transcripts_path(folder)) as temporary:
                shutil.copyfile(source, temporary)
        manifest = make_manifest(
            rows, manifest.emotions, folder, subsets=manifest.subsets, facts=manifest.facts
        )
    write_manifest(manifest, path)
