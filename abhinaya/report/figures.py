"""Figures of a report: arrays in, SVG out, for light and dark pages alike.

Colours are Okabe and Ito's, or the map cividis: neither needs sight of red and green. Lines and
words take the colour of the page's text. The same arrays always give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "bars",
    "clouds",
    "curves",
    "grouped_bars",
    "heat_map",
    "histogram",
    "intervals",
    "reliability",
    "sizes",
]

FloatArray = NDArray[np.floating[Any]]

_COLOURS = (
    "#0072B2",  # blue
    "#D55E00",  # vermilion
    "#009E73",  # bluish green
    "#CC79A7",  # reddish purple
    "#E69F00",  # orange
    "#56B4E9",  # sky blue
    "#8A8A8A",  # grey where Okabe and Ito have black, which a dark page hides
    "#B8A800",  # their yellow, darker: on white it would not be seen
)
_MARKERS = "osD^vPX*<>"
_DASHES = ("-", "--", ":", "-.")
_INK = "#010203"  # becomes the colour of the page's text
_GRID = "#80808060"
_STYLE: Any = {
    "svg.fonttype": "none",  # words stay words
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _GRID,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK
    ),
}
_WIDTH = 6.4
_MAX_CELLS = 400  # of a heat map with numbers


def _svg(salt: str, height: float, draw: Callable[[Figure], None], width: float = _WIDTH) -> str:
    """Draw, and return SVG to put into a page; `salt` tells its names from other pictures'."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    written = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_STYLE, "svg.hashsalt": salt})
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        # Without `savefig`, which draws everything twice.
        canvas: Any = FigureCanvasSVG(figure)  # matplotlib says no types here
        canvas.print_svg(written, metadata={"Date": None, "Creator": None})
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r'<g id="[^"]*"', "<g", svg).strip()


def heat_map(
    values: FloatArray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    row_title: str,
    column_title: str,
    decimals: int = 2,
    highest: float | None = None,
) -> str:
    """Draw a matrix as coloured cells with their numbers; NaN is an empty cell.

    Args:
        values: shape (R, C).
        rows: R names.
        columns: C names.
        row_title: what rows are.
        column_title: what columns are.
        decimals: of the numbers.
        highest: value of the lightest colour; by default the highest one.
    """
    import matplotlib

    top = highest or float(np.nanmax(values, initial=1e-12))

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        cells = np.ma.masked_invalid(values)
        colours = matplotlib.colormaps["cividis"]
        mesh = axis.pcolormesh(cells, cmap=colours, vmin=0, vmax=top)
        if values.size <= _MAX_CELLS:
            for (row, column), value in np.ndenumerate(values):
                if not np.isnan(value):
                    text = f"{value:.{decimals}f}"
                    dark = value / top < 0.46  # where black and white are read alike
                    axis.text(
                        *(column + 0.5, row + 0.5, text),
                        color="#ffffff" if dark else "#000000",
                        ha="center",
                        va="center",
                        fontsize=8,
                        in_layout=False,
                    )
        else:
            figure.colorbar(mesh, ax=axis)
        long = max(map(len, columns)) > 6
        axis.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=35 * long)
        axis.tick_params(length=0)
        for label in axis.get_xticklabels():
            label.set_horizontalalignment("right" if long else "center")
        axis.set_yticks(np.arange(len(rows)) + 0.5, rows)
        axis.invert_yaxis()
        axis.set_xlabel(column_title)
        axis.set_ylabel(row_title)

    size = max(len(rows), 3) * 0.36
    return _svg(f"{row_title}{column_title}{values.tolist()}", size + 1.3, draw)


def intervals(
    names: Sequence[str], values: Sequence[float], ends: Sequence[tuple[float, float]], title: str
) -> str:
    """Draw a value with its interval for each name, one below the other."""

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        places = np.arange(len(names))
        low, high = np.array(ends).T
        beside = np.abs(np.array([low, high]) - np.array(values))
        axis.errorbar(values, places, xerr=beside, fmt="o", color=_COLOURS[0], capsize=3)
        axis.set_yticks(places, names)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.grid(visible=False, axis="y")
        axis.set_xlabel(title)

    return _svg(f"{title}{names}", 0.3 * len(names) + 0.8, draw)


def bars(names: Sequence[str], values: Sequence[float], title: str) -> str:
    """Draw a bar for each name, up or down."""

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        colours = [_COLOURS[0] if value >= 0 else _COLOURS[1] for value in values]
        drawn = axis.bar(range(len(names)), values, color=colours)
        axis.bar_label(drawn, fmt="%+.3f", padding=2, fontsize=8, color=_INK)
        axis.axhline(0, color=_INK, linewidth=0.8)
        axis.margins(y=0.15)
        _set_names(axis, names)
        axis.set_ylabel(title)

    return _svg(f"{title}{names}", 2.8, draw)


def grouped_bars(
    names: Sequence[str], groups: Mapping[str, Sequence[float]], title: str, column_title: str
) -> str:
    """Draw for each name one bar of every group beside each other."""

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        width = 0.8 / len(groups)
        for idx, (group, values) in enumerate(groups.items()):
            places = np.arange(len(names)) + (idx - (len(groups) - 1) / 2) * width
            axis.bar(places, values, width, label=group, color=_COLOURS[idx % len(_COLOURS)])
        _set_names(axis, names)
        axis.set_ylabel(title)
        axis.set_xlabel(column_title)
        figure.legend(loc="outside upper center", ncols=min(len(groups), 5))

    return _svg(f"{title}{names}", 3.0, draw)


