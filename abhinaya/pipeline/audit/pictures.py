"""The pictures of an audit, as SVG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from abhinaya.pipeline.audit.config import AuditConfig
from abhinaya.pipeline.audit.parts import Frames
from abhinaya.pipeline.audit.tables import sweep_differences
from abhinaya.pipeline.trials.pictures import picture
from abhinaya.probing.statistics import mean_interval

__all__ = ["draw_all"]


def draw_all(config: AuditConfig, frames: Frames, folder: Path) -> None:
    """Draw layer-weight curves, transfer over shots, distances of classes and the sweep."""
    if "layers" in frames:
        for (corpus, taxonomy, split, hidden), own in frames["layers"].groupby(
            ["corpus", "taxonomy", "split", "hidden"]
        ):
            _draw_layers(folder / f"layers.{corpus}.{taxonomy}.{split}.{hidden}.svg", own)
    if "transfer" in frames:
        _draw_transfer(folder / "transfer.svg", frames["transfer"])
    if "distances" in frames:
        for (encoder, language), own in frames["distances"].groupby(["encoder", "language"]):
            _draw_distances(folder / f"distances.{encoder}.{language}.svg", own, config.classes)
    if "sweep" in frames:
        _draw_sweep(folder / "sweep.svg", config, frames["sweep"])


def _draw_layers(path: Path, layers: pd.DataFrame) -> None:
    by_seed = layers.groupby(["encoder", "seed", "layer"], as_index=False)["weight"].mean()
    with picture(path, 5, 3) as axes:
        for encoder, own in by_seed.groupby("encoder", sort=False):
            found = [mean_interval(one["weight"]) for _, one in own.groupby("layer")]
            numbers = sorted(own["layer"].unique())
            axes.plot(numbers, [mean for mean, _, _ in found], marker="o", label=encoder)
            lows, highs = zip(*(interval for _, _, interval in found), strict=True)
            axes.fill_between(numbers, lows, highs, alpha=0.2)
        axes.set_xlabel("layer")
        axes.set_ylabel("share in the probe's sum")
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="x", integer=True)
        axes.legend(frameon=False)


def _draw_transfer(path: Path, scores: pd.DataFrame) -> None:
    keys = ["encoder", "shots", "source", "target"]
    by_pair = scores.groupby(keys, as_index=False, sort=False)["accuracy"].mean()
    with picture(path, 5, 3) as axes:
        for encoder, own in by_pair.groupby("encoder", sort=False):
            found = [mean_interval(one["accuracy"]) for _, one in own.groupby("shots")]
            shots = sorted(own["shots"].unique())
            means = [mean for mean, _, _ in found]
            halves = [high - mean for mean, _, (_, high) in found]
            axes.errorbar(shots, means, yerr=halves, marker="o", capsize=3, label=encoder)
        axes.set_xlabel("examples of the target language")
        axes.set_ylabel("accuracy, mean over pairs")
        axes.legend(frameon=False)


def _draw_distances(path: Path, distances: pd.DataFrame, classes: tuple[str, ...]) -> None:
    table = distances.groupby(["first", "second"])["distance"].mean().unstack()
    matrix = table.loc[list(classes), list(classes)].to_numpy()
    with picture(path, 0.7 * len(classes) + 1.2, 0.7 * len(classes) + 1) as axes:
        axes.imshow(matrix, cmap="Blues", vmin=0)
        axes.set_xticks(range(len(classes)), classes)
        axes.set_yticks(range(len(classes)), classes)
        dark = matrix.max() / 2
        for (row, column), value in np.ndenumerate(matrix):
            colour = "white" if value > dark else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)


def _draw_sweep(path: Path, config: AuditConfig, found: pd.DataFrame) -> None:
    assert config.sweep is not None
    points = sweep_differences(config, found).sort_values("gap", ignore_index=True)
    with picture(path, 6, 3) as axes:
        axes.vlines(points.index, points["low"], points["high"], color="#bbbbbb", lw=1)
        for appears, own in points.groupby("appears"):
            label = "p < .05" if appears else "not told from none"
            axes.plot(own.index, own["gap"], "o", ms=3, label=label)
        axes.axhline(0, color="black", lw=0.8)
        axes.axhline(config.sweep.gap, color="black", lw=0.8, ls=":")
        axes.set_xlabel("settings, by gap")
        axes.set_ylabel(f"{config.sweep.first} less {config.sweep.second}")
        axes.legend(frameon=False)
