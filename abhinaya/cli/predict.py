"""abhinaya predict: a corpus or one's own recordings in, labels out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from abhinaya.cli.options import AsJson, AudioRoot, Format, guards
from abhinaya.cli.tables import TableFormat, show_report

__all__ = ["predict"]


@guards("out")
def predict(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_CONFIG",
            help="Run directory, or the config of a member with nothing to train.",
        ),
    ],
    others: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECORDING|KEY=VALUE",
            help="Audio files or folders of your own, or - for one on standard input, instead of a "
            "corpus; changes of the config.",
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(help="Manifest of the corpus; by default that of the run's training."),
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(metavar="SELECTION", help="Split, subset or `all`; repeat to add another."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Table to write, .parquet or .csv; a must with --select."),
    ] = None,
    audio_root: AudioRoot = None,
    keep: Annotated[
        Literal["embedding"] | None,
        typer.Option("--with", help="Also keep the input of the last linear layer."),
    ] = None,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Label every row of a selection, or recordings of your own.

    Recordings need no manifest: abhinaya predict RUN *.wav shows labels and probabilities, and
    --out keeps them. The classes are the run's. On several devices: accelerate launch -m abhinaya
    predict RUN --manifest ...

    Example:
        abhinaya predict runs/wavlm --manifest M.parquet --select test1 --out test.parquet
    """
    from abhinaya.cli.processes import quiet_libraries
    from abhinaya.pipeline.stages.predict import report_table, run_predict
    from abhinaya.pipeline.stages.recordings import report_recordings, run_recordings

    quiet_libraries()
    given = others or []
    of_corpus = manifest is not None or bool(select) or audio_root is not None
    recordings = [one for one in given if Path(one).exists() or not ("=" in one or of_corpus)]
    overrides = tuple(one for one in given if one not in recordings)
    with_embedding = keep == "embedding"
    if recordings:
        if of_corpus:
            raise typer.BadParameter(
                f"recordings such as {recordings[0]!r} are in no manifest; remove --manifest, "
                "--select and --audio-root, or the recordings."
            )
        table = run_recordings(
            source, recordings, out, overrides=overrides, with_embedding=with_embedding
        )
        report = report_recordings(table, out)
    elif not select or out is None:
        raise typer.BadParameter(
            "name recordings, such as *.wav, or a corpus with --manifest, --select and --out; "
            "without --manifest it is that of the run's training."
        )
    else:
        table = run_predict(
            source,
            manifest,
            tuple(select),
            out,
            overrides=overrides,
            audio_root=audio_root,
            with_embedding=with_embedding,
        )
        report = report_table(table, ", ".join(select), out)
    show_report(report, as_json=as_json, table_format=table_format)