def histogram(values: FloatArray, title: str, *, n_bins: int = 30) -> str:
    """Draw how often values occur."""

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        axis.hist(values, bins=n_bins, color=_COLOURS[0])
        axis.set_xlabel(title)
        axis.set_ylabel("utterances")

    return _svg(title, 2.4, draw)


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    names: Sequence[str],
    x_title: str,
    y_title: str,
) -> str:
    """Draw lines.

    Args:
        lines: x and y by name.
        names: all that may have a line, here or in other figures: each keeps its colour.
        x_title: what x is.
        y_title: what y is.
    """

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        for name, (x, y) in lines.items():
            idx = names.index(name)
            axis.plot(
                *(x, y),
                label=name,
                color=_COLOURS[idx % len(_COLOURS)],
                linestyle=_DASHES[idx // len(_COLOURS) % len(_DASHES)],
                marker=_MARKERS[idx % len(_MARKERS)],
                markersize=3,
            )
        axis.set_xlabel(x_title)
        axis.set_ylabel(y_title)
        axis.locator_params(axis="x", integer=True)
        _legend(figure, axis)

    return _svg(f"{x_title}{y_title}", 3.2, draw)


def sizes(
    all_sizes: NDArray[Any],
    all_values: FloatArray,
    best: Sequence[tuple[int, float, tuple[float, float]]],
    chosen: tuple[int, float, str] | None,
    title: str,
) -> str:
    """Draw values of subsets by their size, the best of each size, and the one that was chosen.

    Args:
        all_sizes: size of each subset, shape (S,).
        all_values: value of each, shape (S,).
        best: size, value and interval of the best ones.
        chosen: size, value and name.
        title: what the values are.
    """

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        axis.plot(
            *(all_sizes, all_values, "o"), color=_COLOURS[6], alpha=0.45, markersize=3, label="each"
        )
        x, y, ends = zip(*best, strict=True)
        beside = np.abs(np.array(ends).T - np.array(y))
        axis.errorbar(
            *(x, y, beside), fmt="s-", color=_COLOURS[0], capsize=3, label="best of its size"
        )
        if chosen is not None:
            axis.plot(
                *(chosen[0], chosen[1], "*"),
                color=_COLOURS[1],
                markersize=14,
                label=chosen[2],
                zorder=5,
            )
        axis.set_xlabel("tables in the vote")
        axis.set_ylabel(title)
        axis.set_xlim(0.5, max(x) + 0.5)
        axis.locator_params(axis="x", integer=True)
        _legend(figure, axis)

    return _svg(title, 3.2, draw)


def reliability(confidence: FloatArray, accuracy: FloatArray, counts: NDArray[Any]) -> str:
    """Draw how often bins of rows are right against how sure they are, and the rows in each.

    Args:
        confidence: mean of each bin, shape (B,); NaN in an empty one.
        accuracy: share of right rows, shape (B,).
        counts: rows, shape (B,).
    """

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1]})
        width = 1 / len(counts)
        middles = (np.arange(len(counts)) + 0.5) * width
        above.plot([0, 1], [0, 1], "--", color=_INK, linewidth=0.8)
        filled = counts > 0
        above.plot(confidence[filled], accuracy[filled], "o-", color=_COLOURS[0])
        above.set_ylim(0, 1.02)
        above.set_xlim(0, 1)
        above.set_ylabel("share that is right")
        below.bar(middles, counts, width * 0.9, color=_COLOURS[6])
        below.set_ylabel("rows")
        below.set_xlabel("highest probability")

    return _svg(f"{counts.tolist()}{accuracy.tolist()}", 4.0, draw, width=4.6)


def clouds(
    points: FloatArray,
    panels: Mapping[str, NDArray[np.int64]],
    names: Sequence[str],
    titles: tuple[str, str],
) -> str:
    """Draw the same points in panels beside each other, coloured by other classes in each.

    Args:
        points: shape (U, 2).
        panels: class indices of the points, shape (U,), by title; those outside `names` are grey.
        names: of the classes.
        titles: of the two axes.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        seen = np.unique(np.concatenate(list(panels.values())))
        for axis, (title, classes) in zip(axes, panels.items(), strict=True):
            for idx in seen:
                is_own = classes == idx
                axis.plot(
                    *points[is_own].T,
                    _MARKERS[idx % len(_MARKERS)] if idx >= 0 else "x",
                    color=_COLOURS[idx % len(_COLOURS)] if idx >= 0 else _INK,
                    markersize=5,
                    alpha=0.85,
                    label=names[idx] if idx >= 0 else "none",
                )
            axis.set_title(title)
            axis.set_xlabel(titles[0])
        axes[0].set_ylabel(titles[1])
        _legend(figure, axes[0])

    return _svg(f"{points.tolist()}", 3.2, draw, width=7.2)


def _legend(figure: Figure, axis: Axes) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5))


def _set_names(axis: Axes, names: Sequence[str]) -> None:
    axis.set_xticks(range(len(names)), names, rotation=30 if max(map(len, names)) > 9 else 0)
    axis.grid(visible=False, axis="x")
