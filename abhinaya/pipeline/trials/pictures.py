"""Pictures of a sweep as SVG; the same numbers give the same file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abhinaya.files import atomic_path

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["draw_curves", "draw_importances", "picture"]


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[Axes]:
    """Yield axes, in inches; the block's drawing is written, whole or not at all."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "abhinaya", "svg.fonttype": "none"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes: Any = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        yield axes
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


def draw_importances(path: Path, shares: Mapping[str, float]) -> None:
    """Draw each key's share in the variance of the scores as a bar."""
    with picture(path, 6, 0.6 + 0.4 * len(shares)) as axes:
        keys = list(shares)[::-1]
        bars = axes.barh(keys, [shares[key] for key in keys], color="#4477aa")
        axes.bar_label(bars, [f"{shares[key]:.2f}" for key in keys], padding=3)
        axes.set_xlim(0, 1.1)
        axes.set_xlabel("share in the variance of mean macro-F1 (fANOVA)")


def draw_curves(
    path: Path,
    key: str,
    values: Sequence[float],
    f1: NDArray[np.float64],
    classes: Sequence[str],
    *,
    is_log: bool,
) -> None:
    """Draw F1 of each class, and their mean, over the values of one key.

    Args:
        path: the file.
        key: what is on the axis.
        values: of each run, shape (N,); runs of one value are averaged.
        f1: of each run and class, shape (N, K).
        classes: K names.
        is_log: whether the axis is.
    """
    import numpy as np

    at = np.unique(values)
    per_value = [f1[np.asarray(values) == value] for value in at]
    means = np.array([runs.mean(axis=0) for runs in per_value])  # (V, K)
    macro = [runs.mean(axis=1) for runs in per_value]
    with picture(path, 7, 4) as axes:
        for idx, name in enumerate(classes):
            axes.plot(at, means[:, idx], marker="o", markersize=3, linewidth=1, label=name)
        middle = np.array([runs.mean() for runs in macro])
        spread = np.array([runs.std(ddof=1) if len(runs) > 1 else 0.0 for runs in macro])
        axes.fill_between(at, middle - spread, middle + spread, color="black", alpha=0.12)
        axes.plot(at, middle, color="black", marker="o", linewidth=2.5, label="mean of classes")
        if is_log:
            axes.set_xscale("log")
        axes.set_xlabel(key)
        axes.set_ylabel("F1 (shaded: sd over runs)")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
