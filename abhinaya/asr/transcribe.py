"""The tool `transcribe`: Whisper transcripts of a selection, sharded, resumable, beside the others.

The clips are sorted by length and cut into batches, of which each process of a launch takes every
n-th. Every finished batch is kept beside the table of transcripts until all are there, so a killed
run goes on where it was, with however many processes.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abhinaya.asr.decoding import DecodingSettings, Recognizer, cut_windows
from abhinaya.data.manifest import Manifest
from abhinaya.data.problems import Problem, write_problems
from abhinaya.data.transcripts import (
    HUMAN,
    read_transcript_rows,
    transcripts_path,
    write_transcripts,
)
from abhinaya.errors import BadValueError, UnknownNameError
from abhinaya.files import digest_of, sole_writer
from abhinaya.loading.clips import Clip, Cropping, collect_clips
from abhinaya.processes import join_launch, meet
from abhinaya.progress import progress

if TYPE_CHECKING:
    from abhinaya.member import Utterance

__all__ = [
    "DETECT",
    "TranscribeSummary",
    "TranscriptRun",
    "WindowInputs",
    "default_source",
    "transcribe",
]

DETECT = "detect"
"""Language that means: whatever the model hears."""

_REASON = "reason"
_MADE_WITH = "made_with"


@dataclass(frozen=True)
class TranscribeSummary:
    """What a call has done.

    Args:
        source: name of the transcripts.
        file: the table that has them.
        problems_file: lists the clips of this source without a transcript, and why.
        n_selected: rows of the selection.
        n_new: clips that this call transcribed, those of a killed run before it included.
        n_silent: rows of the selection where nothing was said.
        n_repetitive: rows flagged so: the text repeats itself, as hallucinations do.
        n_unsure: rows flagged so: the model doubts its text.
        n_failed: rows of the selection without a transcript.
    """

    source: str
    file: Path
    problems_file: Path
    n_selected: int
    n_new: int
    n_silent: int
    n_repetitive: int
    n_unsure: int
    n_failed: int


def transcribe(
    manifest: Manifest,
    selection: Sequence[str],
    *,
    model: str = "large-v3",
    source: str | None = None,
    language: str | None = None,
    temperatures: Sequence[float] | None = None,
    beam_size: int | None = None,
    timestamps: bool = True,
    seed: int = 0,
    batch_size: int = 16,
    num_workers: int = 0,
    in_half: bool | None = None,
    may_download: bool = False,
    replace_source: bool = False,
) -> TranscribeSummary:
    """Transcribe the clips of a selection that have no transcript of this source yet.

    Args:
        manifest: the corpus; the transcripts go to `transcripts.parquet` in its root.
        selection: names of splits or subsets.
        model: see `load_whisper`.
        source: what the transcripts are called; by default `whisper-` and the model's name.
        language: code or English name of the language, or `detect`. By default the manifest's, if
            all selected rows have the same, else detected.
        temperatures: see `DecodingSettings`; by default openai-whisper's.
        beam_size: see `DecodingSettings`.
        timestamps: see `DecodingSettings`.
        seed: see `DecodingSettings`.
        batch_size: clips per pass; it changes no text by more than rounding can.
        num_workers: processes that read audio beside the main one.
        in_half: compute in half precision; by default on CUDA devices only.
        may_download: fetch an official model that is not there.
        replace_source: transcribe the selection anew, and drop what other weights or settings have
            left under this name.

    Raises:
        BadValueError: if the source's name is unsuitable, or its transcripts were made with other
            weights or settings.
        UnknownNameError: if the language is unknown.
        AbhinayaError: as `load_whisper` and `DecodingSettings` do.
    """
    from abhinaya.asr.model import fingerprint, halve_weights, load_whisper

    if batch_size < 1:
        raise BadValueError(f"batch_size is {batch_size}, expected at least 1.")
    rows = manifest.select(selection)
    settings = DecodingSettings(
        language=_find_language(language, rows["language"].tolist()),
        temperatures=tuple(temperatures or DecodingSettings.temperatures),
        beam_size=beam_size,
        timestamps=timestamps,
        seed=seed,
    )
    source = _check_source(source or default_source(model))
    state = join_launch()
    in_half = state.device.type == "cuda" if in_half is None else in_half
    # One process downloads, then the others find the file.
    with state.main_process_first() if may_download else nullcontext():
        whisper = load_whisper(model, state.device, may_download=may_download)
    weights = fingerprint(whisper)
    if in_half:
        halve_weights(whisper)
    recognizer = Recognizer(whisper, settings, in_half=in_half)
    made_with = f"weights={weights} {replace(settings, language=recognizer.language).describe()}"
    inputs = WindowInputs(recognizer.window_samples)

    run = TranscriptRun(transcripts_path(manifest.root), source, made_with, anew=replace_source)
    done = run.read_done()
    clips, problems = collect_clips(rows, manifest, inputs)
    problems = [problem for problem in problems if problem.utterance not in done]
    clips = sorted(
        (clip for clip in clips if clip.utterance not in done),
        key=lambda clip: (-clip.size, clip.utterance),
    )
    batches = [clips[at : at + batch_size] for at in range(0, len(clips), batch_size)]
    # Nobody may write a shard before everybody has read which there are.
    meet()
    mine = [clip for batch in batches[state.process_index :: state.num_processes] for clip in batch]
    with progress(f"transcribing {source}", len(mine), shown=state.is_main_process) as advance:
        for finished in _transcribe_batches(mine, recognizer, inputs, batch_size, num_workers):
            run.write_shard(finished)
            advance(len(finished))
    meet()
    utterances = rows["utterance"].tolist()
    new = run.read_parts()
    meet()
    if state.is_main_process:
        with sole_writer(run.table, "--source", waits=True):  # others add other sources
            run.finish(new, problems, utterances)
    meet()
    return run.summarize(utterances, sum(row["text"] is not None for row in new.values()))


class WindowInputs:
    """Cuts clips into windows, where they are read.

    Args:
        window_samples: what the model hears at once.
    """

    needs_audio = True
    needs_text = False

    def __init__(self, window_samples: int) -> None:
        self.window_samples = window_samples

    def encode(self, utterance: Utterance) -> dict[str, Any]:
        """Return the windows of one clip."""
        assert utterance.waveform is not None
        return {"windows": cut_windows(utterance.waveform, self.window_samples)}

    def collate(self, encoded: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the windows of several clips."""
        return {"windows": [clip["windows"] for clip in encoded]}


