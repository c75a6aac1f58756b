"""Kills at an exact moment: the n-th time that a process is about to change its folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from abhinaya import files

__all__ = ["KilledError", "count_changes", "killed_at", "listing"]

_CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "open")


class KilledError(BaseException):
    """Nothing may catch it, as nothing catches SIGKILL."""


class _Killer:
    """Counts changes below a folder, and fails at one of them and at all that follow."""

    root: str | None = None
    at = 0
    n_seen = 0

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.root is None or event not in _CHANGES:
            return
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR):
            return
        # Where a folder is deleted, names are relative to it.
        path = str(args[0])
        if os.path.isabs(path) and not path.startswith(self.root):
            return
        self.n_seen += 1
        if self.at and self.n_seen >= self.at:
            raise KilledError


_killer = _Killer()
sys.addaudithook(_killer)


@contextmanager
def _watching(root: Path, at: int) -> Iterator[_Killer]:
    _killer.root, _killer.at, _killer.n_seen = str(root), at, 0
    try:
        yield _killer
    finally:
        _killer.root = None
        files._leave_locks()  # as the death of a process does


@contextmanager
def killed_at(root: Path, number: int) -> Iterator[None]:
    """Kill what a block does before its n-th change below a folder; it tidies nothing up."""
    with _watching(root, number):
        try:
            yield
        except KilledError:
            return
    raise AssertionError(f"there are fewer than {number} changes")


@contextmanager
def count_changes(root: Path) -> Iterator[list[int]]:
    """Count the changes of a block; the list has their number behind it."""
    counted: list[int] = []
    with _watching(root, 0) as killer:
        yield counted
    counted.append(killer.n_seen)


def listing(folder: Path) -> set[str]:
    """All files and folders below a folder, hidden ones too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
