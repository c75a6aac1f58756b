"""One look at the sound of a corpus: what cannot be heard, teaches nothing, or is there twice.

Every file is decoded once, in parallel. The manifest gets durations alone; all else are problems.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from abhinaya.corpora.base import map_in_threads
from abhinaya.data.audio import MIN_DURATION_S, SAMPLE_RATE_HZ, audio_blocks, audio_duration_s
from abhinaya.data.manifest import Manifest
from abhinaya.data.problems import Problem
from abhinaya.errors import AudioError, MissingFileError
from abhinaya.progress import progress

__all__ = ["NOTED", "count_kinds", "measure_audio"]

MAX_DURATION_S = 60.0
"""Longest clip that no one wonders about: a turn of speech, not a recording."""

# Below one step of 16 bits nothing is left but dither.
_SILENCE = 1 / 32768

ABSENT = "listed, but the audio file is absent; the row is kept and cannot be heard"

NOTED = "to be converted"
"""The kind that keeps no clip from being used: another rate, or more channels."""

_KINDS = {
    "absent": "absent",
    "macOS shadow": "macOS shadow",
    "Git LFS pointer": "Git LFS pointer",
    "same sound in": "same sound in two splits",
    "same sound as": "same sound twice",
    "silent": "silent",
    "constant": "constant",
    "cancels": "cancels",
    "too short": "too short",
    "too long": "too long",
    "not finite": "not finite",
    "is converted": NOTED,
}
"""Words in a reason -> kind, for the summary."""

_BLOCK = 1 << 20


def measure_audio(manifest: Manifest) -> tuple[Manifest, list[Problem]]:
    """Return the manifest with `duration_s`, and what is wrong with the files.

    Files that are absent or cannot be read have no duration. Files that are not mono at 16 kHz are
    only mentioned: they are converted whenever they are read.

    Raises:
        MissingFileError: if not one of the files is there.
    """
    rows = manifest.rows.copy()
    listed = rows["audio"].notna()
    paths = [manifest.audio_path(audio) for audio in rows.loc[listed, "audio"]]
    if paths and not any(path.is_file() for path in paths):
        wav = paths[0].with_name(f"{paths[0].name}.wav")
        hint = f" {wav.name!r} is there: write the endings too." if wav.is_file() else ""
        raise MissingFileError(
            f"None of the {len(paths)} audio files is there; the first would be {str(paths[0])!r}."
            f"{hint} Correct the source, or pass --no-audio for text-only work."
        )
    with progress("listening", len(paths)) as advance:

        def listen(path: Path) -> tuple[float | None, list[str], str | None]:
            heard = _listen(path)
            advance(1)
            return heard

        heard = map_in_threads(listen, paths)
    rows.loc[listed, "duration_s"] = np.array([duration_s for duration_s, _, _ in heard], float)
    utterances = rows.loc[listed, "utterance"].tolist()
    problems = [
        Problem(utterance, reason)
        for utterance, (_, reasons, _) in zip(utterances, heard, strict=True)
        for reason in reasons
    ]
    splits = [split if isinstance(split, str) else None for split in rows.loc[listed, "split"]]
    problems += _repeated(utterances, splits, [digest for _, _, digest in heard])
    return replace(manifest, rows=rows), problems


def count_kinds(problems: Iterable[Problem]) -> dict[str, int]:
    """Count the problems of each kind of sound, the most frequent first."""
    kinds = Counter(
        next((kind for words, kind in _KINDS.items() if words in problem.reason), None)
        for problem in problems
    )
    return {kind: count for kind, count in kinds.most_common() if kind is not None}


def _listen(path: Path) -> tuple[float | None, list[str], str | None]:
    """Return the duration in seconds, what is wrong, and a digest of the sound; None if unheard."""
    if not path.is_file():
        return None, [ABSENT], None
    try:
        if path.name.startswith("._"):
            raise AudioError(f"{path.name} is a macOS shadow, no sound. Remove it from the table.")
        with path.open("rb") as file:
            if file.read(40).startswith(b"version https://git-lfs.github.com"):
                raise AudioError(
                    f"{path.name} is a Git LFS pointer, no sound. Fetch it with: git lfs pull."
                )
        duration_s = audio_duration_s(path)
        return duration_s, *_hear_clip(path, duration_s)
    except (AudioError, OSError, soundfile.SoundFileError) as err:
        return None, [str(err)], None


def _hear_clip(path: Path, duration_s: float) -> tuple[list[str], str | None]:
    info = soundfile.info(str(path))
    reasons = []
    if (info.samplerate, info.channels) != (SAMPLE_RATE_HZ, 1):
        channels = "1 channel" if info.channels == 1 else f"{info.channels} channels"
        reasons.append(
            f"the audio has {info.samplerate} Hz and {channels}, expected {SAMPLE_RATE_HZ} Hz and "
            "1 channel; it is converted when it is read"
        )
    if duration_s < MIN_DURATION_S:
        reasons.append(f"too short: {duration_s:.3g} s, expected at least {MIN_DURATION_S:g} s")
    if duration_s > MAX_DURATION_S:
        reasons.append(f"too long: {duration_s:.1f} s, expected a turn of {MAX_DURATION_S:g} s")
    digest = hashlib.sha256(str(info.samplerate).encode())
    loudest = mixed = 0.0
    lowest, highest = np.inf, -np.inf
    for block in audio_blocks(path, _BLOCK):
        if not np.isfinite(block).all():
            return [*reasons, "not finite: the samples hold NaN or infinity"], None
        digest.update(block.tobytes())
        mono = block.mean(axis=1)
        loudest = max(loudest, float(np.abs(block).max(initial=0)))
        mixed = max(mixed, float(np.abs(mono).max(initial=0)))
        lowest = min(lowest, float(mono.min(initial=np.inf)))
        highest = max(highest, float(mono.max(initial=-np.inf)))
    if loudest < _SILENCE:
        # All silence is alike; it is one problem, not two.
        return [*reasons, "silent: no sample is louder than one step of 16 bits"], None
    if mixed < _SILENCE:
        return [*reasons, "cancels: the channels are in antiphase, their mean is silent"], None
    if highest - lowest < _SILENCE:
        return [*reasons, f"constant: every sample is {highest:.3g}"], None
    return reasons, digest.hexdigest()


def _repeated(
    utterances: list[str], splits: list[str | None], digests: list[str | None]
) -> list[Problem]:
    """Return every clip whose sound another clip has too; other splits are named first."""
    groups: dict[str, list[int]] = defaultdict(list)
    for idx, digest in enumerate(digests):
        if digest is not None:
            groups[digest].append(idx)
    problems = []
    for group in groups.values():
        for idx in group if len(group) > 1 else ():
            elsewhere = [other for other in group if splits[other] != splits[idx]]
            other = next(i for i in elsewhere or group if i != idx)
            reason = f"same sound as {utterances[other]!r}; one of the two counts double"
            if elsewhere:
                reason = (
                    f"same sound in {splits[idx]} as {utterances[other]!r} in {splits[other]}; "
                    "a score on it is one of seen sound"
                )
            problems.append(Problem(utterances[idx], reason))
    return problems
