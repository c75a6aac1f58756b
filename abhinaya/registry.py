"""Names of members, turned into objects on first use.

This is the only way from the core to `members/`. Listing names imports no model code.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, cast

from abhinaya.errors import AbhinayaError, BadValueError, UnknownNameError

if TYPE_CHECKING:
    from abhinaya.config import MemberConfig
    from abhinaya.member import Member

__all__ = ["ENTRY_POINT_GROUP", "find_config_class", "load_member", "member_names"]

ENTRY_POINT_GROUP = "abhinaya.members"
"""Entry-point group under which other distributions register members: `name = "module:object"`."""


def member_names() -> list[str]:
    """Return the names of all registered members, sorted, those of other distributions included.

    Raises:
        BadValueError: if two sources register one name.
    """
    return sorted(_targets())


def load_member(name: str) -> Member:
    """Return the member registered under `name`.

    Raises:
        UnknownNameError: if there is none; the message gives near matches and all names.
        BadValueError: if what is registered cannot be imported or is not a member.
    """
    targets = _targets()
    if name not in targets:
        raise UnknownNameError("member", name, targets)
    member = _load(targets[name], f"member {name!r}")
    lacking = [part for part in ("config_class", "train", "predict") if not hasattr(member, part)]
    if lacking:
        raise BadValueError(
            f"The member {name!r} registered as {targets[name]!r} has no "
            f"{' and no '.join(lacking)}. "
            "Give the module:object of an object like those in members/."
        )
    return cast("Member", member)


def find_config_class(name: str) -> type[MemberConfig]:
    """Return the config class of a member; of those in members/ without importing their models.

    Raises:
        UnknownNameError: if there is no such member.
        BadValueError: if what is registered cannot be imported or is not a member.
    """
    target = importlib.import_module("members").CONFIGS.get(name)
    if target is None:
        return load_member(name).config_class
    return cast("type[MemberConfig]", _load(target, f"config of the member {name!r}"))


def _targets() -> dict[str, str]:
    targets: dict[str, str] = dict(importlib.import_module("members").MEMBERS)
    for entry in _installed(tuple(sys.path)):
        if targets.get(entry.name, entry.value) != entry.value:
            raise BadValueError(
                f"Two members are registered as {entry.name!r}: {targets[entry.name]!r} and "
                f"{entry.value!r}. Rename one of the two, or uninstall its package."
            )
        targets[entry.name] = entry.value
    return targets


@cache
def _installed(_path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Return the members of other packages; to look for them reads all packages on the path."""
    return tuple(entry_points(group=ENTRY_POINT_GROUP))


def _load(target: str, what: str) -> object:
    try:
        return EntryPoint(name=what, value=target, group=ENTRY_POINT_GROUP).load()
    except AbhinayaError:
        raise  # such as a package that is not installed: its message says what to do
    except (ImportError, AttributeError) as err:
        raise BadValueError(
            f"The {what} is registered as {target!r}, which cannot be imported: {err}."
        ) from err
