"""Models of their full sizes without memory for their weights, to compute what they would need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["builds_skeletons", "skeletons"]

_is_on = ContextVar("skeletons", default=False)


@contextmanager
def skeletons() -> Iterator[None]:
    """Let whoever loads published weights within the block build their model on the meta device.

    The files' config is read, and none of their weights. What is small may be loaded all the same.
    """
    token = _is_on.set(True)
    try:
        yield
    finally:
        _is_on.reset(token)


def builds_skeletons() -> bool:
    """Tell whether models are to be built without memory for their weights."""
    return _is_on.get()
