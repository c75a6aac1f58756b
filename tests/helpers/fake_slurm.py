"""A SLURM of one machine: `sbatch`, `srun`, `sacct` and `scancel`, kept in a folder.

`install` puts them on the PATH. Jobs wait for `afterok` as SLURM's do; the script of each, and its
state, lie in the folder. With `hold` jobs are only queued.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["install", "scripts"]


def install(monkeypatch: Any, folder: Path, *, first: int = 1, hold: bool = False) -> None:
    """Put the commands of a SLURM that keeps its state in a folder on the PATH.

    submitit remembers within a process which jobs have ended: each test has a `first` of its own.
    """
    (folder / "bin").mkdir(parents=True)
    for name in ("sbatch", "srun", "sacct", "scancel"):
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setenv("FAKE_SLURM_FIRST", str(first))
    monkeypatch.setenv("FAKE_SLURM_HOLD", "1" if hold else "")


def scripts(folder: Path) -> list[dict[str, str]]:
    """Return the #SBATCH options of each job, in the order in which they were submitted."""
    files = sorted(folder.glob("*.sh"), key=lambda file: int(file.stem))
    return [_options(file.read_text()) for file in files]


def _options(text: str) -> dict[str, str]:
    found = re.findall(r"#SBATCH --([\w-]+)=?(.*)", text)
    return {key: value.strip("'") for key, value in found}


def _set_state(folder: Path, job: str, state: str) -> None:
    half = folder / f".{job}.{os.getpid()}"
    half.write_text(state)
    half.replace(folder / f"{job}.state")  # others read it all the time


def _state(folder: Path, job: str) -> str:
    return (folder / f"{job}.state").read_text()


def _tasks(folder: Path, job: str) -> list[str]:
    array = _options((folder / f"{job}.sh").read_text()).get("array")
    if array is None:
        return [job]
    return [f"{job}_{number}" for number in range(int(array.split("%")[0].split("-")[1]) + 1)]


def sbatch(folder: Path, file: str) -> None:
    job = str(len(list(folder.glob("*.sh"))) + int(os.environ["FAKE_SLURM_FIRST"]))
    (folder / f"{job}.sh").write_text(Path(file).read_text())
    for task in _tasks(folder, job):
        _set_state(folder, task, "PENDING")
    print(f"Submitted batch job {job}")
    sys.stdout.flush()
    if not os.environ["FAKE_SLURM_HOLD"]:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.Popen([sys.executable, __file__, "work", job], start_new_session=True, **quiet)


def work(folder: Path, job: str) -> None:
    dependency = _options((folder / f"{job}.sh").read_text()).get("dependency", "afterok:")
    for other in filter(None, dependency.partition(":")[2].split(":")):
        while _state(folder, other) in ("PENDING", "RUNNING"):
            time.sleep(0.1)
        if _state(folder, other) != "COMPLETED":
            for task in _tasks(folder, job):
                _set_state(folder, task, "CANCELLED")
            return
    for task in _tasks(folder, job):
        array = {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": task.partition("_")[2]}
        environment = {
            **os.environ,
            **(array if "_" in task else {}),
            "SLURM_JOB_ID": job,
            "SLURM_JOB_NODELIST": "localhost",
        }
        _set_state(folder, task, "RUNNING")
        with (folder / f"{task}.out").open("w") as out:
            code = subprocess.call(
                ["bash", str(folder / f"{job}.sh")], env=environment, stdout=out, stderr=out
            )
        if _state(folder, task) == "RUNNING":
            _set_state(folder, task, "FAILED" if code else "COMPLETED")


def srun(folder: Path, *arguments: str) -> None:
    del folder
    at = arguments.index("-u") - 1  # the first thing that is no option of srun
    os.execvp(arguments[at], arguments[at:])


def sacct(folder: Path, *_arguments: str) -> None:
    print("JobID|State|NodeList")
    for file in folder.glob("*.state"):
        print(f"{file.stem}|{file.read_text()}|localhost")


def scancel(folder: Path, job: str) -> None:
    _set_state(folder, job, "CANCELLED")


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    name, *arguments = sys.argv[1:]
    globals()[name](Path(os.environ["FAKE_SLURM"]), *arguments)


if __name__ == "__main__":
    main()
