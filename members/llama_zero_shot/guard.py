"""Runs a command until its own standard input is closed, then ends all processes of the command.

The other end of that input belongs to whoever started it, so it is closed when that process ends,
however that happens, `kill -9` included. It is run by its path and needs the standard library only:

    python guard.py GRACE_S COMMAND ...
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress

__all__ = ["guard"]

_POLL_S = 0.2


def guard(grace_s: float, command: list[str]) -> int:
    """Run a command until standard input is closed, and return its exit code.

    Args:
        grace_s: between SIGTERM and SIGKILL.
        command: with its arguments.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    try:
        while child.poll() is None:
            if select.select([sys.stdin], [], [], _POLL_S)[0]:
                break  # nobody writes there: it is closed
        return child.poll() or 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                child.wait(grace_s)
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


if __name__ == "__main__":
    sys.exit(guard(float(sys.argv[1]), sys.argv[2:]))
