"""Two processes over gloo, as a launch on the CPU has them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["run_two"]

ROOT = Path(__file__).resolve().parents[2]


def run_two(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a script, or `-m` and a module, with its arguments in two processes, from a folder."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.run(
        [sys.executable, *launcher, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
