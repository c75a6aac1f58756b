"""`abhinaya transcribe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abhinaya.cli.options import AsJson, Format
from abhinaya.cli.tables import TableFormat, show_table

__all__ = ["transcribe"]


def transcribe(
    manifest: Annotated[Path, typer.Argument(help="Manifest of the corpus.")],
    model: Annotated[
        str,
        typer.Option(help="Official name, .pt file of openai-whisper, or Hugging Face folder."),
    ] = "large-v3",
    select: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SELECTION", help="Split, subset or `all` (default); repeat to add another."
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(
            help="Code such as `en`, or `detect`; by default the manifest's, else detected."
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="What the transcripts are called; by default whisper-MODEL."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips per pass.")] = 16,
    num_workers: Annotated[
        int, typer.Option(min=0, help="Processes that read audio beside the main one.")
    ] = 0,
    temperature: Annotated[
        list[float] | None,
        typer.Option(
            metavar="T",
            help="Repeat in rising order; a later one is tried where the text of the one before "
            "looks wrong. Default: 0, 0.2, ... 1; one alone switches this off.",
        ),
    ] = None,
    beam_size: Annotated[
        int | None,
        typer.Option(min=2, help="Beam search, clip by clip, instead of greedy batches."),
    ] = None,
    timestamps: Annotated[
        bool,
        typer.Option(help="Decode with time stamps, as openai-whisper does; none is faster."),
    ] = True,
    fp16: Annotated[
        bool | None,
        typer.Option("--fp16/--fp32", help="Precision; by default half on CUDA devices."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of what is sampled.")] = 0,
    audio_root: Annotated[
        Path | None, typer.Option(help="Where the audio lies now; matched by file name.")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch an official model that is not there.")
    ] = False,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Transcribe anew, and drop what other settings have left under this name.",
        ),
    ] = False,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Transcribe clips with Whisper, into transcripts.parquet beside the manifest.

    Clips that have a transcript of this source are not transcribed again; a killed run goes on
    where it was. On several devices: accelerate launch -m abhinaya transcribe MANIFEST ...
    """
    from abhinaya.cli.processes import is_main_process, quiet_libraries
    from abhinaya.data.manifest import read_manifest
    from abhinaya.registry import load_tool

    quiet_libraries()
    summary = load_tool("transcribe")(
        read_manifest(manifest, audio_root=audio_root),
        tuple(select or ["all"]),
        model=model,
        source=source,
        language=language,
        temperatures=temperature,
        beam_size=beam_size,
        timestamps=timestamps,
        seed=seed,
        batch_size=batch_size,
        num_workers=num_workers,
        in_half=fp16,
        may_download=download,
        replace_source=replace,
    )
    if not is_main_process():
        return
    show_table(
        ["source", "rows", "new", "silent", "repetitive", "unsure", "failed"],
        [
            [
                *(summary.source, summary.n_selected, summary.n_new, summary.n_silent),
                *(summary.n_repetitive, summary.n_unsure, summary.n_failed),
            ]
        ],
        title=str(summary.file),
        as_json=as_json,
        table_format=table_format,
    )
    if summary.n_failed:
        typer.echo(
            f"Note: {summary.n_failed} clips have no transcript; {summary.problems_file} says why.",
            err=True,
        )
