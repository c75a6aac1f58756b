"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from abhinaya.cli.tables import TableFormat

__all__ = ["AsJson", "Format", "Overrides"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
"""Of every command that prints a table."""

Format = Annotated[TableFormat, typer.Option("--format", help="How to print the table.")]
"""Of every command that prints a table."""

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes of the config.")
]
"""Of every command that reads a config."""
