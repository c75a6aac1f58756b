"""Sweep: a member is trained with many values of some keys, by a grid or a search."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from abhinaya.config import TrainedConfig, config_digest
from abhinaya.errors import BadValueError, list_some
from abhinaya.files import sole_writer, write_csv
from abhinaya.member_config import check_member_config
from abhinaya.pipeline.report import Cell, Report
from abhinaya.pipeline.stages.settings import Settings
from abhinaya.pipeline.trials.space import Point, Range, Space, place, read_space
from abhinaya.pipeline.trials.study import Search, claim, importances, require_optuna
from abhinaya.pipeline.trials.variants import (
    ScoredRows,
    check_variants,
    find_rows_to_score,
    read_content,
    run_seed,
    table_path,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from abhinaya.evaluation.seeds import SeedDifference, SeedMetric, SeedScore

__all__ = ["SweepSettings", "run_sweep"]


class SweepSettings(Settings):
    """How values are chosen, and how they are judged."""

    search: Literal["grid", "tpe", "random"] = "grid"
    """Try every combination, or let Optuna propose: tpe learns from earlier trials."""
    trials: int | None = Field(default=None, ge=1)
    """How many trials a search has in all, whoever does them."""
    select: tuple[str, ...] = Field(default=(), json_schema_extra={"metavar": "SELECTION"})
    """Split or subset to score, by default data.validation; repeat to add another."""
    against: Literal["best", "first"] = "best"
    """Compare every trial with the best one, or with the first."""
    by_speaker: bool = False
    """Take speakers for independent, not utterances."""
    resamples: int = Field(default=10_000, ge=1)
    """Bootstrap resamples behind each interval, and random assignments behind each test."""

    @model_validator(mode="after")
    def _check_trials(self) -> Self:
        if (self.search == "grid") != (self.trials is None):
            raise ValueError("give trials to a search, --search tpe --trials 40, and to no grid")
        return self


def run_sweep(
    config: str | Path,
    values: Sequence[str],
    out: Path,
    settings: SweepSettings,
    write: Callable[[Report], None],
) -> Report:
    """Train what nobody else trains, then say how good everything is that is finished.

    Several processes may do the same sweep at once, on one machine or on a shared folder. Below
    `out` is one folder for each trial with a run and a table for each seed; what is finished there
    is not computed again. Grids are checked whole before the first training, searches with the
    combinations of all values and both ends of every range, a thousand of them.

    Args:
        config: the member's YAML.
        values: KEY=VALUES; `seed` says over which seeds scores are means.
        out: the folder.
        settings: how values are chosen and judged.
        write: is called with the report while nobody else writes one.

    Raises:
        BadValueError: if a value is not of its form, nothing can be trained or scored, or the
            folder holds another search.
        MissingPackageError: if the extra `sweep` is not installed.
        ProblemsError: if a trial is no config of the member.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadValueError(
            "A sweep is not for accelerate launch: its processes would share one training. Start "
            "abhinaya sweep once for each device, with the same --out; each takes trials."
        )
    space = read_space(values)
    require_optuna()
    content, where = read_content(config, space.overrides)
    is_grid = settings.search == "grid"
    points = space.grid() if is_grid else space.probes()
    configs = check_variants({name: place(content, p) for name, p in points.items()}, where)
    every = list(configs.values())
    seeds = space.seeds or (every[0].seed,)
    rows = find_rows_to_score(every, settings.select, by_speaker=settings.by_speaker)
    search: Search | None = None
    if settings.search == "grid":
        _do_grid(configs, seeds, out, rows)
    else:
        rules = {
            "config": config_digest(every[0]),
            "seeds": seeds,
            "select": rows.select,
            "corpus": rows.manifest.digest,
        }
        search = Search(out, space, settings.search, rules)
        assert settings.trials is not None
        for trial in search.work(settings.trials):
            own: Any = check_member_config(place(content, trial.point), f"{where}, {trial.name}")
            found = [run_seed(own, seed, out, trial.name, rows) for seed in seeds]
            search.tell(trial, _mean_macro_f1(rows, rows.labels_of(found)))
    with sole_writer(out / "result", "--out", waits=True):
        if search is not None:
            points = {trial.name: trial.point for trial in search.finished()}
        done = {
            name: point
            for name, point in points.items()
            if all(table_path(out, name, seed).is_file() for seed in seeds)
        }
        n_open = len(points) - len(done)
        if search is not None:
            if n_open:
                gone = [name for name in points if name not in done]
                raise BadValueError(
                    f"The study of {str(out)!r} has {len(points)} finished trials, but tables of "
                    f"{list_some(gone)} are gone. Put them back, or choose another --out."
                )
            n_open = search.n_unfinished()
        report = _report(content["name"], space, done, n_open, seeds, rows, out, settings)
        write(report)
    return report


