"""How long a model of a prediction stays loaded."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

__all__ = ["keep_loaded", "load_once"]

_ValueT = TypeVar("_ValueT")

# None: every prediction loads its model and lets go of it, so that what comes next has the memory.
_kept: dict[str, object] | None = None
_keeps_several = False


@contextmanager
def keep_loaded(kept: dict[str, object] | None = None, *, several: bool = False) -> Iterator[None]:
    """Keep a model loaded within the block, until another one is needed; or all of several.

    Args:
        kept: where, for a caller who wants it beyond the block.
        several: also those loaded before.
    """
    global _kept, _keeps_several
    before = _kept, _keeps_several
    _kept, _keeps_several = {} if kept is None else kept, several
    try:
        yield
    finally:
        _kept, _keeps_several = before
        gc.collect()


def load_once(key: str, load: Callable[[], _ValueT]) -> _ValueT:
    """Return what `load` gives, or within `keep_loaded` gave the last time for this key."""
    if _kept is None:
        return load()
    if key not in _kept:
        if not _keeps_several:
            _kept.clear()  # first, because memory may not hold two
            gc.collect()
        _kept[key] = load()
    return cast("_ValueT", _kept[key])
