"""`abhinaya export` and `export-dataset`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from abhinaya.cli.options import AsJson, AudioRoot, Format, Overrides
from abhinaya.cli.tables import TableFormat, show_report, show_table

__all__ = ["export", "export_dataset"]


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_CONFIG", help="Run directory, or the config it was trained with."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    overrides: Overrides = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="Folder of the weights, or its name in the run; `best` by default."),
    ] = None,
    quantize: Annotated[
        Literal["none", "int8"], typer.Option(help="How weights are stored and multiplied.")
    ] = "none",
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Write a trained speech member as ONNX.

    For onnxruntime without torch: model.onnx takes waveforms and their lengths and gives logits;
    export.json says the rest. The folder is a member too: abhinaya predict FOLDER --manifest M
    --select S --out TABLE.

    Example:
        abhinaya export runs/distilhubert --quantize int8 --out phone
    """
    from abhinaya.cli.processes import quiet_libraries
    from abhinaya.pipeline.export import run_export

    quiet_libraries()
    report = run_export(
        source, out, checkpoint=checkpoint, quantize=quantize, overrides=overrides or []
    )
    show_report(report, as_json=as_json, table_format=table_format)


def export_dataset(
    manifest: Annotated[Path, typer.Argument(help="Manifest of the corpus.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    predictions: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE", help="Table, or NAME=TABLE, that becomes columns."),
    ] = None,
    transcripts: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Transcripts that become the column text.")
    ] = None,
    audio_root: AudioRoot = None,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Write a corpus as a data set of the library datasets.

    The folder holds Parquet with sound, and a card. Predictions are columns, with probabilities
    where there are some. datasets.load_dataset reads the folder, the hub takes it as it is, and
    prepare dataset makes a manifest of it again. Mind the licence of the corpus.

    Example:
        abhinaya export-dataset M.parquet --predictions vote.parquet --out shared
    """
    from abhinaya.corpora.hub.export import export_data_set

    counts = export_data_set(
        manifest,
        out,
        predictions=predictions or (),
        transcripts=transcripts,
        audio_root=audio_root,
    )
    show_table(
        ["split", "rows"],
        [[split, n_rows] for split, n_rows in counts.items()],
        title=str(out),
        as_json=as_json,
        table_format=table_format,
    )