def _do_grid(
    configs: Mapping[str, TrainedConfig], seeds: Sequence[int], out: Path, rows: ScoredRows
) -> None:
    for name, config in configs.items():
        for seed in seeds:
            with claim(table_path(out, name, seed).with_suffix(".trial")) as is_mine:
                if is_mine:
                    run_seed(config, seed, out, name, rows)


def _mean_macro_f1(rows: ScoredRows, labels: NDArray[np.int64]) -> float:
    return float(_class_f1(rows, labels).mean())


def _class_f1(rows: ScoredRows, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return F1 of each seed and class, shape (S, K)."""
    import numpy as np

    from abhinaya.evaluation.metrics import scores

    return np.stack([scores(rows.truth, own, rows.n_classes).f1 for own in labels])


def _report(
    name: str,
    space: Space,
    done: Mapping[str, Point],
    n_open: int,
    seeds: Sequence[int],
    rows: ScoredRows,
    out: Path,
    settings: SweepSettings,
) -> Report:
    """Put every finished trial into a table, the best first; write the files and pictures."""
    from dataclasses import asdict, replace

    import numpy as np

    from abhinaya.data.predictions import read_table
    from abhinaya.evaluation.seeds import compare_seeds, correct, score_seeds
    from abhinaya.pipeline.trials.tables import (
        DIFFERENCE_COLUMNS,
        SCORE_COLUMNS,
        TITLES,
        difference_cells,
        explain,
        score_cells,
    )

    notes = list(rows.notes)
    if n_open:
        notes.append(
            f"{n_open} trials are being computed by other processes, or were left by ones that "
            "were killed. The same command shows them once they are done."
        )
    if not done:
        return Report(f"{name}: no trial is finished", ["trial"], [], notes=tuple(notes), data={})
    labels = {
        trial: rows.labels_of([read_table(table_path(out, trial, seed)) for seed in seeds])
        for trial in done
    }
    given: dict[str, Any] = {"groups": rows.groups, "n_resamples": settings.resamples}
    scores: dict[str, dict[SeedMetric, SeedScore]] = {
        trial: score_seeds(rows.truth, found, rows.n_classes, **given)
        for trial, found in labels.items()
    }
    order = sorted(done, key=lambda trial: -scores[trial]["macro_f1"].mean)
    against = order[0] if settings.against == "best" else next(iter(done))
    others = [trial for trial in order if trial != against]
    compared = correct(
        [
            compare_seeds(rows.truth, labels[trial], labels[against], rows.n_classes, **given)
            for trial in others
        ]
    )
    differences: dict[str, dict[SeedMetric, SeedDifference]] = dict(
        zip(others, compared, strict=True)
    )
    f1 = {trial: _class_f1(rows, found) for trial, found in labels.items()}
    keys = [dimension.key for dimension in space.dimensions]
    difference = f"minus the {settings.against}"
    columns = [*keys, *SCORE_COLUMNS, difference, *DIFFERENCE_COLUMNS]
    tables = [
        Report(
            f"{name}: {title} of {len(done)} trials, {len(seeds)} "
            f"seed{'s' if len(seeds) > 1 else ''} each, on {len(rows.truth)} utterances of "
            f"{', '.join(rows.select)}",
            columns,
            [
                [
                    *(_cell(done[trial][key]) for key in keys),
                    *score_cells(scores[trial][metric]),
                    *difference_cells(differences.get(trial), metric),
                ]
                for trial in order
            ],
        )
        for metric, title in TITLES.items()
    ]
    shares = importances(
        space, list(done.values()), [scores[trial]["macro_f1"].mean for trial in done]
    )
    remark = explain(len(seeds), len(others), rows)
    if settings.against == "best" and others:
        remark += (
            f" The best of {len(done)} was chosen on these very rows, so its score is too good: "
            "score it on others."
        )
    tables[-1] = replace(tables[-1], remark=remark)
    if shares is None and len(keys) > 1:
        notes.append("Importance needs four trials of different scores, so none is shown.")
    if shares is not None:
        shown: list[list[Cell]] = [[key, share] for key, share in shares.items()]
        tables.append(
            Report("Share in the variance of mean macro-F1 (fANOVA)", ["key", "share"], shown)
        )
    files = _write(space, done, order, scores, f1, shares, rows, out)
    first, *more = tables
    return replace(
        first,
        files=files,
        notes=tuple(notes),
        more=tuple(more),
        data={
            "name": name,
            "selection": list(rows.select),
            "n_utts": len(rows.truth),
            "unit": rows.unit,
            "seeds": list(seeds),
            "against": against,
            "n_unfinished": n_open,
            "importance": shares,
            "trials": [
                {
                    "trial": trial,
                    "values": dict(done[trial]),
                    **{key: asdict(value) for key, value in scores[trial].items()},
                    "f1": dict(
                        zip(rows.manifest.emotions.codes, np.mean(f1[trial], axis=0), strict=True)
                    ),
                    "difference": {key: asdict(value) for key, value in differences[trial].items()}
                    if trial in differences
                    else None,
                }
                for trial in order
            ],
        },
    )


def _cell(value: Any) -> Cell:
    # As it would be typed: a learning rate of 3e-5 has four digits of nothing.
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value).strip('"')


def _write(
    space: Space,
    done: Mapping[str, Point],
    order: Sequence[str],
    scores: Mapping[str, Mapping[SeedMetric, SeedScore]],
    f1: Mapping[str, NDArray[np.float64]],
    shares: Mapping[str, float] | None,
    rows: ScoredRows,
    out: Path,
) -> tuple[Path, ...]:
    """Write scores by trial and seed, F1 by trial and class, and pictures; return the files."""
    import numpy as np

    from abhinaya.pipeline.trials.pictures import draw_curves, draw_importances

    keys = [dimension.key for dimension in space.dimensions]
    values = {trial: [_cell(done[trial][key]) for key in keys] for trial in order}
    n_seeds = len(next(iter(f1.values())))
    emotions = rows.manifest.emotions
    files = [out / "points.csv", out / "classes.csv"]
    write_csv(
        files[0],
        ["trial", *keys, "macro_f1", "sd", "low", "high", "accuracy", "each seed's macro_f1"],
        [
            [
                trial,
                *values[trial],
                scores[trial]["macro_f1"].mean,
                scores[trial]["macro_f1"].sd,
                *scores[trial]["macro_f1"].interval,
                scores[trial]["accuracy"].mean,
                " ".join(f"{value:.6f}" for value in scores[trial]["macro_f1"].values),
            ]
            for trial in order
        ],
    )
    write_csv(
        files[1],
        ["trial", *keys, "class", "f1", "sd"],
        [
            [trial, *values[trial], code, f1[trial][:, idx].mean(), _sd(f1[trial][:, idx])]
            for trial in order
            for idx, code in enumerate(emotions.codes)
        ],
    )
    if shares is not None:
        files.append(out / "importance.svg")
        draw_importances(files[-1], shares)
    every = np.concatenate([f1[trial] for trial in order])
    for dimension in space.dimensions:
        found = [done[trial][dimension.key] for trial in order]
        if all(type(value) in (int, float) for value in found) and len(set(found)) > 1:
            files.append(out / f"f1-by-{dimension.key}.svg")
            is_log = isinstance(dimension.values, Range) and dimension.values.log
            at = np.repeat(np.array(found, dtype=np.float64), n_seeds).tolist()
            draw_curves(files[-1], dimension.key, at, every, emotions.names, is_log=is_log)
    return tuple(files)


def _sd(values: NDArray[np.float64]) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None
