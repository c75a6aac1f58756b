"""A member's config from a file: the registry says of which class it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abhinaya import registry
from abhinaya.config import (
    MemberConfig,
    apply_overrides,
    check_config,
    load_yaml,
    merge,
)
from abhinaya.errors import MissingFileError, ProblemsError
from abhinaya.member import Member
from abhinaya.registry import load_member, member_names
from abhinaya.resources import find_config
from abhinaya.weight_places import locate_weights, weight_names

__all__ = [
    "check_member_config",
    "find_config_class",
    "find_predictor",
    "load_member_config",
    "read_member_yaml",
]

_CORPORA = {"data.manifest", "data.source"}
"""Keys that name a corpus; a config has one of them."""


def load_member_config(config: str | Path, overrides: Sequence[str] = ()) -> MemberConfig:
    """Return the checked config of a member.

    Args:
        config: a YAML file, or a shipped one such as `members/wavlm.yaml`.
        overrides: `some.key=value` changes; a `data.source` takes the place of the file's manifest,
            and a `data.manifest` that of its source.

    Raises:
        MissingFileError: if there is no such file.
        ProblemsError: with all mistakes in it.
        UnknownNameError: if its member is not registered.
    """
    path = find_config(config)
    content = read_member_yaml(path)
    given = {one.partition("=")[0] for one in overrides} & _CORPORA
    if len(given) == 1 and isinstance(content.get("data"), dict):
        replaced = _CORPORA - given
        data = {
            key: value for key, value in content["data"].items() if f"data.{key}" not in replaced
        }
        content = {**content, "data": data}
    return check_member_config(apply_overrides(content, overrides), str(path))


def read_member_yaml(path: Path) -> dict[str, Any]:
    """Read the keys of a member's YAML; weights, and a table of targets, are found from anywhere.

    A relative path is looked up from the folder of the file, then from the working directory. What
    lies in neither is a hub id, or a mistake that loading will name.

    Raises:
        MissingFileError: if the file is not there.
        ProblemsError: if it is not YAML, or no mapping.
    """
    content = load_yaml(path)
    places, targets = weight_names(content), content.get("targets")
    if isinstance(targets, dict) and isinstance(table := targets.get("table"), str):
        places["targets.table"] = table
    return locate_weights(content, path.parent, places)


def check_member_config(content: Mapping[str, Any], where: str) -> MemberConfig:
    """Check the config of a member in a mapping.

    Args:
        content: keys and values.
        where: the file, for messages.
    """
    kind = find_config_class(content, where)
    data, run_dir = content.get("data"), content.get("run_dir")
    if isinstance(data, dict) and data.get("source") is not None and run_dir is not None:
        prepared = f"{run_dir}-corpus/manifest.parquet"
        if data.get("manifest") not in (None, prepared):
            raise ProblemsError(where, ["data has both a manifest and a source, expected one"])
        content = {**content, "data": {**data, "manifest": prepared}}
    return check_config(content, kind, where)


def find_config_class(content: Mapping[str, Any], where: str) -> type[MemberConfig]:
    """Return the config class of the member that a mapping names.

    Raises:
        ProblemsError: if it names none.
        UnknownNameError: if it names an unregistered one.
    """
    name = content.get("member")
    if not isinstance(name, str):
        found = "missing" if name is None else repr(name)
        raise ProblemsError(
            where, [f"member is {found}, expected one of {', '.join(member_names())}"]
        )
    return registry.find_config_class(name)


def find_predictor(
    source: str | Path, overrides: Sequence[str] = (), manifest: Path | None = None
) -> tuple[Member, Path | MemberConfig]:
    """Return the member that predicts from `source`, and what to hand to its `predict`.

    Args:
        source: a run directory or checkpoint folder, or the config of a member with nothing to
            train.
        overrides: `some.key=value` changes; those of a run are applied by the member.
        manifest: what will be predicted; a config that names no manifest takes it.

    Raises:
        MissingFileError: if it is neither.
    """
    path = Path(source)
    if not path.is_dir():
        file = find_config(source)
        content = apply_overrides(read_member_yaml(file), overrides)
        if manifest is not None:
            content = merge({"data": {"manifest": str(manifest)}}, content)
        config = check_member_config(content, str(file))
        return load_member(config.member), config
    for file in (path / "best" / "config.yaml", path / "config.yaml"):
        name = load_yaml(file).get("member") if file.is_file() else None
        if isinstance(name, str):
            return load_member(name), path
    raise MissingFileError(
        f"{str(path)!r} is no run directory: it has no config.yaml with a member. "
        "Name the folder that abhinaya train wrote."
    )
