"""Transcribe: Whisper writes down what the clips say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from abhinaya.files import sole_writer
from abhinaya.pipeline.report import Report
from abhinaya.pipeline.stages.settings import Settings

if TYPE_CHECKING:
    from abhinaya.asr.transcribe import TranscribeSummary

__all__ = ["TRANSCRIPTS", "TranscribeSettings", "count_transcripts", "run_transcribe"]

TRANSCRIPTS = "transcripts.parquet"
"""Table of transcripts beside a manifest."""


class TranscribeSettings(Settings):
    """How to transcribe."""

    model: str = "large-v3"
    """Official name, .pt file of openai-whisper, or Hugging Face folder."""
    select: tuple[str, ...] = Field(default=("all",), json_schema_extra={"metavar": "SELECTION"})
    """Split, subset or `all` (default); repeat to add another."""
    language: str | None = None
    """Code such as `en`, or `detect`; by default the manifest's, else detected."""
    source: str | None = Field(default=None, json_schema_extra={"metavar": "NAME"})
    """What the transcripts are called; by default whisper-MODEL."""
    batch_size: int = Field(default=16, ge=1)
    """Clips per pass."""
    num_workers: int = Field(default=0, ge=0)
    """Processes that read audio beside the main one."""
    temperature: tuple[float, ...] = Field(default=(), json_schema_extra={"metavar": "T"})
    """Repeat in rising order; a later one is tried where the text of the one before looks wrong.
    Default: 0, 0.2, ... 1; one alone switches this off."""
    beam_size: int | None = Field(default=None, ge=2)
    """Beam search, clip by clip, instead of greedy batches."""
    timestamps: bool = True
    """Decode with time stamps, as openai-whisper does; none is faster."""
    fp16: bool | None = Field(default=None, json_schema_extra={"flag": "--fp16/--fp32"})
    """Precision; by default half on CUDA devices."""
    seed: int = Field(default=0, ge=0)
    """Seed of what is sampled."""
    download: bool = False
    """Fetch an official model that is not there."""
    replace: bool = False
    """Transcribe anew, and drop what other settings have left under this name."""

    @property
    def source_name(self) -> str:
        """What the transcripts are called."""
        from abhinaya.asr.transcribe import default_source

        return self.source or default_source(self.model)


def run_transcribe(
    manifest: Path, settings: TranscribeSettings, *, audio_root: Path | None = None
) -> Report:
    """Transcribe clips into `transcripts.parquet` beside the manifest.

    Every process of a launch calls this and gets the same report.
    """
    from abhinaya.asr.transcribe import TranscriptRun, transcribe
    from abhinaya.data.manifest import read_manifest

    corpus = read_manifest(manifest, audio_root=audio_root)
    run = TranscriptRun(corpus.root / TRANSCRIPTS, settings.source_name, "", anew=False)
    with sole_writer(run.problems_file, "--source"):
        summary = transcribe(
            corpus,
            settings.select,
            model=settings.model,
            source=settings.source,
            language=settings.language,
            temperatures=settings.temperature or None,
            beam_size=settings.beam_size,
            timestamps=settings.timestamps,
            seed=settings.seed,
            batch_size=settings.batch_size,
            num_workers=settings.num_workers,
            in_half=settings.fp16,
            may_download=settings.download,
            replace_source=settings.replace,
        )
    return _report(summary, summary.n_new)


def count_transcripts(manifest: Path, settings: TranscribeSettings) -> Report:
    """Return the same report once the processes of a launch are done; what was new is unknown."""
    from abhinaya.asr.transcribe import TranscriptRun
    from abhinaya.data.manifest import read_manifest

    corpus = read_manifest(manifest)
    run = TranscriptRun(corpus.root / TRANSCRIPTS, settings.source_name, "", anew=False)
    utterances = corpus.select(settings.select)["utterance"].tolist()
    return _report(run.summarize(utterances, 0), None)


def _report(summary: TranscribeSummary, n_new: int | None) -> Report:
    notes: tuple[str, ...] = ()
    if summary.n_failed:
        notes = (f"{summary.n_failed} clips have no transcript; {summary.problems_file} says why.",)
    return Report(
        str(summary.file),
        ["source", "rows", "new", "silent", "repetitive", "unsure", "failed"],
        [
            [
                summary.source,
                summary.n_selected,
                n_new,
                summary.n_silent,
                summary.n_repetitive,
                summary.n_unsure,
                summary.n_failed,
            ]
        ],
        files=(summary.file, summary.problems_file),
        notes=notes,
    )
