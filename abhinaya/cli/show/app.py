"""`abhinaya app`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abhinaya.cli.options import AudioRoot

__all__ = ["app"]


def app(
    run: Annotated[
        Path,
        typer.Argument(help="What abhinaya run wrote, its `out`; or one trained run directory."),
    ],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the page listens.")] = 7860,
    host: Annotated[
        str, typer.Option(help="Address of this machine; anything else is open to a network.")
    ] = "127.0.0.1",
    transcriber: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Whisper that writes down recordings; by default the chain's own.",
        ),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Manifest of the corpus, if not where the run says.")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="True labels: a manifest, or a CSV with FileName and EmoClass."),
    ] = None,
    audio_root: AudioRoot = None,
    max_seconds: Annotated[
        float, typer.Option(min=0.1, help="Longest recording that is taken.")
    ] = 60.0,
    max_megabytes: Annotated[
        float, typer.Option(min=0.001, help="Largest file that is taken.")
    ] = 20.0,
) -> None:
    """Open a web page of a run, to listen, try and compare.

    Record or upload speech and see what every member votes, and how the vote was decided; look
    through the run's tables and hear the clips; compare two ensembles; try a prompt. Members are
    loaded when they are first asked. Nothing is fetched from outside. Ctrl-C ends it.

    Example:
        abhinaya app runs/demo --max-seconds 30
    """
    from abhinaya.app.page import check_page, serve
    from abhinaya.app.run import open_run
    from abhinaya.cli.processes import quiet_libraries

    quiet_libraries()
    check_page(host, port)
    opened = open_run(run, manifest=manifest, truth=truth, audio_root=audio_root)
    if host not in ("127.0.0.1", "localhost", "::1"):
        typer.echo(
            f"Note: {host} is no loopback address, so everybody who reaches this machine can hear "
            "the run's clips and use its models.",
            err=True,
        )
    serve(
        opened,
        host=host,
        port=port,
        transcriber=transcriber or opened.transcriber,
        max_seconds=max_seconds,
        max_megabytes=max_megabytes,
        tell=lambda address: typer.echo(f"{run} is at {address} (Ctrl-C ends it)"),
    )
