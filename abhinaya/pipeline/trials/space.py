"""What a sweep tries, as the command line writes it: `loss.gamma=0,1,2`, `head.dropout=0..0.5`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from abhinaya.config import apply_overrides, parse_yaml
from abhinaya.errors import BadValueError, shorten
from abhinaya.files import digest_of

__all__ = ["Dimension", "Point", "Range", "Space", "place", "read_space"]

Point = Mapping[str, Any]
"""Dotted key -> value."""

_MAX_NAME = 100
_MAX_PROBES = 1_000
_RANGE = re.compile(r"(log:)?([^.,\[\]{}'\"][^,\[\]{}'\"]*?)\.\.(.+)")


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, both included; whole ones if both ends are.

    Args:
        low: the lower end.
        high: the upper end.
        log: whether their logarithm is drawn evenly.
    """

    low: float
    high: float
    log: bool


@dataclass(frozen=True)
class Dimension:
    """A key and what is tried for it."""

    key: str
    values: tuple[Any, ...] | Range

    @property
    def probes(self) -> tuple[Any, ...]:
        """Values to check a config with: all of them, or both ends."""
        if isinstance(self.values, Range):
            return (self.values.low, self.values.high)
        return self.values


@dataclass(frozen=True)
class Space:
    """All that a sweep may try.

    Args:
        overrides: `key=value` changes that all trials share.
        dimensions: what differs.
        seeds: each trial is trained with all of them; None for the config's own.
    """

    overrides: tuple[str, ...]
    dimensions: tuple[Dimension, ...]
    seeds: tuple[int, ...] | None

    def grid(self) -> dict[str, Point]:
        """Return every combination, by a name for its folder; the first values come first.

        Raises:
            BadValueError: if there is a range, of which there are no combinations.
        """
        for dimension in self.dimensions:
            if isinstance(dimension.values, Range):
                raise BadValueError(
                    f"{dimension.key} has a range, of which a grid would never end. List values, "
                    "as in KEY=1,2,3, or search with --search tpe --trials N."
                )
        return {_name(point): point for point in self._combinations()}

    def probes(self) -> dict[str, Point]:
        """Return points to check a config with: each value and end of a range, and combinations."""
        first = {dimension.key: dimension.probes[0] for dimension in self.dimensions}
        alone = [{**first, d.key: value} for d in self.dimensions for value in d.probes]
        together = islice(self._combinations(), _MAX_PROBES)
        return {_name(point): point for point in (*alone, *together)}

    def _combinations(self) -> Iterator[dict[str, Any]]:
        keys = [dimension.key for dimension in self.dimensions]
        for values in product(*(dimension.probes for dimension in self.dimensions)):
            yield dict(zip(keys, values, strict=True))


def place(content: Mapping[str, Any], point: Point) -> dict[str, Any]:
    """Return the keys of a config with those of a point."""
    overrides = [f"{key}={json.dumps(value)}" for key, value in point.items()]
    return apply_overrides(content, overrides)


def read_space(given: Sequence[str]) -> Space:
    """Read KEY=VALUES of a command line.

    Raises:
        BadValueError: if one is not of that form, a key stands twice, nothing varies, a range is
            none, or a seed is no whole number.
    """
    overrides: list[str] = []
    dimensions: list[Dimension] = []
    seeds: tuple[int, ...] | None = None
    known: set[str] = set()
    for text in given:
        key, separator, right = text.partition("=")
        if not separator or not key or not right.strip():
            raise BadValueError(
                f"{text!r} is not of the form KEY=VALUES, such as loss.gamma=0,1,2 or "
                "training.learning_rate=log:1e-6..1e-4."
            )
        if key in known:
            raise BadValueError(f"{key} is given twice. Write all its values in one: {key}=A,B.")
        known.add(key)
        values = _read_values(key, right)
        if key == "seed":
            seeds = _check_seeds(values, text)
        elif key in ("run_dir", "name") and not _is_one(values):
            raise BadValueError(f"{key} cannot be swept: every trial has its own folder in --out.")
        elif _is_one(values):
            overrides.append(text)
        else:
            dimensions.append(Dimension(key, values))
    if not dimensions:
        raise BadValueError(
            "Nothing to sweep: no key has several values. Give some, such as loss.gamma=0,1,2."
        )
    return Space(tuple(overrides), tuple(dimensions), seeds)


def _is_one(values: tuple[Any, ...] | Range) -> bool:
    return not isinstance(values, Range) and len(values) == 1


def _read_values(key: str, text: str) -> tuple[Any, ...] | Range:
    """Return what `1,2`, `1e-6..1e-4` or `log:1e-6..1e-4` means; YAML in any place."""
    if (found := _RANGE.fullmatch(text)) and _is_number(found[2]) and _is_number(found[3]):
        low, high = parse_yaml(found[2]), parse_yaml(found[3])
        log = bool(found[1])
        if not low < high or not math.isfinite(high - low):
            raise BadValueError(f"{key}={text} is no range: {low} is not below {high}.")
        if log and low <= 0:
            raise BadValueError(
                f"{key}={text} begins at {low}, which has no logarithm. Begin above 0, or leave "
                "out log:."
            )
        return Range(low, high, log)
    if text.startswith("log:"):
        raise BadValueError(f"{key}={text} is no range, such as log:1e-6..1e-4.")
    try:
        values = parse_yaml(f"[{text}]")
    except BadValueError:
        return (text,)  # one value, of which the config will say what it thinks
    if not isinstance(values, list) or not values:
        raise BadValueError(f"{key}={text} holds no values, such as {key}=A,B.")
    texts = [json.dumps(value) for value in values]
    if twice := [text for text in texts if texts.count(text) > 1]:
        raise BadValueError(f"{key} has the value {twice[0]} twice. Give each once.")
    return tuple(values)


def _is_number(text: str) -> bool:
    try:
        value = parse_yaml(text)
    except BadValueError:
        return False
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_seeds(values: tuple[Any, ...] | Range, text: str) -> tuple[int, ...]:
    if isinstance(values, Range) or not all(type(seed) is int and seed >= 0 for seed in values):
        raise BadValueError(
            f"{shorten(text)} must list whole numbers, such as seed=1,2,3: scores are means over "
            "seeds, which are not searched."
        )
    return values


def _name(point: Point) -> str:
    """Return a name for the folder of a point; it is the same in any order of other values."""
    texts = [f"{key}-{json.dumps(value)}" for key, value in point.items()]
    name = "_".join(re.sub(r"[^\w.-]+", "", text) for text in texts)
    plain = all(re.fullmatch(r"[\w.-]+", str(value)) for value in point.values())
    if len(name) > _MAX_NAME or not plain:  # something is lost
        name = f"{name[:_MAX_NAME]}-{digest_of(dict(point))[:8]}"
    return name
