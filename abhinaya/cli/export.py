"""`abhinaya export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from abhinaya.cli.options import AsJson, Format, Overrides
from abhinaya.cli.tables import TableFormat, show_report

__all__ = ["export"]


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
