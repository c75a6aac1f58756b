"""What a shell proposes where a command wants a config or the name of a rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = [
    "COMPLETIONS",
    "complete_any",
    "complete_audit",
    "complete_chain",
    "complete_member",
    "complete_rule",
]


def complete_member(incomplete: str) -> list[str]:
    """Return configs of members, shipped and one's own, that begin like this."""
    return _complete(incomplete, ("members", "corpora", "demo"))


def complete_chain(incomplete: str) -> list[str]:
    """Return configs of chains, shipped and one's own, that begin like this."""
    return _complete(incomplete, ("ensemble", "demo"))


def complete_any(incomplete: str) -> list[str]:
    """Return configs of members and chains, shipped and one's own, that begin like this."""
    return _complete(incomplete, ("members", "corpora", "ensemble", "demo"))


def complete_audit(incomplete: str) -> list[str]:
    """Return configs of audits, shipped and one's own, that begin like this."""
    return _complete(incomplete, ("audit",))


def complete_rule(incomplete: str) -> list[str]:
    """Return the rules of fusion to be learned that begin like this."""
    from ensembling.learned.rules import LEARNED

    return [name for name in LEARNED if name.startswith(incomplete)]


COMPLETIONS: Mapping[str, Callable[[str], list[str]]] = {"RULE": complete_rule}
"""Of settings, by their metavar."""


def _complete(incomplete: str, folders: tuple[str, ...]) -> list[str]:
    from abhinaya.resources import configs_dir

    root = configs_dir()
    shipped = [
        str(path.relative_to(root)) for name in folders for path in (root / name).glob("*.yaml")
    ]
    own = [f"{path}/" if path.is_dir() else str(path) for path in Path().glob(f"{incomplete}*")]
    found = [name for name in sorted(shipped) if name.startswith(incomplete)]
    return found + sorted(name for name in own if name.endswith(("/", ".yaml")))
