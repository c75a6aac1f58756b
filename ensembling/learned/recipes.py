"""Rules that learn from labelled tables, and the recipe file that keeps what they learned."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.labels import EmotionSet
from abhinaya.errors import BadValueError, MissingFileError, UnknownNameError
from abhinaya.files import digest_of, read_json, write_text
from ensembling.aligned import AlignedTables
from ensembling.voting.soft_votes import pick_classes

__all__ = [
    "Fused",
    "LearnedRule",
    "Recipe",
    "fuse",
    "read_choice",
    "read_options",
    "read_recipe",
    "write_recipe",
]

_VERSION = 1
_KEYS = ("rule", "tables", "emotions", "parameters", "options", "facts", "fitted_on")


@dataclass(frozen=True, eq=False)
class Fused:
    """What a rule makes of aligned tables.

    Args:
        labels: class index per utterance, shape (U,); `ABSTAIN` where nothing can be said.
        probs: class probabilities, shape (U, K), with NaN rows where there are none; None for a
            rule that gives only labels.
    """

    labels: NDArray[np.int64]
    probs: NDArray[np.float64] | None = None


class LearnedRule(Protocol):
    """A rule whose parameters come from labelled data.

    `fit` sees labelled utterances only; `apply` any. The parameters go through JSON in between, so
    they are made of dictionaries, lists, strings, finite numbers, booleans and None.
    """

    @property
    def name(self) -> str:
        """Return what the command line calls the rule."""

    def fit(
        self,
        aligned: AlignedTables,
        truth: NDArray[np.int64],
        speakers: Sequence[str | None],
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Fit the parameters to the data.

        Args:
            aligned: what the members say about U utterances.
            truth: true class indices, shape (U,), values in [0, K).
            speakers: speaker of each utterance, None where unknown.
            options: the rule's settings; see `read_options`. `seed` is one of them if the rule
                draws random numbers.

        Raises:
            UnknownNameError: if an option is not one of the rule's.
            BadValueError: if an option's value is wrong, or the tables lack what the rule needs.
        """

    def apply(
        self, parameters: Mapping[str, Any], aligned: AlignedTables, speakers: Sequence[str | None]
    ) -> Fused:
        """Apply the rule with those parameters.

        Args:
            parameters: what `fit` returned, for the same members in the same order.
            aligned: what these members say about U utterances.
            speakers: speaker of each utterance, None where unknown.

        Raises:
            BadValueError: if the tables lack what the rule needs.
        """


@dataclass(frozen=True)
class Recipe:
    """A fitted rule, ready for other tables.

    Args:
        rule: name of the rule.
        tables: names of the tables it was fitted on, in order.
        emotions: the classes and their order.
        parameters: what the rule learned.
        options: settings of the fit.
        facts: rows, speakers and folds of the fit, cross-fitted macro-F1 of the rule and of the
            plain vote with their intervals, the tables in whose order that vote's ties were
            settled, version.
        fitted_on: digests of the utterances that the parameters were fitted on, sorted.
    """

    rule: str
    tables: tuple[str, ...]
    emotions: EmotionSet
    parameters: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    fitted_on: tuple[str, ...] = ()


def fuse(scores: NDArray[np.float64], aligned: AlignedTables) -> Fused:
    """Turn scores into labels and probabilities, an abstention where all members abstained.

    Args:
        scores: not negative, shape (U, K); what stands in a row on which all members abstained is
            ignored.
        aligned: what the members say; ties go to the first of them that named a tied class.
    """
    has_any = np.asarray(aligned.has_voted.any(axis=0))
    result = pick_classes(np.where(has_any[:, None], scores, 0.0), aligned.labels)
    probs = result.shares.copy()
    probs[result.all_abstained] = np.nan
    return Fused(result.labels, probs)


