"""Loops compiled by numba, and threads to run them in. Imported only where they are needed."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeVar, cast

import numba

__all__ = ["compiled", "run_in_threads"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile a function to machine code that runs without the interpreter's lock.

    It is compiled on the first call, for the types of its arguments, and kept on disk where there
    is a folder to write to.
    """
    try:
        return cast("_Function", numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:
        # Neither beside the source nor in the user's home can anything be written.
        return cast("_Function", numba.njit(nogil=True)(function))


def run_in_threads(work: Callable[[int, int], None], n_items: int, n_blocks: int) -> None:
    """Call `work(first, end)` for consecutive blocks of `range(n_items)`, on all cores.

    Args:
        work: a compiled function's caller; anything else would wait for the interpreter's lock.
        n_items: number of items.
        n_blocks: in how many blocks they are cut; a few per core keep all cores busy to the end.
    """
    edges = [n_items * block // n_blocks for block in range(n_blocks + 1)]
    with ThreadPoolExecutor(_n_cores()) as pool:
        for future in [pool.submit(work, first, end) for first, end in pairwise(edges)]:
            future.result()


def _n_cores() -> int:
    """Count the cores that this process may use: on a shared machine not all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
