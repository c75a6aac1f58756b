"""Ablate a recipe: a member is trained with and without each switch of its config, over seeds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from abhinaya.config import apply_overrides, config_digest
from abhinaya.errors import BadValueError, UnknownNameError
from abhinaya.files import sole_outputs, write_csv
from abhinaya.pipeline.report import Cell, Report
from abhinaya.pipeline.stages.settings import Settings
from abhinaya.pipeline.trials.variants import (
    ScoredRows,
    check_variants,
    find_rows_to_score,
    read_content,
    run_seed,
)
from abhinaya.processes import is_main_process

if TYPE_CHECKING:
    from abhinaya.evaluation.seeds import SeedDifference, SeedMetric, SeedScore

__all__ = ["AblateRecipeSettings", "run_ablate_recipe"]

_ALL, _BARE = "everything", "nothing"
# A comma that is not inside brackets, as in loss.class_weights=[1,2].
_COMMA = re.compile(r",(?![^\[{]*[\]}])")


class AblateRecipeSettings(Settings):
    """Which keys are switches, and how they are judged."""

    switch: tuple[str, ...] = Field(default=(), json_schema_extra={"metavar": "KEY[=VALUE],..."})
    """Keys of the config, such as mixing,loss.gamma=0; without one means its default, or VALUE."""
    seeds: tuple[str, ...] = Field(default=("1", "2", "3"), json_schema_extra={"metavar": "N,..."})
    """Seeds that every recipe is trained with."""
    select: tuple[str, ...] = Field(default=(), json_schema_extra={"metavar": "SELECTION"})
    """Split or subset to score, by default data.validation; repeat to add another."""
    add: bool = False
    """Also train without all switches, and with each one alone."""
    by_speaker: bool = False
    """Take speakers for independent, not utterances."""
    resamples: int = Field(default=10_000, ge=1)
    """Bootstrap resamples behind each interval, and random assignments behind each test."""

    @field_validator("switch", "seeds", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        given = (value,) if isinstance(value, str | int) else value
        return tuple(part.strip() for entry in given for part in _COMMA.split(str(entry)))

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, values in (("switch", self.switch), ("seeds", self.seeds)):
            if not all(values) or not values:
                raise ValueError(f"{name} names none; give --{name} A,B")
            if twice := sorted({value for value in values if values.count(value) > 1}):
                raise ValueError(f"{name} names {twice[0]!r} more than once")
        if wrong := [seed for seed in self.seeds if not seed.isdecimal()]:
            raise ValueError(f"seeds has {wrong[0]!r}, expected whole numbers such as 1,2,3")
        if self.add and len(self.switch) == 1:
            raise ValueError("add needs several switches: with one, all but one is none")
        return self


@sole_outputs("out")
def run_ablate_recipe(
    config: str | Path, overrides: Sequence[str], out: Path, settings: AblateRecipeSettings
) -> Report:
    """Say what each switch of a config brings, and write it to `recipes.csv` and `seeds.csv`.

    Below `out` is one folder for each recipe with a run and a table for each seed. What is finished
    there is not computed again. All recipes are checked before the first is trained. Every process
    of a launch calls this.

    Args:
        config: the member's YAML, with all switches on.
        overrides: `key=value` changes of it.
        out: the folder.
        settings: the switches.

    Raises:
        BadValueError: if a switch changes nothing, or nothing can be trained or scored.
        UnknownNameError: if a switch is no key.
        ProblemsError: if a recipe is no config of the member.
    """
    from abhinaya.evaluation.seeds import compare_seeds, correct, score_seeds

    content, where = read_content(config, overrides)
    recipes = list(_recipes(content, settings, where))
    contents = dict(recipes)
    if len(contents) < len(recipes):
        raise BadValueError(
            f"Two switches of {', '.join(settings.switch)} would have the same folder. Take one "
            "out of --switch."
        )
    configs = check_variants(contents, where)
    _refuse_idle(configs, content, settings, where)
    rows = find_rows_to_score(
        list(configs.values()), settings.select, by_speaker=settings.by_speaker
    )
    seeds = [int(seed) for seed in settings.seeds]
    labels = {
        name: rows.labels_of([run_seed(own, seed, out, name, rows) for seed in seeds])
        for name, own in configs.items()
    }
    given: dict[str, Any] = {"groups": rows.groups, "n_resamples": settings.resamples}
    scores = {
        name: score_seeds(rows.truth, found, rows.n_classes, **given)
        for name, found in labels.items()
    }
    pairs = {
        name: (_ALL, name) if name.startswith("without-") else (name, _BARE)
        for name in configs
        if name not in (_ALL, _BARE)
    }
    compared = correct(
        [
            compare_seeds(rows.truth, labels[own], labels[other], rows.n_classes, **given)
            for own, other in pairs.values()
        ]
    )
    brings = dict(zip(pairs, compared, strict=True))
    return _report(content["name"], scores, brings, rows, out, settings)


def _recipes(
    content: Mapping[str, Any], settings: AblateRecipeSettings, where: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and keys of each recipe: all switches, all but one, none, one alone."""
    whole = apply_overrides(content, ())
    yield _ALL, whole
    for switch in settings.switch:
        yield f"without-{_short(switch)}", _without(whole, (switch,), where)
    if settings.add:
        yield _BARE, _without(whole, settings.switch, where)
        for switch in settings.switch:
            others = tuple(other for other in settings.switch if other != switch)
            yield f"only-{_short(switch)}", _without(whole, others, where)


