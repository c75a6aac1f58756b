"""The effect of wrong speakers on speaker adaptation, as numbers and as a picture."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from abhinaya.errors import MissingPackageError
from abhinaya.files import atomic_path, write_csv

__all__ = ["ESTIMATED", "ScoredErrors", "draw_curve", "write_curve"]

ESTIMATED = "estimated"
"""Kind of the points whose speakers are estimated rather than made wrong; they have no share."""


class ScoredErrors(Protocol):
    """A point of the curve."""

    @property
    def kind(self) -> str:
        """How the speakers are wrong."""

    @property
    def share(self) -> float:
        """How many of them, in [0, 1]."""

    @property
    def variant(self) -> str:
        """The adaptation; `none` for none."""

    @property
    def macro_f1(self) -> float:
        """Its score."""


def write_curve(points: Sequence[ScoredErrors], path: Path) -> None:
    """Write `kind,share,variant,macro_f1`, one row per point."""
    write_csv(
        path,
        ["kind", "share", "variant", "macro_f1"],
        [(p.kind, None if p.kind == ESTIMATED else p.share, p.variant, p.macro_f1) for p in points],
    )


def draw_curve(points: Sequence[ScoredErrors], path: Path) -> None:
    """Draw macro-F1 over the share of errors: a panel per kind, a line per adaptation.

    Dotted lines are the scores with estimated speakers, where there are any.

    Args:
        points: with every kind, share and variant.
        path: .png file to write.

    Raises:
        MissingPackageError: if matplotlib is not installed.
    """
    try:
        # By name: it is optional, so type checkers may not find it.
        figures: Any = importlib.import_module("matplotlib.figure")
    except ImportError as err:
        raise MissingPackageError("matplotlib", "Drawing the curve", "plot") from err

    kinds = list(dict.fromkeys(p.kind for p in points if p.kind != ESTIMATED))
    variants = list(dict.fromkeys(p.variant for p in points))
    # A figure of its own, without pyplot: no window system is asked for.
    figure = figures.Figure(figsize=(4 * len(kinds), 3.5), layout="constrained")
    panels: Any = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for panel, kind in zip(panels, kinds, strict=True):
        for number, variant in enumerate(variants):
            line = [p for p in points if (p.kind, p.variant) == (kind, variant)]
            colour = f"C{number}"
            panel.plot(
                [100 * p.share for p in line],
                [p.macro_f1 for p in line],
                color=colour,
                label=variant,
                marker="o",
                markersize=3,
            )
            for p in points:
                if (p.kind, p.variant) == (ESTIMATED, variant):
                    panel.axhline(p.macro_f1, color=colour, linestyle=":", linewidth=1)
        panel.set_title(f"speakers {kind}")
        panel.set_xlabel("wrong, %")
    panels[0].set_ylabel("macro-F1")
    # Beside the lines: there are too many to leave a corner free.
    handles, names = panels[-1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
