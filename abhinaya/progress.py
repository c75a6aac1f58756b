"""Progress of long work: a bar on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress"]

_logger = logging.getLogger(__name__)


@contextmanager
def progress(
    description: str, total: int, *, shown: bool = True, lines: bool = True
) -> Iterator[Callable[[int], None]]:
    """Return a function to call with the amount of work just done.

    Args:
        description: what is being done, such as "predicting wavlm".
        total: the amount of work in all.
        shown: false in all processes but the main one.
        lines: false where the work logs lines of its own.
    """
    on_terminal = sys.stderr.isatty()
    if not shown or total == 0 or not (on_terminal or lines):
        yield lambda amount: None
    elif on_terminal:
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(description, total=total)
            yield lambda amount: bar.advance(task, amount)
    else:
        done = 0

        def log(amount: int) -> None:
            nonlocal done
            before, done = done, done + amount
            # One line per tenth keeps the log of a night readable.
            if before * 10 // total != done * 10 // total:
                _logger.info("%s: %d of %d", description, done, total)

        yield log
