"""Named combinations of members, such as those of a paper's table, from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field

from abhinaya.config import Config, check_config, load_yaml
from abhinaya.errors import ProblemsError
from abhinaya.resources import find_config

__all__ = ["CombinationsConfig", "check_combinations", "read_combinations"]


class CombinationsConfig(Config):
    """Which members vote together, under which name."""

    combinations: dict[str, tuple[str, ...]] = Field(min_length=1)
    """Names of tables for each name of a combination."""


def read_combinations(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Read names of tables by name of the combination, in the order of the file.

    Args:
        path: a YAML file, or a shipped one such as `ensemble/combinations.yaml`.

    Raises:
        MissingFileError: if there is no such file.
        ProblemsError: if it is not such a YAML file.
    """
    found = find_config(path)
    return check_config(load_yaml(found), CombinationsConfig, str(found)).combinations


def check_combinations(combinations: Mapping[str, Sequence[str]], names: Sequence[str]) -> None:
    """Refuse combinations that the tables at hand cannot form.

    Args:
        combinations: names of tables by name of the combination.
        names: names of the tables there are.

    Raises:
        ProblemsError: with every combination that is empty, repeats a table or names one that is
            not there.
    """
    problems = []
    for combination, members in combinations.items():
        if not members:
            problems.append(f"the combination {combination!r} has no tables")
        for member in dict.fromkeys(members):
            if member not in names:
                problems.append(
                    f"the combination {combination!r} names {member!r}, expected one of the tables "
                    f"{', '.join(names)}; a table is renamed with NAME=TABLE"
                )
            if list(members).count(member) > 1:
                problems.append(
                    f"the combination {combination!r} names {member!r} more than once, expected "
                    "each table once"
                )
    if problems:
        raise ProblemsError("the combinations", problems)
