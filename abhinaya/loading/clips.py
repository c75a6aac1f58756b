"""What a member hears and reads of each manifest row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from abhinaya.config import TranscriptSources
from abhinaya.data.audio import (
    SAMPLE_RATE_HZ,
    audio_digest,
    audio_duration_s,
    crop_bounds,
    crop_windows,
    normalize_waveform,
    read_audio,
    utterance_rng,
)
from abhinaya.data.augmentation import AugmentConfig, augment
from abhinaya.data.manifest import Manifest
from abhinaya.data.problems import Problem
from abhinaya.data.transcripts import read_transcripts, transcripts_path
from abhinaya.errors import AudioError, BadValueError
from abhinaya.member import InputBuilder, Utterance
from abhinaya.processes import map_in_shares

__all__ = [
    "Clip",
    "Cropping",
    "collect_clips",
    "digest_clips",
    "draw_segment",
    "load_segments",
    "split_readable",
    "window_bounds",
]


@dataclass(frozen=True)
class Clip:
    """One manifest row, ready to be loaded.

    Args:
        utterance: the manifest's name of it.
        path: its audio file; None for members that only read.
        text: its transcript; None for members that only listen.
        duration_s: length in seconds; 0 for text and for files whose header is unreadable.
        speaker: the manifest's name of who speaks; None where it has none.
    """

    utterance: str
    path: Path | None = None
    text: str | None = None
    duration_s: float = 0.0
    speaker: str | None = None

    @property
    def size(self) -> float:
        """Return what clips are sorted by: seconds of sound, or else characters."""
        return self.duration_s if self.path is not None else float(len(self.text or ""))


@dataclass(frozen=True)
class Cropping:
    """Which segments of a clip are used.

    Args:
        where: `random` (in training only), `first`, `centre`, `full`, or a number of evenly spaced
            segments, of which training takes one.
        max_audio_s: length of a segment in seconds.
        normalize: scale each segment to zero mean and unit variance.
        seed: seed of what is drawn in training.
        augment: what changes the segments in training.
    """

    where: Literal["random", "first", "centre", "full"] | int
    max_audio_s: float
    normalize: bool = False
    seed: int = 0
    augment: AugmentConfig | None = None


def collect_clips(
    rows: pd.DataFrame,
    manifest: Manifest,
    inputs: InputBuilder,
    transcripts: tuple[TranscriptSources, Literal["train", "validation", "predict"]] | None = None,
) -> tuple[list[Clip], list[Problem]]:
    """Collect the clips of manifest rows, and what is missing.

    A row without audio file or transcript gets no clip but a problem.

    Args:
        rows: rows of the manifest.
        manifest: where audio and transcripts lie.
        inputs: says whether audio, text or both are needed.
        transcripts: sources, and which of them counts.

    Raises:
        BadValueError: if text is needed but no source is configured.
    """
    texts: dict[str, str | None] = {}
    source = ""
    if inputs.needs_text:
        if transcripts is None:
            raise BadValueError(
                "This member reads transcripts, but data.transcripts is missing. "
                "Set data.transcripts.train and .predict to sources such as 'human'."
            )
        source = getattr(transcripts[0], transcripts[1])
        texts = read_transcripts(transcripts_path(manifest.root), source)
    clips, problems = [], []
    columns = rows[["utterance", "audio", "duration_s", "speaker"]].itertuples(index=False)
    for utterance, audio, duration_s, speaker in columns:
        path = manifest.audio_path(audio) if inputs.needs_audio and pd.notna(audio) else None
        text = texts.get(utterance)
        if inputs.needs_audio and path is None:
            problems.append(Problem(utterance, "the manifest names no audio file"))
        elif inputs.needs_text and text is None:
            problems.append(Problem(utterance, f"there is no transcript of the source {source!r}"))
        else:
            known = path is not None and pd.notna(duration_s)
            seconds = float(duration_s) if known else 0.0
            clips.append(
                Clip(utterance, path, text, seconds, speaker if pd.notna(speaker) else None)
            )
    return _fill_durations(clips), problems


def digest_clips(clips: Sequence[Clip]) -> list[tuple[str, str | None, str | None]]:
    """Return name, transcript and digest of the sound of each clip; None where there is none."""

    def digest(clip: Clip) -> str | None:
        try:
            return audio_digest(clip.path) if clip.path is not None else None
        except AudioError:
            return None  # it will abstain, until the file is there

    digests = map_in_shares(digest, clips)
    return [(clip.utterance, clip.text, d) for clip, d in zip(clips, digests, strict=True)]


def split_short(clips: Sequence[Clip], max_words: int) -> tuple[list[Clip], list[Problem]]:
    """Keep clips whose transcript has at most so many words; a problem for each of the others.

    Words are what stands between blanks.
    """
    short, problems = [], []
    for clip in clips:
        n_words = len((clip.text or "").split())
        if n_words <= max_words:
            short.append(clip)
        else:
            reason = f"its transcript has {n_words} words, data.max_train_words is {max_words}"
            problems.append(Problem(clip.utterance, reason))
    return short, problems


def split_readable(clips: Sequence[Clip]) -> tuple[list[Clip], list[Problem]]:
    """Keep clips whose audio can be decoded to the end; a problem for each of the others.

    Training does this first: a broken file must not end a run after hours.
    """

    def check(clip: Clip) -> str | None:
        if clip.path is None:
            return None
        try:
            read_audio(clip.path)
        except AudioError as err:
            return str(err)
        return None

    reasons = map_in_shares(check, clips)
    readable = [clip for clip, reason in zip(clips, reasons, strict=True) if reason is None]
    problems = [
        Problem(clip.utterance, reason)
        for clip, reason in zip(clips, reasons, strict=True)
        if reason is not None
    ]
    return readable, problems


def load_segments(clip: Clip, cropping: Cropping, epoch: int | None = None) -> list[Utterance]:
    """Load the segments of one clip that the model gets.

    Args:
        clip: what to load.
        cropping: where to cut.
        epoch: the epoch in training; None in validation and prediction.

    Raises:
        AudioError: if the file cannot be used.
    """
    if clip.path is None:
        return [Utterance(clip.utterance, None, clip.text, epoch)]
    waveform = read_audio(clip.path)
    segments = []
    for start, stop in window_bounds(clip.utterance, len(waveform), cropping, epoch):
        segment = waveform[start:stop]
        if cropping.augment is not None and epoch is not None:
            # A stream of its own: the same crops with it and without.
            rng = utterance_rng(cropping.seed, epoch, f"augment {clip.utterance}")
            changed = augment(segment, cropping.augment, rng)
            longest = round(cropping.max_audio_s * SAMPLE_RATE_HZ)
            segment = changed if cropping.where == "full" else changed[:longest]
        if cropping.normalize:
            segment = normalize_waveform(segment)
        segments.append(Utterance(clip.utterance, segment, clip.text, epoch))
    return segments


def window_bounds(
    utterance: str, n_samples: int, cropping: Cropping, epoch: int | None = None
) -> list[tuple[int, int]]:
    """Return first and past-the-last sample of each segment of a clip of `n_samples`.

    Of several evenly spaced segments training takes one. What is drawn in training depends on
    (seed, epoch, utterance) only.

    Raises:
        BadValueError: if a random segment is wanted outside training.
    """
    max_samples = round(cropping.max_audio_s * SAMPLE_RATE_HZ)
    if isinstance(cropping.where, int):
        windows = crop_windows(n_samples, max_samples, cropping.where)
        if epoch is None:
            return windows
        return [windows[draw_segment(utterance, len(windows), cropping.seed, epoch)]]
    rng = None
    if cropping.where == "random" and epoch is not None:
        rng = utterance_rng(cropping.seed, epoch, utterance)
    return [crop_bounds(n_samples, max_samples, cropping.where, rng)]


def draw_segment(utterance: str, n_segments: int, seed: int, epoch: int) -> int:
    """Draw the segment of a clip that an epoch of training takes, in [0, n_segments)."""
    return int(utterance_rng(seed, epoch, utterance).integers(n_segments))


def _fill_durations(clips: Sequence[Clip]) -> list[Clip]:
    """Fill in durations from the files' headers where the manifest has none."""

    def measure(path: Path) -> float:
        try:
            return audio_duration_s(path)
        except AudioError:
            return 0.0  # reported with its reason when the clip is read

    paths = [clip.path for clip in clips if clip.path is not None and clip.duration_s == 0]
    found = iter(map_in_shares(measure, paths))
    return [
        clip if clip.path is None or clip.duration_s > 0 else replace(clip, duration_s=next(found))
        for clip in clips
    ]
