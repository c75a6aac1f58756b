"""A recording goes to the members of a run, one after the other, and they vote."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from abhinaya.app.run import OpenedRun, RunMember
from abhinaya.data.audio import audio_duration_s, read_audio
from abhinaya.data.labels import ABSTAIN
from abhinaya.data.predictions import PredictionTable
from abhinaya.errors import AbhinayaError, AudioError

if TYPE_CHECKING:
    from abhinaya.asr.decoding import Recognizer

__all__ = ["Hearing", "Listener", "harmless_overrides"]


@dataclass(frozen=True)
class Hearing:
    """What the members made of a recording, so far.

    Args:
        tables: of each member that was asked, with one row.
        transcript: what is said; None where nobody knows.
        times: seconds of each stage, in order.
        vote: one row; None until all were asked, and where none of them answered.
        waiting: names of the members that are still to be asked.
    """

    tables: tuple[PredictionTable, ...]
    transcript: str | None
    times: tuple[tuple[str, float], ...]
    vote: PredictionTable | None = None
    waiting: tuple[str, ...] = ()


class Listener:
    """Labels recordings. Models load when they are first needed, and stay.

    Args:
        run: whose members are asked.
        transcriber: a Whisper model, see `load_whisper`; None where texts are typed.
        max_seconds: longest recording.
    """

    def __init__(
        self, run: OpenedRun, transcriber: str | None = None, max_seconds: float = 60.0
    ) -> None:
        self.run = run
        self.transcriber = transcriber
        self.max_seconds = max_seconds
        # Libraries load models by changing what the whole process shares, and memory and cores are
        # shared as well: one model works at a time, and visitors take turns between members.
        self.turn = Lock()
        self._stack = ExitStack()
        self.scratch = Path(self._stack.enter_context(TemporaryDirectory(prefix="abhinaya-app-")))

    def __enter__(self) -> Listener:
        from abhinaya.inference.loaded import keep_loaded

        self._stack.enter_context(keep_loaded(several=True))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def hear(self, recording: Path, transcript: str | None = None) -> Iterator[Hearing]:
        """Ask every member about a recording; yields after each, and at last with the vote.

        Args:
            recording: a sound file.
            transcript: what is said; where it is None or blank, the transcriber writes it down.

        Raises:
            AudioError: if the recording is too long, or no sound.
            AbhinayaError: if the vote cannot be cast.
        """
        times = list[tuple[str, float]]()
        start = time.perf_counter()
        self._check(recording)
        times.append(("reading", time.perf_counter() - start))
        text = (transcript or "").strip() or None
        no_text = "there is none"
        if text is None and self.transcriber is not None:
            start = time.perf_counter()
            try:
                with self.turn:
                    text = self._transcribe(recording)
            except AbhinayaError as err:  # such as weights that are not there
                no_text = f"nobody wrote it down: {err}"
            times.append(("transcribing", time.perf_counter() - start))
        tables = list[PredictionTable]()
        names = [member.name for member in self.run.members]
        for idx, member in enumerate(self.run.members):
            yield Hearing(tuple(tables), text, tuple(times), waiting=tuple(names[idx:]))
            start = time.perf_counter()
            if member.reads_text and text is None:
                reason = f"it reads a transcript, and {no_text}"
                tables.append(self._abstain(member, recording, reason))
            else:
                tables.append(self._ask(member, recording, text))
            times.append((member.name, time.perf_counter() - start))
        start = time.perf_counter()
        vote = self._vote(tables)
        times.append(("vote", time.perf_counter() - start))
        yield Hearing(tuple(tables), text, tuple(times), vote)

    def _check(self, recording: Path) -> None:
        duration_s = audio_duration_s(recording)
        if duration_s > self.max_seconds:
            raise AudioError(
                f"{recording.name} lasts {duration_s:.0f} s, and this page takes "
                f"{self.max_seconds:g} s at most. Cut it, or start the page with --max-seconds."
            )
        read_audio(recording)

    def _transcribe(self, recording: Path) -> str:
        from abhinaya.asr.decoding import cut_windows
        from abhinaya.inference.loaded import load_once

        recognizer = load_once(f"transcriber {self.transcriber}", self._load_transcriber)
        windows = cut_windows(read_audio(recording), recognizer.window_samples)
        [found] = recognizer.transcribe([recording.name], [windows], batch_size=1)
        return found.text

    def _load_transcriber(self) -> Recognizer:
        from abhinaya.asr.decoding import DecodingSettings, Recognizer
        from abhinaya.asr.model import halve_weights, load_whisper
        from abhinaya.processes import join_launch

        assert self.transcriber is not None
        device = join_launch().device
        whisper = load_whisper(self.transcriber, device)
        in_half = device.type == "cuda"
        if in_half:
            halve_weights(whisper)
        return Recognizer(whisper, DecodingSettings(), in_half=in_half)

    def _ask(self, member: RunMember, recording: Path, text: str | None) -> PredictionTable:
        """Return a table of one row; a member that cannot answer abstains, and says why."""
        from abhinaya.pipeline.stages.recordings import run_recordings

        if member.source is None:
            return self._abstain(member, recording, "its checkpoint is not in the run any more")
        try:
            with self.turn:
                found = run_recordings(
                    str(member.source),
                    [str(recording)],
                    overrides=harmless_overrides(member.source, self.scratch),
                    texts=None if text is None else {recording.name: text},
                )
        except AbhinayaError as err:
            return self._abstain(member, recording, str(err))
        return PredictionTable(**{**vars(found), "name": member.name})

    def _abstain(self, member: RunMember, recording: Path, reason: str) -> PredictionTable:
        labels = np.array([ABSTAIN])
        return PredictionTable(member.name, self.run.emotions, (recording.name,), labels, (reason,))

    def _vote(self, tables: list[PredictionTable]) -> PredictionTable | None:
        from ensembling.voting.vote_tables import vote_tables

        vote = self.run.vote
        if vote.fallback is None and all((table.labels == ABSTAIN).all() for table in tables):
            return None
        return vote_tables(
            tables,
            rule=vote.rule,
            weights=vote.weights,
            tiebreakers=vote.tiebreaker,
            fallback=vote.fallback,
        )


def harmless_overrides(source: Path, scratch: Path) -> tuple[str, ...]:
    """Return changes of a member's config that keep visitors' recordings out of the run's folders.

    None of them changes a label: features and answers are kept elsewhere, nobody is forked, and a
    server that is not there is not waited for.

    Args:
        source: run directory, or config.
        scratch: a folder that is removed with the page.
    """
    from abhinaya.config import load_yaml

    if source.is_file():
        config = load_yaml(source)
        changes = [f"answers={scratch / 'answers'}"] if "answers" in config else []
        if config.get("engine") == "openai":
            changes += ["openai.patience_s=1", "openai.n_tries=1"]
        return tuple(changes)
    folder = source / "best" if (source / "best").is_dir() else source
    config = load_yaml(folder / "config.yaml")
    changes = ["inference.num_workers=0"] if "inference" in config else []
    if config.get("cache"):
        changes.append(f"cache.dir={scratch / 'features'}")
    return tuple(changes)
