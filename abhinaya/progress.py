"""Progress of long work: a bar on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["duration_text", "is_quiet", "paused", "progress", "progress_of_steps"]

_logger = logging.getLogger(__name__)

_shown: list[Progress] = []
"""The bars on the screen: a terminal has room for one display, which work within work shares."""


def is_quiet() -> bool:
    """Return whether --quiet was given: messages below warnings were switched off."""
    return logging.getLogger("abhinaya").level > logging.INFO


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
    if not shown or total == 0 or is_quiet() or not (on_terminal or lines):
        yield lambda amount: None
    elif on_terminal:
        with _display() as bars:
            task = bars.add_task(description, total=total)
            try:
                yield lambda amount: bars.advance(task, amount)
            finally:
                if len(_shown) > 1:
                    bars.remove_task(task)
    else:
        done = 0

        def log(amount: int) -> None:
            nonlocal done
            before, done = done, done + amount
            # One line per tenth keeps the log of a night readable.
            if before * 10 // total != done * 10 // total:
                _logger.info("%s: %d of %d", description, done, total)

        yield log


@contextmanager
def progress_of_steps(n_steps: int) -> Iterator[Callable[[str, int, float | None], None]]:
    """Return a function to call when a step begins; its bar stands below those of the step.

    It takes what is done now, how many steps are done and the seconds that all others will take,
    None where nobody knows. Without a terminal nothing is shown.
    """
    if n_steps == 0 or is_quiet() or not sys.stderr.isatty():
        yield lambda text, n_done, left_s: None
        return
    with _display() as bars:
        task = bars.add_task("", total=n_steps, ends_at=None)

        def begin(text: str, n_done: int, left_s: float | None) -> None:
            ends_at = None if left_s is None else time.monotonic() + left_s
            now = f"step {min(n_done + 1, n_steps)} of {n_steps}: {text}"
            bars.update(task, description=now, completed=n_done, ends_at=ends_at)

        yield begin


@contextmanager
def paused() -> Iterator[None]:
    """Take bars off the screen while something is printed, or another process has bars."""
    for bars in _shown[:1]:
        bars.stop()
    try:
        yield
    finally:
        for bars in _shown[:1]:
            bars.start()


@contextmanager
def _display() -> Iterator[Progress]:
    if _shown:
        _shown.append(_shown[0])
        try:
            yield _shown[0]
        finally:
            _shown.pop()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            is_known = task.speed and "ends_at" not in task.fields
            return Text(f"{task.speed:.3g}/s" if is_known else "")

    class Left(ProgressColumn):
        def render(self, task: Task) -> Text:
            left_s: Any = task.time_remaining
            if "ends_at" in task.fields:
                ends_at = task.fields["ends_at"]
                left_s = None if ends_at is None else max(0.0, ends_at - time.monotonic())
            return Text("" if left_s is None else f"{duration_text(left_s)} left")

    # What is printed goes where it belongs, even if only one of the two outputs is the screen.
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        Rate(),
        Left(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
    ) as bars:
        _shown.append(bars)
        try:
            yield bars
        finally:
            _shown.pop()


def duration_text(seconds: float) -> str:
    """Return a time as people say it.

    Example:
        >>> [duration_text(seconds) for seconds in (0.4, 75, 7_500, 200_000)]
        ['0 s', '1 min 15 s', '2 h 5 min', '2 d 7 h']
    """
    whole = round(seconds)
    for unit, below, n_seconds in (("d", "h", 86_400), ("h", "min", 3_600), ("min", "s", 60)):
        if whole >= n_seconds:
            rest = whole % n_seconds // {"h": 3_600, "min": 60, "s": 1}[below]
            return f"{whole // n_seconds} {unit} {rest} {below}"
    return f"{whole} s"
