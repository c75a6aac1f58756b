"""`abhinaya score-asr`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from abhinaya.cli.options import AsJson, Format
from abhinaya.cli.tables import Cell, TableFormat, show_json, show_table

__all__ = ["score_asr"]


def score_asr(
    manifest: Annotated[Path, typer.Argument(help="Manifest of the corpus.")],
    source: Annotated[str, typer.Option(help="Transcripts to score, such as whisper-large-v3.")],
    against: Annotated[str, typer.Option(help="Transcripts that are right.")] = "human",
    select: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SELECTION", help="Split, subset or `all` (default); repeat to add another."
        ),
    ] = None,
    by: Annotated[
        Literal["split", "speaker"] | None, typer.Option(help="Also one row for each of these.")
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(help="Language of the texts where the manifest does not say; `en` matters."),
    ] = None,
    resamples: Annotated[
        int, typer.Option(min=1, help="Bootstrap resamples behind the interval.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Score transcripts by word error rate.

    Texts are normalised as Whisper does. Utterances that lack one of the two texts are not scored
    but counted.

    Example:
        abhinaya score-asr M.parquet --source whisper-large-v3 --by split
    """
    from abhinaya.asr.wer import WordErrors, score_transcripts
    from abhinaya.data.manifest import read_manifest
    from abhinaya.data.transcripts import read_transcripts, transcripts_path

    corpus = read_manifest(manifest)
    rows = corpus.select(select or ["all"])
    file = transcripts_path(corpus.root)
    references, hypotheses = (read_transcripts(file, name) for name in (against, source))
    languages = {
        utterance: known if isinstance(known, str) else language
        for utterance, known in zip(rows["utterance"], rows["language"], strict=True)
    }

    def score(groups: dict[str, str] | None) -> dict[str, WordErrors]:
        return score_transcripts(
            references, hypotheses, languages, groups, n_resamples=resamples, seed=seed
        )

    results = score(None)
    if by is not None:
        names = [name if isinstance(name, str) else "unknown" for name in rows[by]]
        results = score(dict(zip(rows["utterance"], names, strict=True))) | results
    if as_json:
        show_json([{"rows": name, **asdict(result)} for name, result in results.items()])
        return
    columns = ["rows", "utterances", "words", "WER", "95 % interval", "substitutions"]
    columns += ["deletions", "insertions", "no reference", "not transcribed"]
    table: list[list[Cell]] = []
    for name, result in results.items():
        interval = result.interval
        table.append(
            [
                name,
                result.n_utts,
                result.n_words,
                result.wer,
                f"{interval[0]:.4f}-{interval[1]:.4f}" if interval else None,
                result.n_substitutions,
                result.n_deletions,
                result.n_insertions,
                result.n_without_reference,
                result.n_not_transcribed,
            ]
        )
    show_table(columns, table, title=f"{source} against {against}", table_format=table_format)
