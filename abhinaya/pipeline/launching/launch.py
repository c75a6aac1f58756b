"""Steps in processes of their own: several by `accelerate launch`, or one with its own log."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from abhinaya.config import TrainedConfig
from abhinaya.errors import AbhinayaError
from abhinaya.files import atomic_path, write_json
from abhinaya.pipeline.launching.config import STEP_VARIABLE, Start
from abhinaya.pipeline.report import Report
from abhinaya.progress import is_quiet
from abhinaya.stopping.interruptions import run_and_pass_on

if TYPE_CHECKING:
    from abhinaya.pipeline.config import Pipeline

__all__ = [
    "BEGINNING",
    "ChildStep",
    "StepError",
    "freeze",
    "launch",
    "leave_report",
    "stop",
    "take_report",
]


BEGINNING = "# "
"""How the line of a log begins that says when and where its step was started."""


class StepError(AbhinayaError, RuntimeError):
    """A step that ran in processes of its own and failed there."""


def launch(start: Start, command: Sequence[str]) -> None:
    """Run one of our commands in several processes, on several devices.

    Args:
        start: how many, and by which file.
        command: its name and arguments.

    Raises:
        StepError: if it fails; its own message is on the screen already.
        SystemExit: if another machine does the rest.
    """
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    if start.config_file is not None:
        launcher += ["--config_file", str(start.config_file)]
    launcher += ["--num_processes", str(start.n_processes)]
    if start.n_machines > 1:
        launcher += ["--machine_rank", os.environ["SLURM_NODEID"], *_meeting_place()]
    elif STEP_VARIABLE in os.environ:  # others may start theirs at the same moment
        launcher += ["--main_process_port", "0"]
    if start.config_file is None or start.n_machines > 1:
        launcher += ["--num_machines", str(start.n_machines)]
    if start.config_file is None:
        launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--multi_gpu"]
    quiet = ["--quiet"] if is_quiet() else []
    code = run_and_pass_on([*launcher, "-m", "abhinaya", *command, *quiet])
    if code:
        raise StepError(
            f"abhinaya {command[0]} failed on {start.n_processes} devices with exit code "
            f"{code}. The reason is printed above; correct it and run again: finished "
            "steps are not repeated."
        )
    if start.n_machines > 1 and os.environ["SLURM_NODEID"] != "0":
        raise SystemExit(0)  # the first machine reads what was written, and notes it as done


def _meeting_place() -> list[str]:
    """Return where the machines of one job find each other, which each must say alike."""
    from submitit import JobEnvironment

    job = JobEnvironment()
    port = 20_000 + int(os.environ["SLURM_JOB_ID"]) % 20_000
    return ["--main_process_ip", job.hostnames[0], "--main_process_port", str(port)]


@dataclass(frozen=True)
class ChildStep:
    """One step as a process: `abhinaya run CHAIN --only STEP`.

    Args:
        chain: file of `freeze`.
        name: of the step.
        log: what it prints is added there.
    """

    chain: Path
    name: str
    log: Path

    def start(self, devices: Sequence[str] | None = None) -> subprocess.Popen[bytes]:
        """Start it, in a group of its own that `stop` ends.

        Args:
            devices: that it may use; None for those that this process may.
        """
        environment = {**os.environ, STEP_VARIABLE: self.name}
        if devices is not None:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = ["abhinaya", "run", str(self.chain), "--only", self.name]
        with self.log.open("ab") as log:
            now = datetime.now().isoformat(timespec="seconds")
            log.write(
                f"{BEGINNING}{shlex.join(command)} on {socket.gethostname()} {now}\n".encode()
            )
            log.flush()
            return subprocess.Popen(
                [sys.executable, "-m", *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def stop(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Tell processes to stop, wait for their checkpoints, and kill what is left then."""
    for process in processes:
        process.terminate()  # which passes it on
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with those that it started itself
        process.wait()


def freeze(pipeline: Pipeline) -> Path:
    """Write a chain down as it is now: what is changed later does not reach its steps."""
    from abhinaya.pipeline.steps import write_config

    content = pipeline.config.model_dump(mode="json", exclude_unset=True)
    content.pop("set", None)  # the members' files have it
    content["members"] = {
        member.name: {
            "config": str(write_config(pipeline, member)),
            "set": {"run_dir": str(member.run_dir)} if isinstance(member, TrainedConfig) else {},
        }
        for member in pipeline.members
    }
    path = pipeline.config.out / ".steps" / "chain.json"
    write_json(path, content)
    return path


def _report_path(out: Path, name: str) -> Path:
    return out / ".steps" / f"{name.replace(':', '.')}.report"


def leave_report(out: Path, name: str, report: Report) -> None:
    """Write what a step says where the process that started it finds it."""
    with atomic_path(_report_path(out, name)) as temporary:
        temporary.write_bytes(TypeAdapter(Report).dump_json(report))


def take_report(out: Path, name: str) -> Report | None:
    """Return what a step said, if it has done anything, and forget it."""
    path = _report_path(out, name)
    if not path.is_file():
        return None
    report = TypeAdapter(Report).validate_json(path.read_bytes())
    path.unlink()
    return report
