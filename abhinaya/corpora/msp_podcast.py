"""MSP-Podcast as released by the University of Texas at Dallas, from release 1.6 to 2.0.

A release holds `Labels/`, `Partitions.txt`, `Audios/` and `Transcripts/`. The unlabelled test clips
are in no label file; they are found in `Audios/`, by their names `MSP-PODCAST_test3_0001.wav`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from abhinaya.corpora.balanced import BALANCED, draw_balanced
from abhinaya.corpora.base import (
    CorpusFacts,
    Prepared,
    PrepareOptions,
    build_manifest,
    names_in,
)
from abhinaya.corpora.msp_labels import (
    SPLITS,
    read_consensus,
    read_partitions,
    read_secondary,
    read_votes,
    split_or_none,
)
from abhinaya.corpora.msp_texts import read_texts
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.problems import Problem
from abhinaya.data.transcripts import HUMAN
from abhinaya.errors import MissingFileError, list_some

__all__ = ["FACTS", "TEST3", "is_test3", "place_in_recording", "prepare"]

FACTS = CorpusFacts(
    name="msp-podcast",
    title="MSP-Podcast",
    emotions=MSP_PODCAST,
    licence="by agreement with the University of Texas at Dallas; neither audio, labels nor "
    "transcripts may be passed on",
    citation="Lotfian and Busso, Building Naturalistic Emotionally Balanced Speech Corpus by "
    "Retrieving Emotional Speech from Existing Podcast Recordings, IEEE Transactions on Affective "
    "Computing 10(4), 2019",
    url="https://ecs.utdallas.edu/research/researchlabs/msp-lab/MSP-Podcast.html",
)

TEST3 = "test3"
"""Split of the clips whose labels are not public."""

_LABEL_FOLDERS = ("Labels", "Labels/Labels")
# Release 1.8 has the second spelling.
_CONSENSUS = ("labels_consensus", "labels_concensus")
_PARTITIONS = ("Partitions.txt", "Partition.txt")
_AUDIO_FOLDERS = ("Audios", "Audio")
_TEST3_NAME = re.compile(r"MSP-PODCAST_test3_\d+\.wav")
_PLACE_NAME = re.compile(r"MSP-PODCAST_(\d+)_(\d+)(?:_\d+)*\.wav")


def prepare(source: Path, options: PrepareOptions) -> Prepared:
    """Return manifest, human transcripts and the subset `balanced` of a release.

    Where `Split_Set` and the partition file disagree, `Split_Set` holds and the clip is a problem.

    Args:
        source: the folder that holds `Labels/`.
        options: see `PrepareOptions`.

    Raises:
        MissingFileError: if there are no consensus labels, or no audio folder and audio is checked.
        ProblemsError: if labels, splits or numbers are unknown, or clips are repeated.
    """
    consensus = _find_consensus(source)
    audio_folder = _find_audio_folder(source, options)
    audio = _index_audio(source, audio_folder)
    problems: list[Problem] = []

    rows = read_consensus(consensus)
    partitions = _read_partition_file(source, problems)
    wrong = _settle_splits(rows, partitions, problems)
    rows = pd.concat([rows, _unlabelled(rows, audio, partitions, problems)], ignore_index=True)
    rows["votes"] = pd.Series(_votes_of(rows, consensus.parent, problems), dtype=object)
    if options.secondary:
        rows["secondary"] = _secondary_of(rows, consensus.parent, problems)
    rows["audio"] = [audio.get(name, f"{audio_folder}/{name}") for name in rows["utterance"]]
    rows["language"] = "en"
    places = [place_in_recording(name) for name in rows["utterance"]]
    rows["recording"] = [recording for recording, _ in places]
    rows["turn"] = [turn for _, turn in places]
    manifest = build_manifest(
        rows, FACTS, source, emotions=MSP_PODCAST, where=str(consensus), wrong=wrong
    )

    balanced, found = draw_balanced(
        manifest.rows,
        MSP_PODCAST,
        split="development",
        n_per_class=options.balanced_per_class,
        seed=options.seed,
    )
    problems += found
    if balanced:
        manifest = replace(manifest, subsets={BALANCED: tuple(balanced)})
    transcripts = _transcripts_of(manifest.rows, source, problems)
    return Prepared(manifest, transcripts, problems)


def is_test3(name: str) -> bool:
    """Return whether a clip belongs to Test3, by its name."""
    return _TEST3_NAME.fullmatch(name) is not None


def place_in_recording(name: str) -> tuple[str | None, int | None]:
    """Return podcast and turn from a clip's name; None where it has another pattern.

    Example:
        >>> place_in_recording("MSP-PODCAST_0023_0108_01.wav")
        ('0023', 108)
        >>> place_in_recording("MSP-PODCAST_test3_0001.wav")
        (None, None)
    """
    match = _PLACE_NAME.fullmatch(name)
    return (match[1], int(match[2])) if match else (None, None)


def _find_consensus(source: Path) -> Path:
    names = [
        f"{folder}/{stem}{suffix}"
        for suffix in (".csv", ".json")
        for folder in _LABEL_FOLDERS
        for stem in _CONSENSUS
    ]
    for name in names:
        if (source / name).is_file():
            return source / name
    there = names_in(source) if source.is_dir() else "no folder"
    raise MissingFileError(
        f"{str(source)!r} is not a release of MSP-Podcast: there is none of {', '.join(names)}. "
        f"It holds {there}. Give the folder that holds Labels/ and Audios/."
    )


def _find_audio_folder(source: Path, options: PrepareOptions) -> str:
    """Name of the audio folder; the usual one if there is none and none is needed."""
    for name in _AUDIO_FOLDERS:
        if (source / name).is_dir():
            return name
    if options.check_audio:
        raise MissingFileError(
            f"{str(source)!r} has no folder {' or '.join(_AUDIO_FOLDERS)}. "
            f"It holds {names_in(source)}. Put the audio there, or "
            "pass --no-audio for text-only work."
        )
    return _AUDIO_FOLDERS[0]


def _index_audio(source: Path, folder: str) -> dict[str, str]:
    """Find every WAV file below `source` by its name; the first in sorted order wins."""
    found: dict[str, str] = {}
    for parent, subfolders, names in os.walk(source / folder):
        subfolders.sort()
        relative = Path(os.path.relpath(parent, source)).as_posix()
        for name in sorted(names):
            if name.lower().endswith(".wav"):
                found.setdefault(name, f"{relative}/{name}")
    return found


def _read_partition_file(source: Path, problems: list[Problem]) -> dict[str, str]:
    for name in _PARTITIONS:
        if (source / name).is_file():
            splits, found = read_partitions(source / name)
            problems += found
            return splits
    reason = f"there is neither {' nor '.join(_PARTITIONS)}; splits come from Split_Set alone"
    problems.append(Problem(_PARTITIONS[0], reason))
    return {}


def _settle_splits(
    rows: pd.DataFrame, partitions: Mapping[str, str], problems: list[Problem]
) -> list[str]:
    """Give every row its split, compare with the partition file, and return what is wrong."""
    words = rows["split"].tolist() if "split" in rows else [""] * len(rows)
    splits: list[str | None] = []
    unknown: list[str] = []
    undecided: list[str] = []
    for name, word in zip(rows["utterance"], words, strict=True):
        ours, listed = split_or_none(word), partitions.get(name)
        if word.strip() and ours is None:
            unknown.append(f"{word} ({name})")
        elif ours and listed and ours != listed:
            reason = f"Split_Set says {ours}, the partition file says {listed}; {ours} was used"
            problems.append(Problem(name, reason))
        elif not ours and not listed:
            undecided.append(name)
        splits.append(ours or listed)
    rows["split"] = splits
    if partitions:
        unlisted = [name for name in rows["utterance"] if name not in partitions]
        _report(problems, _PARTITIONS[0], unlisted, "labelled clips are not in the partition file")
    _report(problems, _PARTITIONS[0], undecided, "clips are in no split")
    if not unknown:
        return []
    return [
        f"{len(unknown)} rows have an unknown Split_Set, such as {list_some(unknown)}, expected "
        f"one of {', '.join(SPLITS)} in any case"
    ]


def _unlabelled(
    rows: pd.DataFrame,
    audio: Mapping[str, str],
    partitions: Mapping[str, str],
    problems: list[Problem],
) -> pd.DataFrame:
    """Return rows for clips that no label file names: Test3, and those of the partition file."""
    labelled = set(rows["utterance"])
    found: list[dict[str, str]] = []
    for name in sorted({*audio, *partitions} - labelled):
        split = TEST3 if is_test3(name) else partitions.get(name)
        if split is None:
            reason = f"in {audio[name]}, but in no label file and no partition; left out"
            problems.append(Problem(name, reason))
            continue
        found.append({"utterance": name, "split": split})
        if split != TEST3:
            reason = (
                f"in split {split} of the partition file, but in no label file; kept without label"
            )
            problems.append(Problem(name, reason))
    return pd.DataFrame(found, columns=["utterance", "split"], dtype=object)


def _secondary_of(rows: pd.DataFrame, labels: Path, problems: list[Problem]) -> list[str | None]:
    path = _find_detailed(labels)
    shares, found = ({}, []) if path is None else read_secondary(path)
    problems += found
    if path is not None and not shares:
        problems.append(Problem(path.name, "it holds no secondary emotion"))
    return [shares.get(name) for name in rows["utterance"]]


def _find_detailed(labels: Path) -> Path | None:
    paths = [labels / f"labels_detailed{suffix}" for suffix in (".csv", ".json")]
    return next((path for path in paths if path.is_file()), None)


def _votes_of(rows: pd.DataFrame, labels: Path, problems: list[Problem]) -> list[list[int] | None]:
    path = _find_detailed(labels)
    if path is None:
        reason = "there is neither labels_detailed.csv nor labels_detailed.json; no votes"
        problems.append(Problem("labels_detailed.csv", reason))
        return [None] * len(rows)
    votes, found = read_votes(path)
    problems += found
    if votes:
        labelled = dict.fromkeys(rows.loc[rows["label"].fillna("") != "", "utterance"])
        unrated = [name for name in labelled if name not in votes]
        unsettled = [name for name in votes if name not in labelled]
        _report(problems, path.name, unrated, "labelled clips have no votes")
        _report(problems, path.name, unsettled, "clips have votes but no consensus label")
    return [votes.get(name) for name in rows["utterance"]]


def _transcripts_of(
    rows: pd.DataFrame, source: Path, problems: list[Problem]
) -> list[dict[str, Any]]:
    texts, found = read_texts(source)
    problems += found
    if texts:
        labelled = rows.loc[rows["label"].notna(), "utterance"]
        untranscribed = [name for name in labelled if name not in texts]
        unknown = texts.keys() - set(rows["utterance"])
        _report(problems, "Transcripts", untranscribed, "labelled clips have no human transcript")
        _report(problems, "Transcripts", sorted(unknown), "transcripts belong to no clip; left out")
    return [
        {"utterance": name, "source": HUMAN, "text": texts[name]}
        for name in rows["utterance"]
        if name in texts
    ]


def _report(problems: list[Problem], where: str, names: list[str], what: str) -> None:
    """Add one problem that counts the names, if there are any."""
    if names:
        problems.append(Problem(where, f"{len(names)} {what}: {list_some(names)}"))
