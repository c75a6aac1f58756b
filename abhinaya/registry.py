"""Names of members, tools and fusion rules, turned into objects on first use.

This is the only way from the core to `members/` and `ensembling/`. Listing names imports no model
code.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, cast

from abhinaya.errors import AbhinayaError, BadValueError, UnknownNameError

if TYPE_CHECKING:
    from abhinaya.member import Member

__all__ = ["ENTRY_POINT_GROUP", "load_member", "load_rule", "load_tool", "member_names"]

ENTRY_POINT_GROUP = "abhinaya.members"
"""Entry-point group under which other distributions register members: `name = "module:object"`."""


def member_names() -> list[str]:
    """Names of all registered members, sorted, those of other distributions included.

    Raises:
        BadValueError: if two sources register one name.
    """
    return sorted(_targets())


def load_member(name: str) -> Member:
    """The member registered under `name`.

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


def load_rule(name: str) -> Callable[..., Any]:
    """The fusion rule registered under `name` in `ensembling`.

    Raises:
        UnknownNameError: if there is none.
    """
    rules = importlib.import_module("ensembling").RULES
    if name not in rules:
        raise UnknownNameError("rule", name, rules)
    return cast("Callable[..., Any]", _load(rules[name], f"rule {name!r}"))


def load_tool(name: str) -> Callable[..., Any]:
    """The function registered under `name` in `members`, for a command that no single member owns.

    Raises:
        UnknownNameError: if there is none.
        BadValueError: if what is registered cannot be imported.
    """
    tools = importlib.import_module("members").TOOLS
    if name not in tools:
        raise UnknownNameError("tool", name, tools)
    return cast("Callable[..., Any]", _load(tools[name], f"tool {name!r}"))


def _targets() -> dict[str, str]:
    targets: dict[str, str] = dict(importlib.import_module("members").MEMBERS)
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if targets.get(entry.name, entry.value) != entry.value:
            raise BadValueError(
                f"Two members are registered as {entry.name!r}: {targets[entry.name]!r} and "
                f"{entry.value!r}. Rename one of the two, or uninstall its package."
            )
        targets[entry.name] = entry.value
    return targets


def _load(target: str, what: str) -> object:
    try:
        return EntryPoint(name=what, value=target, group=ENTRY_POINT_GROUP).load()
    except AbhinayaError:
        raise  # such as a package that is not installed: its message says what to do
    except (ImportError, AttributeError) as err:
        raise BadValueError(
            f"The {what} is registered as {target!r}, which cannot be imported: {err}."
        ) from err
