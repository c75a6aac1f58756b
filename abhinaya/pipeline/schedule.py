"""Steps that run beside each other: each begins once what it needs is made."""

from __future__ import annotations

import logging
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from abhinaya.errors import BadValueError, list_some
from abhinaya.files import digest_of, read_json_object, write_json
from abhinaya.pipeline.config import Pipeline
from abhinaya.pipeline.launching import jobs
from abhinaya.pipeline.launching.config import LaunchConfig, Start, find_devices, find_start
from abhinaya.pipeline.launching.launch import (
    BEGINNING,
    ChildStep,
    StepError,
    freeze,
    stop,
    take_report,
)
from abhinaya.pipeline.report import Report
from abhinaya.pipeline.steps import Step
from abhinaya.pipeline.times import estimate_left, read_times
from abhinaya.progress import paused, progress_of_steps
from abhinaya.stopping.interruptions import EXIT_CODE, Interruption

if TYPE_CHECKING:
    from submitit import Job

__all__ = ["STARTED", "describe_starts", "find_dependencies", "is_scheduled", "run_beside"]

_logger = logging.getLogger(__name__)

STARTED = ("launcher", "devices", "after")
"""Headings of what `describe_starts` returns."""

_POLL_S = 0.1
_CLUSTER_POLL_S = 2.0

Outcome = Literal["done", "failed", "interrupted"]


def find_dependencies(pipeline: Pipeline, steps: Sequence[Step]) -> dict[str, list[str]]:
    """Return for each step the names of those among the steps that make what it needs."""
    makers = {path.resolve(): step.name for step in steps for path in step.makes}
    corpus = pipeline.config.prepare.out.resolve() if pipeline.config.prepare else None
    found: dict[str, list[str]] = {}
    for step in steps:
        needs = [path.resolve() for path in step.needs]
        names = [makers[path] for path in needs if path in makers]
        if corpus and any(path.is_relative_to(corpus) and path not in makers for path in needs):
            names += [one.name for one in steps if one.kind == "prepare"]
        found[step.name] = [name for name in dict.fromkeys(names) if name != step.name]
    return found


def describe_starts(pipeline: Pipeline, steps: Sequence[Step]) -> dict[str, tuple[str, str, str]]:
    """Return for each step its launcher, its devices and the steps before it.

    Nothing where all steps run in this process, one after the other.
    """
    if pipeline.config.launch is None and pipeline.config.gpus < 2:
        return {}
    after = find_dependencies(pipeline, steps)
    starts = {step.name: find_start(pipeline, step.name) for step in steps}
    return {
        name: (str(start), str(start.n_devices), ", ".join(after[name]))
        for name, start in starts.items()
    }


def _n_beside(config: LaunchConfig) -> int:
    """Return how many steps may run on this machine at once."""
    return config.parallel or max(1, len(find_devices(config)))


def is_scheduled(pipeline: Pipeline, steps: Sequence[Step]) -> bool:
    """Return whether steps need more than this process, one after the other."""
    launch = pipeline.config.launch
    if launch is None or not steps:
        return False
    jobs_asked = any(find_start(pipeline, step.name).launcher == "slurm" for step in steps)
    return jobs_asked or _n_beside(launch) > 1


def run_beside(
    pipeline: Pipeline,
    steps: Sequence[Step],
    is_done: Callable[[Step], bool],
    put_away: Callable[[Step], None],
    report: Callable[[Report], None],
    *,
    detach: bool = False,
) -> None:
    """Do steps in processes and jobs of their own, and go on beside those that fail.

    Args:
        pipeline: the chain.
        steps: those to do, each after those it needs.
        is_done: says whether a step is done already.
        put_away: removes what an earlier run has left of a step.
        report: called with a short table after each step.
        detach: submit the jobs and return.

    Raises:
        StepError: at the end, if a step failed, with all that did and all that was not begun.
        Interruption: if this process or a step was told to stop; all others have stopped then.
    """
    schedule = _Schedule(pipeline, steps, is_done, put_away, report)
    if detach:
        schedule.check_detachable()
    try:
        schedule.run(detach)
    except BaseException:
        schedule.stop()
        raise