def read_options(
    rule: str, options: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Complete the settings of a rule: those given, and the defaults of the others.

    Args:
        rule: the rule's name, for messages.
        options: settings given.
        defaults: every setting that the rule has. A value must be of its default's type; a whole
            number is also a fraction.

    Raises:
        UnknownNameError: if the rule has no such option.
        BadValueError: if a value is of another type.

    Example:
        >>> read_options("stacking", {"C": 2}, {"C": 1.0, "model": "logistic"})
        {'C': 2.0, 'model': 'logistic'}
    """
    settings = dict(defaults)
    for key, value in options.items():
        if key not in defaults:
            raise UnknownNameError(f"option of the rule {rule!r}", key, defaults)
        wanted = type(defaults[key])
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if wanted is float and is_whole:
            value = float(value)
        if type(value) is not wanted or (wanted is float and not np.isfinite(value)):
            raise BadValueError(
                f"The option {key} of the rule {rule!r} is {value!r}, expected a value like "
                f"{defaults[key]!r}. Give it as --option {key}={defaults[key]}."
            )
        settings[key] = value
    return settings


def read_choice(rule: str, key: str, value: str, choices: Sequence[str]) -> str:
    """Check the value of an option that has a closed list of values.

    Raises:
        UnknownNameError: if it is none of them.
    """
    if value not in choices:
        raise UnknownNameError(f"value of the option {key} of the rule {rule!r}", value, choices)
    return value


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe as JSON, whole or not at all; the same recipe gives the same bytes.

    Raises:
        BadValueError: if the path does not end in .json, or a number is not finite.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise BadValueError(f"The recipe {str(path)!r} must end in .json.")
    stored = {
        "kind": "recipe",
        "version": _VERSION,
        "rule": recipe.rule,
        "tables": list(recipe.tables),
        "emotions": json.loads(recipe.emotions.to_json()),
        "parameters": dict(recipe.parameters),
        "options": dict(recipe.options),
        "facts": dict(recipe.facts),
        "fitted_on": list(recipe.fitted_on),
    }
    try:
        # One key per line, its value on it: readable, and a forest does not fill a million lines.
        lines = [
            f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
            for key, value in stored.items()
        ]
        written = json.loads("{" + ",".join(lines) + "}")
        lines.append(f'"digest": "{digest_of(written)}"')
    except ValueError as err:
        raise BadValueError(
            f"The rule {recipe.rule!r} learned a number that is not finite, so the recipe "
            f"{str(path)!r} was not written: {err}. Check the probabilities of the tables."
        ) from err
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def read_recipe(path: Path) -> Recipe:
    """Read the recipe at `path`.

    Raises:
        MissingFileError: if the file is not there.
        BadValueError: if it is no recipe, or one of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(
            f"There is no recipe {str(path)!r}. Make one with: "
            "abhinaya fit RULE TABLE ... --manifest M --out RECIPE."
        )
    stored = read_json(path)
    if not isinstance(stored, dict) or stored.get("kind") != "recipe":
        raise BadValueError(
            f"{str(path)!r} is a JSON file but not a recipe. Make one with: "
            "abhinaya fit RULE TABLE ... --manifest M --out RECIPE."
        )
    if stored.get("version") != _VERSION:
        raise BadValueError(
            f"The recipe {str(path)!r} has version {stored.get('version')!r}, expected "
            f"{_VERSION}. Fit it again with this version of abhinaya."
        )
    missing = [key for key in _KEYS if key not in stored]
    if missing:
        raise BadValueError(f"The recipe {str(path)!r} lacks {', '.join(missing)}. Fit it again.")
    emotions = EmotionSet.from_json(
        json.dumps(stored["emotions"]), where=f"emotions of {str(path)!r}"
    )
    # Whatever a rule learned can be anything; it is not checked but known to be as it was written.
    if "digest" in stored and stored.pop("digest") != digest_of(stored):
        raise BadValueError(
            f"The recipe {str(path)!r} is not as it was written. Copy or fit it again; if you have "
            "changed it on purpose, remove its key digest."
        )
    return Recipe(
        rule=stored["rule"],
        tables=tuple(stored["tables"]),
        emotions=emotions,
        parameters=stored["parameters"],
        options=stored["options"],
        facts=stored["facts"],
        fitted_on=tuple(stored["fitted_on"]),
    )