class TranscriptRun:
    """The transcripts of one source and one way of making them, on disk.

    Args:
        table: the table of transcripts of all sources.
        source: name of this one.
        made_with: weights and settings in words; transcripts of other ones do not count as done.
        anew: nor do those of the same, except what a killed run has left.
    """

    def __init__(self, table: Path, source: str, made_with: str, *, anew: bool) -> None:
        self.table = table
        self.source = source
        self.made_with = made_with
        self.anew = anew
        self.shards = table.with_name(f".{table.name}.parts") / digest_of([source, made_with])

    def read_done(self) -> set[str]:
        """Return utterances that have a transcript.

        Raises:
            BadValueError: if the source has transcripts of other weights or settings.
        """
        ours = [row for row in self._read_table() if row["source"] == self.source]
        others = [row.get(_MADE_WITH) for row in ours if row.get(_MADE_WITH) != self.made_with]
        if others and not self.anew:
            raise BadValueError(
                f"{str(self.table)!r} has {len(others)} transcripts {self.source!r} that were made "
                f"with {others[0] or 'another program'}; now it would be {self.made_with}. Choose "
                "another --source, or drop those with --replace."
            )
        kept = [] if self.anew else ours
        return {
            row["utterance"]
            for row in [*kept, *self.read_parts().values()]
            if row["text"] is not None
        }

    def write_shard(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep the transcripts of one batch."""
        name = digest_of([row["utterance"] for row in rows])
        write_transcripts(
            [{**row, "source": self.source, _MADE_WITH: self.made_with} for row in rows],
            self.shards / f"part-{name}.parquet",
        )

    def read_parts(self) -> dict[str, dict[str, Any]]:
        """Return what has been kept so far, by utterance; a text counts more than a failure."""
        found: dict[str, dict[str, Any]] = {}
        for shard in sorted(self.shards.glob("part-*.parquet")):
            for row in read_transcript_rows(shard):
                if row["text"] is not None or row["utterance"] not in found:
                    found[row["utterance"]] = row
        return found

    def finish(
        self, new: Mapping[str, dict[str, Any]], problems: Sequence[Problem], order: Sequence[str]
    ) -> None:
        """Put new transcripts beside those of other sources, and remove the shards.

        Args:
            new: from `read_parts`.
            problems: rows of the selection that have no audio.
            order: utterances of the selection, in the manifest's order.
        """
        rows = {
            problem.utterance: {
                **{"utterance": problem.utterance, "source": self.source, "text": None},
                **{_REASON: problem.reason, _MADE_WITH: self.made_with},
            }
            for problem in problems
        } | dict(new)
        place = {utterance: number for number, utterance in enumerate(order)}
        there = self._read_table()
        kept = [
            row
            for row in there
            if row["source"] != self.source
            or (row.get(_MADE_WITH) == self.made_with and row["utterance"] not in rows)
        ]
        # Those that a killed run with another selection has left come last.
        last = len(place)
        added = sorted(
            rows.values(),
            key=lambda row: (place.get(row["utterance"], last), row["utterance"]),
        )
        if added or len(kept) < len(there):
            write_transcripts([*kept, *added], self.table)
        failed = [
            Problem(row["utterance"], row[_REASON])
            for row in [*kept, *added]
            if row["source"] == self.source and row["text"] is None
        ]
        write_problems(self.problems_file, failed)
        shutil.rmtree(self.shards, ignore_errors=True)
        with suppress(OSError):  # other sources may be under way
            self.shards.parent.rmdir()

    @property
    def problems_file(self) -> Path:
        """Lists the clips without a transcript."""
        return self.table.with_name(f"{self.table.stem}.{self.source}.problems.csv")

    def summarize(self, utterances: Iterable[str], n_new: int) -> TranscribeSummary:
        """Return counts over the utterances of a selection, once the table is written."""
        wanted = set(utterances)
        rows = [
            row
            for row in self._read_table()
            if row["source"] == self.source and row["utterance"] in wanted
        ]
        flags = Counter(row.get("flag") for row in rows)
        return TranscribeSummary(
            source=self.source,
            file=self.table,
            problems_file=self.problems_file,
            n_selected=len(wanted),
            n_new=n_new,
            n_silent=flags["silence"],
            n_repetitive=flags["repetitive"],
            n_unsure=flags["unsure"],
            n_failed=sum(row["text"] is None for row in rows),
        )

    def _read_table(self) -> list[dict[str, Any]]:
        return read_transcript_rows(self.table) if self.table.is_file() else []


def _transcribe_batches(
    clips: Sequence[Clip],
    recognizer: Recognizer,
    inputs: WindowInputs,
    batch_size: int,
    num_workers: int,
) -> Iterator[list[dict[str, Any]]]:
    """Yield rows batch by batch; a clip that cannot be read gets a reason and no text."""
    from abhinaya.inference.sharding import read_batches
    from abhinaya.loading.dataset import fresh_loader

    load = fresh_loader(inputs, Cropping("full", max_audio_s=1.0))
    (batches,) = read_batches([clips], load, batch_size=batch_size, num_workers=num_workers)
    for read, segments, unread in batches:
        rows: list[dict[str, Any]] = [
            {"utterance": clips[idx].utterance, "text": None, _REASON: reason}
            for idx, reason in unread.items()
        ]
        names = [clips[idx].utterance for idx in read]
        windows = [segment["windows"] for [segment] in segments]
        found = recognizer.transcribe(names, windows, batch_size=batch_size) if names else []
        rows += [
            {"utterance": name, _REASON: None} | asdict(transcript)
            for name, transcript in zip(names, found, strict=True)
        ]
        yield rows


def _find_language(wanted: str | None, of_rows: Sequence[object]) -> str | None:
    """Return code of the language to decode in; None to detect it."""
    from abhinaya.asr.model import import_whisper

    import_whisper()
    from whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE

    if wanted is None:
        known = [code for code in LANGUAGES if code in set(of_rows)]
        return known[0] if len(set(of_rows)) == len(known) == 1 else None
    if wanted == DETECT:
        return None
    code = TO_LANGUAGE_CODE.get(wanted.lower(), wanted.lower())
    if code not in LANGUAGES:
        raise UnknownNameError("language", wanted, [DETECT, *LANGUAGES, *TO_LANGUAGE_CODE])
    return str(code)


def default_source(model: str) -> str:
    """Return what the transcripts of a model are called unless the user says otherwise."""
    from abhinaya.asr.model import model_name

    name = model_name(model)
    return name if name.startswith("whisper") else f"whisper-{name}"


def _check_source(source: str) -> str:
    if source == HUMAN or not re.fullmatch(r"[\w.-]+", source):
        raise BadValueError(
            f"The transcripts would be named {source!r}. Choose a --source of letters, digits, "
            f"dots, dashes and underscores other than {HUMAN!r}, such as 'whisper-large-v3'."
        )
    return source
