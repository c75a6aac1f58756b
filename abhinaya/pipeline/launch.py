"""Steps that run in processes of their own, one for each device."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from abhinaya.errors import AbhinayaError

__all__ = ["StepError", "launch"]


class StepError(AbhinayaError, RuntimeError):
    """A step that ran in processes of its own and failed there."""


def launch(gpus: int, command: Sequence[str]) -> None:
    """Run one of our commands on several devices, one process each.

    Args:
        gpus: how many.
        command: its name and arguments.

    Raises:
        StepError: if it fails; its own message is on the screen already.
    """
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    launcher += ["--num_processes", str(gpus), "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--multi_gpu"]
    done = subprocess.run([*launcher, "-m", "abhinaya", *command], env=os.environ, check=False)
    if done.returncode:
        raise StepError(
            f"abhinaya {command[0]} failed on {gpus} devices with exit code "
            f"{done.returncode}. The reason is printed above; correct it and run again: finished "
            "steps are not repeated."
        )
