"""Signals that ask a command to stop, so that the same command may go on later.

SIGTERM comes from schedulers and `kill`, SIGUSR1 and SIGUSR2 from SLURM's `--signal=USR1@120`.
A command stops at once: what is finished stays, temporary files go. Within `deferred` it first
finishes what it does. A second signal, some seconds later, ends the process without more ado.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

__all__ = [
    "EXIT_CODE",
    "Interruption",
    "deferred",
    "heeding_signals",
    "is_asked_to_stop",
    "outlast_signals",
    "run_and_pass_on",
]

EXIT_CODE = 143
"""128 + SIGTERM, whichever signal it was. It is what a shell reports of a process that had no time
for more, so one rule of a scheduler (requeue on 143) covers both."""

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

# A scheduler signals every process of a job, and a launcher passes its own signal on: two arrive.
_ECHO_S = 3.0


class Interruption(BaseException):
    """A signal asked the process to stop. Like KeyboardInterrupt it is no error of anybody's."""


_asked_at: float | None = None
_actions: list[Callable[[], object]] = []


def is_asked_to_stop() -> bool:
    """Return True once a signal has come."""
    return _asked_at is not None


@contextmanager
def heeding_signals() -> Iterator[None]:
    """Make the signals raise `Interruption` in the main thread during a block."""
    global _asked_at
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked_at = None


def _stop(number: int, frame: FrameType | None) -> None:
    global _asked_at
    del frame
    now = time.monotonic()
    if _asked_at is not None:
        if now - _asked_at > _ECHO_S:
            os._exit(EXIT_CODE)
        return
    _asked_at = now
    if not _actions:
        raise Interruption(signal.Signals(number).name)
    for action in _actions:
        action()


@contextmanager
def deferred(action: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Wait for the end of a block, however long it takes, before raising `Interruption`.

    Args:
        action: called when the signal comes.
    """
    _actions.append(action)
    try:
        yield
    finally:
        _actions.remove(action)
    if is_asked_to_stop() and not _actions:
        raise Interruption


def outlast_signals(is_left: Callable[[], bool]) -> None:
    """Keep a process that works for another one, such as a reader of audio, from stopping first.

    Args:
        is_left: returns True once the other one leaves; SIGTERM, by which Python ends the processes
            that it leaves behind, then ends this one.
    """

    def heed(*_: object) -> None:
        if is_left():
            os._exit(0)  # torch would complain of any other code

    for number in _SIGNALS:
        signal.signal(number, heed if number == signal.SIGTERM else signal.SIG_IGN)


def run_and_pass_on(command: Sequence[str], env: Mapping[str, str] | None = None) -> int:
    """Run a command to its end and return its exit code.

    A signal goes on to it, as SIGTERM; once it has ended, `Interruption` is raised.
    """
    started: list[subprocess.Popen[bytes]] = []

    def pass_on() -> None:
        for process in started:
            process.terminate()

    with deferred(pass_on):
        # Less than a launcher's 30 s may not suffice for the checkpoint of a large model.
        patient = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600", **(os.environ if env is None else env)}
        started.append(subprocess.Popen(command, env=patient))
        if is_asked_to_stop():  # in the moment before it was there
            pass_on()
        return started[0].wait()


def _ignore_in_forks() -> None:
    """Keep forked processes from stopping as if they were the command itself."""
    if signal.getsignal(signal.SIGTERM) is _stop:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)


os.register_at_fork(after_in_child=_ignore_in_forks)