class _Schedule:
    def __init__(
        self,
        pipeline: Pipeline,
        steps: Sequence[Step],
        is_done: Callable[[Step], bool],
        put_away: Callable[[Step], None],
        report: Callable[[Report], None],
    ) -> None:
        self.config = pipeline.config.launch or LaunchConfig()
        self.out = pipeline.config.out
        self.is_done = is_done
        self.put_away = put_away
        self.report = report
        self.waiting = {step.name: step for step in steps}
        self.after = find_dependencies(pipeline, steps)
        self.starts = {name: find_start(pipeline, name) for name in self.waiting}
        self.chain = freeze(pipeline)
        self.n_beside = _n_beside(self.config)
        self.free = find_devices(self.config)
        self.taken: dict[str, list[str]] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.jobs: dict[str, Job[None]] = {}
        self.ended: dict[str, Outcome] = {}
        self.not_begun: list[str] = []
        self.look_at = 0.0  # when the jobs of a cluster are looked at again

    # What is started.

    def run(self, detach: bool) -> None:
        self._find_jobs()
        shown = None
        with progress_of_steps(len(self.after)) as begin:
            while self.waiting or self.processes or self.jobs:
                self._begin_all()
                if detach and not self.waiting and not self.processes:
                    self._report_jobs()
                    break
                running = [*self.processes, *self.jobs]
                if running != shown:
                    shown = running
                    left_s = estimate_left([*running, *self.waiting], read_times(self.out))
                    begin(", ".join(running), len(self.ended), left_s and left_s / self.n_beside)
                self._end_all()
                time.sleep(_POLL_S)
        self._conclude()

    def _begin_all(self) -> None:
        began = True
        while began:  # a job may be submitted as soon as those before it are
            began = False
            arrays = defaultdict[str, list[str]](list)
            for step in list(self.waiting.values()):
                open_ = [name for name in self.after[step.name] if self.ended.get(name) != "done"]
                if any(name in self.ended or name in self.not_begun for name in open_):
                    self.not_begun.append(step.name)
                    del self.waiting[step.name]
                elif self._may_begin(step.name, open_):
                    began = True
                    del self.waiting[step.name]
                    if not open_ and self.is_done(step):
                        self.ended[step.name] = "done"
                        continue
                    self.put_away(step)
                    if self.starts[step.name].launcher != "slurm":
                        child = self._child(step.name)
                        self.processes[step.name] = child.start(self._take(step.name))
                        _logger.info("%s has begun: %s", step.name, child.log)
                    elif self.is_cluster:
                        alike = [step.kind, dict(self.starts[step.name].slurm), sorted(open_)]
                        arrays[digest_of(alike)].append(step.name)
                    else:
                        self._submit([step.name])
            for names in arrays.values():
                self._submit(names)

    @property
    def is_cluster(self) -> bool:
        return self.config.executor == "slurm"

    def _may_begin(self, name: str, open_: Sequence[str]) -> bool:
        start = self.starts[name]
        if start.launcher == "slurm" and self.is_cluster:
            return all(other in self.jobs for other in open_)
        n_local = len(self.processes) + (0 if self.is_cluster else len(self.jobs))
        return not open_ and n_local < self.n_beside and start.n_devices <= len(self.free)

    def _take(self, name: str) -> list[str] | None:
        """Return the devices for a step, or None on a machine that has none to share out."""
        if not self.free and not self.taken:
            return None
        n_devices = self.starts[name].n_devices
        self.taken[name], self.free = self.free[:n_devices], self.free[n_devices:]
        return self.taken[name]

    def _submit(self, names: Sequence[str]) -> None:
        start: Start = self.starts[names[0]]
        before = [other for other in self.after[names[0]] if other in self.jobs]
        submitted = jobs.submit(
            self.config.executor,
            self.out / "logs" / "jobs",
            [self._child(name) for name in names],
            start.slurm,
            after=[self.jobs[other].job_id for other in before],
            devices=None if self.is_cluster else self._take(names[0]),
        )
        for name, job in zip(names, submitted, strict=True):
            self.jobs[name] = job
            _logger.info("%s is job %s: %s", name, job.job_id, self._log(name))
        self._note_jobs()

    def _child(self, name: str) -> ChildStep:
        return ChildStep(self.chain, name, self._log(name))

    def _log(self, name: str) -> Path:
        return self.out / "logs" / f"{name.replace(':', '.')}.log"

    # What has ended.

    def _end_all(self) -> None:
        for name, process in list(self.processes.items()):
            code = process.poll()
            if code is not None:
                del self.processes[name]
                self._end(name, "done" if code == 0 else _why(code))
        if self.is_cluster and time.monotonic() < self.look_at:
            return
        self.look_at = time.monotonic() + _CLUSTER_POLL_S
        for name, job in list(self.jobs.items()):
            outcome = jobs.find_outcome(job)
            if outcome is not None:
                del self.jobs[name]
                self._end(name, outcome)
                self._note_jobs()

    def _end(self, name: str, outcome: Outcome) -> None:
        self.ended[name] = outcome
        self.free += self.taken.pop(name, [])
        found = take_report(self.out, name)
        if outcome == "done" and found is not None:
            with paused():
                self.report(found)
        if outcome != "done":
            _logger.info("%s %s: %s", name, _PAST[outcome], self._log(name))
            self._cancel_after(name)

    def _cancel_after(self, name: str) -> None:
        """Take back the jobs that wait for one that did not succeed."""
        for other in [one for one in self.jobs if name in self.after[one]]:
            job = self.jobs.pop(other, None)
            if job is not None:
                jobs.cancel(job)
                self.not_begun.append(other)
                self._cancel_after(other)

    def stop(self) -> None:
        """Stop what runs on this machine; jobs of a cluster go on, and are found again."""
        local = {} if self.is_cluster else self.jobs
        for job in local.values():
            jobs.cancel(job)
        stop(list(self.processes.values()), self.config.stop_after_s)
        deadline = time.monotonic() + self.config.stop_after_s
        while any(jobs.find_outcome(job) is None for job in local.values()):
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
        if self.is_cluster and self.jobs:
            _logger.info(
                "The jobs go on, and abhinaya run waits for them again; this ends them: scancel %s",
                " ".join(job.job_id for job in self.jobs.values()),
            )

    def _conclude(self) -> None:
        if not self.jobs:
            self._record.unlink(missing_ok=True)
        bad = {name: outcome for name, outcome in self.ended.items() if outcome != "done"}
        if not bad:
            return
        said = ", ".join(
            f"{name} {_PAST[outcome]} ({self._log(name)}{self._last_words(name)})"
            for name, outcome in bad.items()
        )
        left = f" Not begun: {', '.join(self.not_begun)}." if self.not_begun else ""
        is_failure = "failed" in bad.values()
        advice = "Correct it and run again" if is_failure else "Run the same command again to go on"
        message = f"{said}.{left} {advice}: finished steps are not repeated."
        if is_failure:
            raise StepError(message)
        _logger.info("%s", message)
        raise Interruption(message)

    def _last_words(self, name: str) -> str:
        """Return the error that ended a step, if it is one of ours."""
        said = ""
        with suppress(OSError):
            for line in self._log(name).read_text("utf-8", errors="replace").splitlines():
                if line.startswith("Error: "):
                    said = f": {line.removeprefix('Error: ').rstrip('.')}"
                elif line.startswith(BEGINNING):  # of an earlier run
                    said = ""
        return said

    # What outlives this process.

    def check_detachable(self) -> None:
        """Refuse to leave a chain alone that needs this process after a job."""
        is_job = {name: start.launcher == "slurm" for name, start in self.starts.items()}
        if not self.is_cluster or not any(is_job.values()):
            raise BadValueError(
                "--detach leaves jobs to a cluster, but launch makes no step one. Set "
                "launch.default=slurm with the executor slurm, or run without --detach."
            )
        for name, others in self.after.items():
            for other in others:
                if is_job[other] and not is_job[name]:
                    raise BadValueError(
                        f"--detach cannot leave {name!r}, which is started here, after the job "
                        f"{other!r}. Set launch.steps.{name.partition(':')[0]} to slurm, or run "
                        "without --detach."
                    )

    @property
    def _record(self) -> Path:
        return self.out / ".steps" / "jobs.json"

    def _note_jobs(self) -> None:
        if self.is_cluster:
            ids = {name: job.job_id for name, job in self.jobs.items()}
            write_json(self._record, {"chain": self._chain_digest(), "jobs": ids})

    def _chain_digest(self) -> str:
        members = sorted((self.out / "configs").glob("*.yaml"))
        return digest_of([path.read_text(encoding="utf-8") for path in (self.chain, *members)])

    def _find_jobs(self) -> None:
        """Wait for jobs of an earlier run too, rather than submit them once more."""
        if not self.is_cluster or not self._record.is_file():
            return
        noted = read_json_object(self._record)
        ids: Mapping[str, str] = noted.get("jobs", {})
        found = {name: jobs.find_job(self.out / "logs" / "jobs", one) for name, one in ids.items()}
        alive = {name: job for name, job in found.items() if jobs.find_outcome(job) is None}
        strange = noted.get("chain") != self._chain_digest() or set(alive) - set(self.waiting)
        if alive and strange:
            listed = " ".join(job.job_id for job in alive.values())
            raise BadValueError(
                f"Jobs of a run with other settings or steps are still there: "
                f"{list_some(alive, n_shown=5)}. Wait for them, or end them: scancel {listed}."
            )
        for name, job in alive.items():
            self.jobs[name] = job
            del self.waiting[name]
            _logger.info("%s is job %s already: %s", name, job.job_id, self._log(name))

    def _report_jobs(self) -> None:
        if not self.jobs:
            return
        self.report(
            Report(
                f"{len(self.jobs)} jobs are left to the cluster",
                ["step", "job", "after", "log"],
                [
                    [name, job.job_id, ", ".join(self.after[name]), str(self._log(name))]
                    for name, job in self.jobs.items()
                ],
                notes=("abhinaya run with the same config waits for them.",),
            )
        )


_PAST: Mapping[Outcome, str] = {"failed": "failed", "interrupted": "was interrupted"}


def _why(code: int) -> Outcome:
    return "interrupted" if code == EXIT_CODE or code < 0 else "failed"
