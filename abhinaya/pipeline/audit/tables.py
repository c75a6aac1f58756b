"""The tables of an audit: means over seeds with 95 % t intervals, and paired differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from abhinaya.pipeline.audit.config import AuditConfig
from abhinaya.pipeline.audit.parts import POOLED, Frames
from abhinaya.pipeline.report import Cell, Report, interval_text
from abhinaya.probing.statistics import PairedDifference, mean_interval, paired_difference

__all__ = ["make_reports", "sweep_differences"]

_SUMMARY = ["mean", "sd", "95 % interval"]
_PAIRED = ["difference", "sd", "95 % interval", "t", "p", "pairs"]
_HEADS = {0: "linear", 256: "256 ReLU"}
_ALPHA = 0.05


def make_reports(config: AuditConfig, frames: Frames) -> dict[str, Report]:
    """Return the tables of the parts that were done, by the names of their files."""
    makers = {
        "scores": _probes,
        "layers": _layers,
        "transfer": _transfer,
        "inlp": _inlp,
        "rsa": _rsa,
        "sweep": _sweep,
    }
    found: dict[str, Report] = {}
    for name, make in makers.items():
        if name in frames:
            found |= make(config, frames[name])
    return found


def _probes(config: AuditConfig, scores: pd.DataFrame) -> dict[str, Report]:
    keys = ["corpus", "taxonomy", "split", "hidden"]
    pooled = scores[scores["fold"] == POOLED]
    rows: list[list[Cell]] = []
    for (encoder, *place), own in _groups(pooled, ["encoder", *keys]):
        accuracy, f1 = (_summary(own[metric]) for metric in ("accuracy", "macro_f1"))
        rows.append([encoder, *_place(place), len(own), *accuracy, *f1])
    heading = ["encoder", "corpus", "classes", "split", "head"]
    columns = [*heading, "seeds", *(f"accuracy {word}" for word in _SUMMARY)]
    reports = {
        "probes": Report(
            f"{config.name}: probes",
            [*columns, *(f"macro-F1 {word}" for word in _SUMMARY)],
            rows,
            remark="Intervals are Student's, over seeds; with one split for all seeds, as where "
            "each speaker is left out, they say nothing about other speakers.",
        )
    }
    differences: list[list[Cell]] = []
    for where, first, second, a, b in _pairs_of(config, pooled, keys):
        difference = paired_difference(*_matched(a, b, ["seed"]))
        differences.append([first, second, *_place(where), *_cells(difference)])
    if differences:
        reports["encoders"] = Report(
            f"{config.name}: accuracy, first encoder less second, seed by seed",
            ["first", "second", *heading[1:], *_PAIRED],
            differences,
        )
    return reports


def _layers(config: AuditConfig, layers: pd.DataFrame) -> dict[str, Report]:
    rows: list[list[Cell]] = []
    for (name, *where), own in _groups(
        layers, ["encoder", "corpus", "taxonomy", "split", "hidden"]
    ):
        curve = own.groupby("layer")["weight"].mean().to_numpy()
        centre = float((curve * np.arange(len(curve))).sum() / curve.sum())
        rows.append([name, *_place(where), int(curve.argmax()), float(curve.max()), centre])
    columns = ["encoder", "corpus", "classes", "split", "head", "largest at", "share", "centre"]
    remark = "Layer 0 is the input of the first block; centre is the weighted mean of the numbers."
    return {"layers": Report(f"{config.name}: layer weights", columns, rows, remark=remark)}


def _transfer(config: AuditConfig, scores: pd.DataFrame) -> dict[str, Report]:
    by_pair = scores.groupby(["encoder", "shots", "source", "target"], as_index=False, sort=False)[
        ["accuracy", "macro_f1"]
    ].mean()
    rows: list[list[Cell]] = []
    for place, own in _groups(by_pair, ["encoder", "shots"]):
        accuracy, f1 = (_summary(own[metric]) for metric in ("accuracy", "macro_f1"))
        rows.append([*place, len(own), *accuracy, *f1])
    columns = ["encoder", "shots", "pairs", *(f"accuracy {word}" for word in _SUMMARY)]
    pairs: list[list[Cell]] = []
    for place, own in _groups(scores, ["encoder", "source", "target", "shots"]):
        by_seed = own.groupby("seed")[["accuracy", "macro_f1"]].mean()
        pairs.append([*place, *_summary(by_seed["accuracy"]), float(by_seed["macro_f1"].mean())])
    reports = {
        "transfer": Report(
            f"{config.name}: transfer, over ordered pairs of languages",
            [*columns, *(f"macro-F1 {word}" for word in _SUMMARY)],
            rows,
        ),
        "transfer-pairs": Report(
            f"{config.name}: transfer, each pair over seeds",
            [
                *("encoder", "from", "to", "shots"),
                *(f"accuracy {word}" for word in _SUMMARY),
                "macro-F1 mean",
            ],
            pairs,
        ),
    }
    differences: list[list[Cell]] = []
    for place, first, second, a, b in _pairs_of(config, by_pair, ["shots"]):
        difference = paired_difference(*_matched(a, b, ["source", "target"]))
        differences.append([first, second, *place, *_cells(difference)])
    if differences:
        reports["transfer-encoders"] = Report(
            f"{config.name}: accuracy of transfer, first encoder less second, pair by pair",
            ["first", "second", "shots", *_PAIRED],
            differences,
        )
    return reports


def _inlp(config: AuditConfig, found: pd.DataFrame) -> dict[str, Report]:
    rows: list[list[Cell]] = []
    for place, own in _groups(found, ["encoder", "corpus"]):
        for what, column, before, chance in (
            ("speaker, fitted", "speaker_fitted", "before", "speaker_fitted_chance"),
            ("speaker, held out", "speaker_held_out", "before", "speaker_held_out_chance"),
            ("emotion", "accuracy", "before", None),
            ("emotion, random directions", "accuracy", "before", None),
        ):
            after = f"{column}_{'control' if 'random' in what else 'after'}"
            lost = paired_difference(own[after], own[f"{column}_{before}"])
            rows.append(
                [
                    *place,
                    what,
                    float(own[f"{column}_{before}"].mean()),
                    float(own[after].mean()),
                    float(own[chance].mean()) if chance else None,
                    *_cells(lost),
                    float(own["rounds"].mean()),
                    float(own["rank"].mean()),
                ]
            )
    columns = ["encoder", "corpus", "accuracy of", "before", "after", "chance", *_PAIRED]
    n_left = int((~found["at_chance"].astype(bool)).sum())
    remark = "Differences are after less before, seed by seed."
    if n_left:
        remark += (
            f" In {n_left} of {len(found)} runs the fitted speakers did not come down to chance."
        )
    title = f"{config.name}: speakers taken out by nullspace projection"
    return {"inlp": Report(title, [*columns, "rounds", "rank"], rows, remark=remark)}


def _rsa(config: AuditConfig, found: pd.DataFrame) -> dict[str, Report]:
    rows: list[list[Cell]] = []
    for (encoder,), own in _groups(found, ["encoder"]):
        by_seed = own.groupby("seed")[["mean", "p", "shuffled"]].first()
        rows.append(
            [
                encoder,
                own.groupby(["first", "second"]).ngroups,
                *_summary(by_seed["mean"]),
                float(by_seed["p"].median()),
                float(by_seed["p"].max()),
                float(by_seed["shuffled"].mean()),
            ]
        )
    columns = ["encoder", "pairs", *(f"Spearman {word}" for word in _SUMMARY)]
    columns += ["p median", "p largest", "mean of shuffles"]
    remark = "p is of one test over all pairs, labels shuffled within each language; one per seed."
    title = f"{config.name}: geometry of the classes between languages"
    return {"rsa": Report(title, columns, rows, remark=remark)}


def sweep_differences(config: AuditConfig, found: pd.DataFrame) -> pd.DataFrame:
    """Return one row per setting of a sweep: the gap, its interval, and whether it is there."""
    assert config.sweep is not None
    records = []
    for _, own in found.groupby("point", sort=True):
        a, b = (own[own["encoder"] == n] for n in (config.sweep.first, config.sweep.second))
        gap = paired_difference(*_matched(a, b, ["seed"]))
        appears = gap.mean > 0 and (gap.p < _ALPHA or (np.isnan(gap.p) and len(config.seeds) > 1))
        settings = {key: own[key].iloc[0] for key in config.sweep.settings}
        records.append(
            settings
            | {"gap": gap.mean, "low": gap.interval[0], "high": gap.interval[1], "p": gap.p}
            | {"appears": appears, "reaches": appears and gap.mean >= config.sweep.gap}
        )
    return pd.DataFrame(records)


def _sweep(config: AuditConfig, found: pd.DataFrame) -> dict[str, Report]:
    assert config.sweep is not None
    points = sweep_differences(config, found)
    first, second = config.sweep.first, config.sweep.second
    rows: list[list[Cell]] = []
    for key in config.sweep.settings:
        for (value,), own in _groups(points, [key]):
            rows.append(
                [
                    key,
                    str(value),
                    len(own),
                    float(own["gap"].mean()),
                    float(own["gap"].min()),
                    float(own["gap"].max()),
                    int(own["appears"].sum()),
                    int(own["reaches"].sum()),
                ]
            )
    columns = [
        "setting",
        "value",
        "points",
        "mean gap",
        "smallest",
        "largest",
        "appears",
        "reaches",
    ]
    remark = (
        f"A gap appears where {first} is better than {second} with p < {_ALPHA:g} over matched "
        f"seeds, not corrected for {len(points)} settings; it reaches the published one where it "
        f"is also {config.sweep.gap:g} or more. All: {int(points['appears'].sum())} and "
        f"{int(points['reaches'].sum())} of {len(points)}."
    )
    every: list[list[Cell]] = []
    for row in points.to_dict("records"):
        settings: list[Cell] = [str(row[key]) for key in config.sweep.settings]
        gap: list[Cell] = [row["gap"], interval_text((row["low"], row["high"])), row["p"]]
        every.append(
            [*settings, *gap, *("yes" if row[w] else "no" for w in ("appears", "reaches"))]
        )
    title = f"{config.name}: where {first} is better than {second}"
    heading = [*config.sweep.settings, "gap", "95 % interval", "p", "appears", "reaches"]
    return {
        "sweep": Report(title, columns, rows, remark=remark),
        "sweep-points": Report(f"{title}, each setting", heading, every),
    }


def _groups(
    frame: pd.DataFrame, keys: list[str]
) -> Iterator[tuple[tuple[Cell, ...], pd.DataFrame]]:
    for place, own in frame.groupby(keys, sort=False):
        yield tuple(getattr(cell, "item", lambda cell=cell: cell)() for cell in place), own


def _pairs_of(
    config: AuditConfig, frame: pd.DataFrame, keys: list[str]
) -> Iterator[tuple[tuple[Cell, ...], str, str, pd.DataFrame, pd.DataFrame]]:
    """Yield the rows of the first encoder and of each other one, place by place."""
    first, *others = config.encoders
    for place, own in _groups(frame, keys):
        for other in others:
            a, b = (own[own["encoder"] == name] for name in (first, other))
            yield place, first, other, a, b


def _matched(
    first: pd.DataFrame, second: pd.DataFrame, keys: list[str]
) -> tuple[Sequence[float], Sequence[float]]:
    both = first.merge(second, on=keys, suffixes=("_a", "_b"), validate="one_to_one")
    return both["accuracy_a"].tolist(), both["accuracy_b"].tolist()


def _place(place: Sequence[Cell]) -> list[Cell]:
    *names, hidden = place
    return [*names, _HEADS.get(hidden, str(hidden)) if isinstance(hidden, int) else hidden]


def _summary(values: pd.Series[float]) -> list[Cell]:
    mean, sd, interval = mean_interval(values)
    return [mean, *((None, None) if np.isnan(sd) else (sd, interval_text(interval)))]


def _cells(found: PairedDifference) -> list[Cell]:
    low, high = found.interval
    return [
        f"{found.mean:+.4f}",
        None if np.isnan(found.sd) else found.sd,
        None if np.isnan(low) else f"{low:+.4f} to {high:+.4f}",
        None if np.isnan(found.t) else found.t,
        None if np.isnan(found.p) else found.p,
        found.n,
    ]
