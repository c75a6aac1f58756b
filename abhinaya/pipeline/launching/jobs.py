"""Steps as jobs of a cluster, through submitit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from abhinaya.errors import BadValueError, UnknownNameError, list_some, require_package
from abhinaya.pipeline.launching.launch import ChildStep, StepError, stop
from abhinaya.stopping.interruptions import EXIT_CODE

if TYPE_CHECKING:
    from submitit import Job
    from submitit.core.utils import DelayedSubmission

__all__ = ["StepJob", "cancel", "check_jobs", "find_job", "find_outcome", "submit"]

_OURS = {"job_name", "dependency", "ntasks_per_node", "stderr_to_stdout", "use_srun"}
"""What submitit would take, but the chain decides."""

_TIMEOUTS = "max_num_timeout"
_N_TIMEOUTS = 20
_SIGNAL_DELAY_S = 90
_WAIT_FOR_SIGNAL_S = 30.0
_A_WEEK_MIN = 7 * 24 * 60


def check_jobs(executor: str, slurm: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse jobs that could not be submitted.

    Args:
        executor: of submitit.
        slurm: name of a step -> parameters of its job.

    Raises:
        MissingPackageError: without submitit.
        BadValueError: if there is no SLURM here, or a job has no time.
        UnknownNameError: if submitit knows no such parameter.
    """
    require_package("submitit", "The launcher 'slurm'", "cluster")
    from submitit import SlurmExecutor

    known = {*SlurmExecutor._valid_parameters(), _TIMEOUTS} - _OURS
    for name, parameters in slurm.items():
        for key in parameters:
            if key not in known:
                raise UnknownNameError(f"SLURM parameter of the step {name!r}", key, known)
        minutes = parameters.get("time")
        if executor == "slurm" and not (isinstance(minutes, int) and minutes > 0):
            raise BadValueError(
                f"The job of the step {name!r} has slurm.time {minutes!r}. Say in launch how many "
                "minutes it may take, such as time: 1440; what is cut off goes on by itself."
            )
    if executor == "slurm" and shutil.which("sbatch") is None:
        raise BadValueError(
            "launch.executor is 'slurm', but this machine has no sbatch. Run it where jobs are "
            "submitted, or try the jobs on this machine with launch.executor=local."
        )


class StepJob:
    """What runs inside a job: one step, which is stopped in time when the job is preempted.

    Args:
        child: the step.
        grace_s: how long it may take to write its checkpoint.
        devices: that it may use; None for all of the job.
    """

    def __init__(self, child: ChildStep, grace_s: float, devices: Sequence[str] | None) -> None:
        self.child = child
        self.grace_s = grace_s
        self.devices = devices
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Do the step.

        Raises:
            StepError: if it failed.
            SystemExit: if it was told to stop, and not by us.
        """
        node = os.environ.get("SLURM_NODEID", "0")
        log = self.child.log if node == "0" else self.child.log.with_suffix(f".node{node}.log")
        process = ChildStep(self.child.chain, self.child.name, log).start(self.devices)
        self._process = process
        # submitit only takes note of it; a cluster that preempts sends it before its own signal.
        before = signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGTERM))
        try:
            while process.poll() is None:
                time.sleep(0.1)
        except KeyboardInterrupt:
            process.terminate()
            raise
        signal.signal(signal.SIGTERM, before)
        if process.returncode in (EXIT_CODE, -signal.SIGTERM):
            if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
                time.sleep(_WAIT_FOR_SIGNAL_S)  # `checkpoint` is called now, or the job is ended
            raise SystemExit(EXIT_CODE)  # without a result, which would be a failure
        if process.returncode:
            raise StepError(f"{self.child.name} failed: see {str(log)!r}.")

    def checkpoint(self) -> DelayedSubmission:
        """Stop the step, and return the job that goes on; submitit calls it before a preemption."""
        from submitit.core.utils import DelayedSubmission

        if self._process is not None:
            stop([self._process], self.grace_s)
        return DelayedSubmission(StepJob(self.child, self.grace_s, self.devices))


def submit(
    executor: str,
    folder: Path,
    children: Sequence[ChildStep],
    slurm: Mapping[str, Any],
    *,
    after: Sequence[str],
    devices: Sequence[str] | None,
) -> list[Job[None]]:
    """Put one job, or several as an array, into the queue.

    Args:
        executor: of submitit.
        folder: for submitit's own files.
        children: the steps, which need alike.
        slurm: parameters of each job.
        after: ids of the jobs that must have succeeded before.
        devices: that they may use; None for all of their job.

    Raises:
        StepError: if they are not taken.
    """
    import submitit

    given = dict(slurm)
    n_timeouts = given.pop(_TIMEOUTS, _N_TIMEOUTS)
    delay_s = given.get("signal_delay_s", _SIGNAL_DELAY_S)
    jobs = [StepJob(child, max(5, delay_s - 10), devices) for child in children]
    made: Any
    if executor == "slurm":
        name = children[0].name if len(children) == 1 else children[0].name.partition(":")[0]
        more = dict(given.pop("additional_parameters", None) or {})
        if after:
            given["dependency"] = f"afterok:{':'.join(after)}"
            more = {"kill-on-invalid-dep": "yes", **more}
        made = submitit.SlurmExecutor(folder, max_num_timeout=n_timeouts)
        made.update_parameters(job_name=name, additional_parameters=more, **given)
    elif executor == "local":
        folder.mkdir(parents=True, exist_ok=True)
        own = tempfile.mkdtemp(dir=folder)  # a local job is named by a process id, which comes back
        made = submitit.LocalExecutor(own, max_num_timeout=n_timeouts)
        made.update_parameters(
            timeout_min=given.get("time", _A_WEEK_MIN),
            signal_delay_s=delay_s,
            setup=given.get("setup", ()),
        )
    else:
        made = submitit.DebugExecutor(folder)
    try:
        submitted: list[Job[None]] = made.submit_array(jobs)
    except RuntimeError as err:  # what sbatch says
        raise StepError(
            f"{list_some(child.name for child in children)} could not be submitted: "
            f"{' '.join(str(err).split())}. Correct the block launch and run again."
        ) from err
    return submitted


def find_job(folder: Path, job_id: str) -> Job[None]:
    """Return a job of SLURM that another process submitted."""
    from submitit import SlurmJob

    return SlurmJob(folder, job_id)


def find_outcome(job: Job[None]) -> Literal["done", "failed", "interrupted"] | None:
    """Return how a job ended; None while it is queued or runs."""
    from submitit import DebugJob, LocalJob
    from submitit.core.utils import UncompletedJobError

    if isinstance(job, DebugJob):
        return "failed" if job.exception() else "done"
    if not job.done():
        return None
    if isinstance(job, LocalJob) and not job.paths.result_pickle.exists():
        return "interrupted"
    error = job.exception()
    if error is None:
        return "done"
    return "interrupted" if type(error) is UncompletedJobError else "failed"


def cancel(job: Job[None]) -> None:
    """Tell a job to stop; a local one has its step write a checkpoint."""
    from submitit import LocalJob

    if isinstance(job, LocalJob):
        try:
            os.kill(int(job.job_id), signal.SIGTERM)
        except ProcessLookupError:
            pass
    else:
        job.cancel(check=False)
