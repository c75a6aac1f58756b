"""Errors on the page: a sentence where a command would print one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

import gradio as gr

from abhinaya.errors import AbhinayaError

__all__ = ["in_words"]


@contextmanager
def in_words() -> Iterator[None]:
    """Show what a user can mend as a sentence of ours."""
    try:
        yield
    except (AbhinayaError, OSError) as err:
        said = str(err) if isinstance(err, AbhinayaError) else f"{err.strerror or err}."
        raise gr.Error(
            escape(said, quote=False), duration=None, title="Not done", print_exception=False
        ) from err
