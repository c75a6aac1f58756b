"""`abhinaya train`."""

from __future__ import annotations

from typing import Annotated

import typer

from abhinaya.cli.options import AsJson, Format, Overrides
from abhinaya.cli.tables import TableFormat, show_table

__all__ = ["train"]


def train(
    config: Annotated[
        str, typer.Argument(help="YAML file, or a shipped one such as members/wavlm.yaml.")
    ],
    overrides: Overrides = None,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Train one member, or go on where a killed training was.

    On several devices: accelerate launch -m abhinaya train CONFIG.
    """
    from abhinaya.cli.processes import is_main_process, quiet_libraries
    from abhinaya.data.manifest import read_manifest
    from abhinaya.member_config import load_member_config
    from abhinaya.nn.checkpoint import read_info
    from abhinaya.registry import load_member

    quiet_libraries()
    checked = load_member_config(config, overrides or [])
    manifest = read_manifest(checked.data.manifest, audio_root=checked.data.audio_root)
    run_dir = load_member(checked.member).train(checked, manifest)
    if is_main_process():
        metrics = read_info(run_dir / "best").metrics
        show_table(
            ["run", "macro-F1", "best step", "steps"],
            [[checked.name, metrics["macro_f1"], metrics["step"], metrics["n_steps"]]],
            title=f"{run_dir / 'best'}",
            as_json=as_json,
            table_format=table_format,
        )
