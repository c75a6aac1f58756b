"""What one step of a chain is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from abhinaya.pipeline.report import Report

__all__ = ["Step"]


@dataclass(frozen=True)
class Step:
    """One step of a chain.

    Args:
        name: such as `predict:test:wavlm`; the part before the first colon is its kind.
        settings: everything in the configs that decides the outputs.
        needs: files that decide the outputs, by content.
        makes: files that are there when the step is done.
        work: does it and says what came out.
        sources: of a table of transcripts in `needs` or `makes`, only those of these sources count.
    """

    name: str
    settings: Any
    needs: tuple[Path, ...]
    makes: tuple[Path, ...]
    work: Callable[[], Report] = field(repr=False)
    sources: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """What it does, such as `predict`."""
        return self.name.partition(":")[0]