def _short(switch: str) -> str:
    return re.sub(r"[^\w.-]+", "-", switch).strip("-")


def _without(content: dict[str, Any], switches: Sequence[str], where: str) -> dict[str, Any]:
    """Return a config less some switches; what they share is as the last of them says."""
    result = apply_overrides(content, [switch for switch in switches if "=" in switch])
    for switch in switches:
        if "=" in switch:
            continue
        *outer, last = switch.split(".")
        place: Any = result
        for key in outer:
            place = place.get(key) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            _refuse_unset(switch, content, where)
        del place[last]
    return result


def _refuse_unset(switch: str, content: Mapping[str, Any], where: str) -> None:
    """Say whether a switch that a config does not set is a key at all."""
    (own,) = check_variants({_ALL: content}, where).values()
    known = list(_keys(own))
    if switch not in known:
        raise UnknownNameError(f"key of {where!r} to switch", switch, known)
    raise BadValueError(
        f"The switch {switch!r} is not set by {where!r}: it has its default already, so to "
        f"take it out changes nothing. Set it with {switch}=VALUE after the config, or "
        f"say what it is without, as in --switch {switch}=VALUE."
    )


def _keys(config: BaseModel, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a config, also those that are not written where they are unset."""
    for key in (*type(config).model_fields, *(config.model_extra or {})):
        yield f"{prefix}{key}"
        if isinstance(value := getattr(config, key), BaseModel):
            yield from _keys(value, f"{prefix}{key}.")


def _refuse_idle(
    configs: Mapping[str, Any],
    content: Mapping[str, Any],
    settings: AblateRecipeSettings,
    where: str,
) -> None:
    """Refuse switches that change nothing, or what every recipe has of its own."""
    for switch in settings.switch:
        key = switch.partition("=")[0]
        if key in ("seed", "run_dir", "name"):
            raise BadValueError(
                f"{key} is no switch: every run has its own. Take out {key} from --switch."
            )
        without = configs[f"without-{_short(switch)}"]
        if config_digest(without) == config_digest(configs[_ALL]):
            raise BadValueError(
                f"The switch {switch!r} changes nothing: {where!r} with it and without it are the "
                f"same, because {key} has that value already, its default. Take it out from "
                "--switch, or state another value."
            )


def _report(
    name: str,
    scores: Mapping[str, Mapping[SeedMetric, SeedScore]],
    brings: Mapping[str, Mapping[SeedMetric, SeedDifference]],
    rows: ScoredRows,
    out: Path,
    settings: AblateRecipeSettings,
) -> Report:
    """Put what each switch brings into a table for each metric, and write the files."""
    from dataclasses import asdict, replace

    from abhinaya.pipeline.trials.tables import (
        DIFFERENCE_COLUMNS,
        SCORE_COLUMNS,
        TITLES,
        difference_cells,
        explain,
        score_cells,
    )

    n_seeds = len(settings.seeds)
    tables = []
    for metric, title in TITLES.items():
        cells: list[list[Cell]] = [
            [recipe, *score_cells(found[metric]), *difference_cells(brings.get(recipe), metric)]
            for recipe, found in scores.items()
        ]
        tables.append(
            Report(
                f"{name}: {title} of {n_seeds} seeds on {len(rows.truth)} utterances of "
                f"{', '.join(rows.select)}",
                ["recipe", *SCORE_COLUMNS, "switch brings", *DIFFERENCE_COLUMNS],
                cells,
            )
        )
    files = (out / "recipes.csv", out / "seeds.csv")
    if is_main_process():
        columns = ["recipe", "metric", *SCORE_COLUMNS, "switch brings", *DIFFERENCE_COLUMNS]
        write_csv(
            files[0],
            columns,
            [
                [row[0], metric, *row[1:]]
                for metric, table in zip(TITLES, tables, strict=True)
                for row in table.rows
            ],
        )
        write_csv(
            files[1],
            ["recipe", "seed", *TITLES],
            [
                [recipe, seed, *(found[metric].values[idx] for metric in TITLES)]
                for recipe, found in scores.items()
                for idx, seed in enumerate(settings.seeds)
            ],
        )
    first, second = tables
    return replace(
        first,
        files=files,
        notes=rows.notes,
        more=(replace(second, remark=explain(n_seeds, len(brings), rows)),),
        data={
            "name": name,
            "selection": list(rows.select),
            "n_utts": len(rows.truth),
            "unit": rows.unit,
            "seeds": [int(seed) for seed in settings.seeds],
            "recipes": [
                {
                    "recipe": recipe,
                    **{key: asdict(value) for key, value in found.items()},
                    "brings": {key: asdict(value) for key, value in brings[recipe].items()}
                    if recipe in brings
                    else None,
                }
                for recipe, found in scores.items()
            ],
        },
    )
