"""`abhinaya predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from abhinaya.cli.options import AsJson, Format, Overrides
from abhinaya.cli.tables import TableFormat, show_table

__all__ = ["predict"]


def predict(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_CONFIG",
            help="Run directory, or the config of a member with nothing to train.",
        ),
    ],
    manifest: Annotated[Path, typer.Option(help="Manifest of the corpus.")],
    select: Annotated[
        list[str],
        typer.Option(metavar="SELECTION", help="Split, subset or `all`; repeat to add another."),
    ],
    out: Annotated[Path, typer.Option(help="Table to write, .parquet or .csv.")],
    overrides: Overrides = None,
    audio_root: Annotated[
        Path | None, typer.Option(help="Where the audio lies now; matched by file name.")
    ] = None,
    keep: Annotated[
        Literal["embedding"] | None,
        typer.Option("--with", help="Also keep the input of the last linear layer."),
    ] = None,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Label every row of a selection.

    On several devices: accelerate launch -m abhinaya predict RUN ...
    """
    from abhinaya.cli.processes import is_main_process, quiet_libraries
    from abhinaya.data.manifest import read_manifest
    from abhinaya.member import PredictRequest
    from abhinaya.member_config import find_predictor

    quiet_libraries()
    member, resolved = find_predictor(source, overrides or [], manifest)
    table = member.predict(
        resolved,
        PredictRequest(
            manifest=read_manifest(manifest, audio_root=audio_root),
            selection=tuple(select),
            out=out,
            with_embedding=keep == "embedding",
            overrides=tuple(overrides or []),
        ),
    )
    if is_main_process():
        n_abstained = int((table.labels < 0).sum())
        show_table(
            ["run", "selection", "rows", "abstained"],
            [[table.name, ", ".join(select), len(table), n_abstained]],
            title=str(out),
            as_json=as_json,
            table_format=table_format,
        )
