"""Models in this process: which weights a folder holds, and how long a model stays loaded."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

__all__ = ["fingerprint", "keep_loaded", "load_once"]

_ValueT = TypeVar("_ValueT")

_LOOKED_AT = 65_536

# Null: every prediction loads its model and lets go of it, so that what comes next has the memory.
_kept: dict[str, object] | None = None


def fingerprint(base: str) -> str:
    """Return `@` and 12 hexadecimal digits that mark the weights in a folder; "" for a hub id.

    Answers of a model that was trained further, in the same folder, must not pass for the new
    one's. The mark is made of names, sizes, beginnings and ends of all files: 140 GB cost no time,
    and training moves every matrix.
    """
    folder = Path(base)
    if not folder.is_dir():
        return ""
    found = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if not file.is_file():
            continue
        size = file.stat().st_size
        with file.open("rb") as stream:
            begin = stream.read(_LOOKED_AT)
            stream.seek(max(0, size - _LOOKED_AT))
            end = stream.read()
        found.update(f"{file.name} {size} ".encode() + begin + end)
    return f"@{found.hexdigest()[:12]}"


@contextmanager
def keep_loaded() -> Iterator[None]:
    """Keep a model loaded within the block, until another one is needed."""
    global _kept
    before, _kept = _kept, {}
    try:
        yield
    finally:
        _kept = before
        gc.collect()


def load_once(key: str, load: Callable[[], _ValueT]) -> _ValueT:
    """Return what `load` gives, or within `keep_loaded` gave the last time for this key."""
    if _kept is None:
        return load()
    if key not in _kept:
        _kept.clear()  # first, because memory may not hold two
        gc.collect()
        _kept[key] = load()
    return cast("_ValueT", _kept[key])
