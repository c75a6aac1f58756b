"""`abhinaya prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abhinaya.cli.options import AsJson, Format
from abhinaya.cli.tables import TableFormat, show_table

__all__ = ["prepare"]


def prepare(
    corpus: Annotated[str, typer.Argument(help="Corpus, such as msp-podcast, emodb or folder.")],
    source: Annotated[Path, typer.Argument(help="The corpus as published.")],
    out: Annotated[Path, typer.Option(help="Folder for the manifest.")],
    audio: Annotated[
        bool, typer.Option("--audio/--no-audio", help="Look at the audio files, or not at all.")
    ] = True,
    balanced_per_class: Annotated[
        int, typer.Option(min=1, help="MSP-Podcast: clips per class in the subset `balanced`.")
    ] = 326,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the clips of `balanced`.")] = 0,
    transcripts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Further transcripts, a CSV FileName,Transcript; NAME such as whisper-large-v3.",
        ),
    ] = None,
    text_source: Annotated[
        str, typer.Option(help="msp-podcast-lists: what wrote the texts, `human` or a recogniser.")
    ] = "human",
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="OURS=THEIRS,...", help="folder: its columns, such as file=path,label=emotion."
        ),
    ] = None,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Make a manifest from a corpus as published."""
    from abhinaya.corpora import prepare_corpus
    from abhinaya.corpora.audio_audit import count_kinds
    from abhinaya.corpora.base import PrepareOptions
    from abhinaya.data.manifest import summarise_manifest

    options = PrepareOptions(
        check_audio=audio,
        balanced_per_class=balanced_per_class,
        seed=seed,
        transcripts=_named_files(transcripts or []),
        text_source=text_source,
        columns=_named_columns(columns),
    )
    prepared = prepare_corpus(corpus, source, out, options)
    kinds = ", ".join(f"{n} {kind}" for kind, n in count_kinds(prepared.problems).items())
    headings, rows = summarise_manifest(prepared.manifest)
    show_table(
        headings,
        rows,
        title=f"{out}: manifest.parquet; {len(prepared.problems)} problems in problems.csv"
        + (f" ({kinds})" if kinds else ""),
        as_json=as_json,
        table_format=table_format,
    )


def _named_columns(given: str | None) -> dict[str, str]:
    from abhinaya.errors import BadValueError

    pairs = [entry.partition("=") for entry in given.split(",")] if given else []
    names = {ours.strip(): theirs.strip() for ours, _, theirs in pairs}
    if len(names) < len(pairs) or not all(ours and theirs for ours, theirs in names.items()):
        raise BadValueError(
            f"--columns {given!r} must be OURS=THEIRS, each of ours once, such as "
            "file=filename,label=emotion."
        )
    return names


def _named_files(given: list[str]) -> dict[str, Path]:
    from abhinaya.errors import BadValueError

    files: dict[str, Path] = {}
    for entry in given:
        name, equals, file = entry.partition("=")
        if not (name and equals and file) or name in files:
            raise BadValueError(
                f"--transcripts {entry!r} must be NAME=FILE, each name once, such as "
                "whisper-large-v3=whisper.csv."
            )
        files[name] = Path(file)
    return files
