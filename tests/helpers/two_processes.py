"""Two processes over gloo, as a launch on the CPU has them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from warm_python import warm_python

__all__ = ["run_two"]

ROOT = Path(__file__).resolve().parents[2]


def run_two(
    folder: Path, *command: str, python: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script, or `-m` and a module, with its arguments in two processes, from a folder.

    Args:
        folder: where to run it.
        command: the script or module, and its arguments.
        python: the interpreter; by default one that has imported all libraries already.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.run(
        [python or warm_python(), *launcher, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
