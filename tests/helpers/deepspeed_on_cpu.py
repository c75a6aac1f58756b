"""Trainings one after the other under DeepSpeed, over gloo on the CPU.

    torchrun --nproc_per_node=2 deepspeed_on_cpu.py CONFIG ...

`CONFIG@N` goes on with a finished run as if it had been killed after its checkpoint N. Nothing is
stood in; only DeepSpeed's shared memory of one machine's processes, which needs a compiler, is off.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import deepspeed.ops
import torch

from abhinaya.cli import main
from abhinaya.config import load_yaml

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def forget_after(run: Path, step: int) -> None:
    """Remove what a run has written after a checkpoint."""
    for folder in run.glob("checkpoint-*"):
        if int(folder.name.rpartition("-")[2]) > step:
            shutil.rmtree(folder)
    shutil.rmtree(run / "best")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        config, _, step = argument.partition("@")
        if step:
            if os.environ["RANK"] == "0":
                forget_after(Path(load_yaml(Path(config))["run_dir"]), int(step))
            torch.distributed.barrier()
        try:
            main(["train", config, "--json"])
        except SystemExit as done:
            if done.code:
                raise
