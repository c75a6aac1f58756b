"""Whether the steps of a chain can be started as its YAML says, asked before any of them is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from abhinaya.errors import BadValueError, UnknownNameError
from abhinaya.pipeline.launching.config import LaunchConfig, Start, find_devices, find_start
from abhinaya.pipeline.launching.files import check_launch_file, read_launch_file
from abhinaya.pipeline.launching.jobs import check_jobs

if TYPE_CHECKING:
    from abhinaya.pipeline.config import Pipeline
    from abhinaya.pipeline.steps import Step

__all__ = ["check_launch"]


def check_launch(pipeline: Pipeline, steps: Sequence[Step], to_do: Sequence[Step]) -> None:
    """Refuse a chain whose steps could not all be started.

    Args:
        pipeline: the chain.
        steps: all its steps.
        to_do: those that would be started.

    Raises:
        UnknownNameError: if `launch` names a step that is not there, or an unknown parameter.
        MissingFileError: if a file for `accelerate launch` is not there.
        MissingPackageError: if submitit is missing.
        BadValueError: if a file is for other hardware, a step asks for more devices than there
            are, or there is no SLURM.
    """
    launch = pipeline.config.launch
    if launch is None:
        return
    known = {name for step in steps for name in (step.name, step.kind)}
    for name in launch.steps:
        if name not in known:
            raise UnknownNameError("step in launch.steps", name, known)
    starts = {step.name: find_start(pipeline, step.name) for step in to_do}
    jobs = {name: dict(start.slurm) for name, start in starts.items() if start.launcher == "slurm"}
    if jobs:
        check_jobs(launch.executor, jobs)
    if launch.devices is not None:
        n_all = len(find_devices(launch.model_copy(update={"devices": None})))
        if launch.devices > n_all:
            raise BadValueError(
                f"launch.devices is {launch.devices}, but this machine has {n_all or 'none'}. "
                "Lower it, or leave it out."
            )
    for name, start in starts.items():
        _check_start(name, start, launch, is_here=name not in jobs or launch.executor != "slurm")


def _check_start(name: str, start: Start, launch: LaunchConfig, is_here: bool) -> None:
    if start.config_file is not None:
        file = read_launch_file(start.config_file)
        if file.num_machines > start.n_machines:
            raise BadValueError(
                f"The launch file {str(start.config_file)!r} is for {file.num_machines} machines, "
                f"but the step {name!r} is started on {start.n_machines}. Choose another file, or "
                f"the launcher slurm with slurm.nodes={file.num_machines}."
            )
        if is_here and file.num_processes == start.n_processes:
            check_launch_file(start.config_file)
    if is_here and start.n_devices:
        n_there = len(find_devices(launch))
        if start.n_devices > n_there:
            raise BadValueError(
                f"The step {name!r} takes {start.n_devices} devices, but there are "
                f"{n_there or 'none'}. Lower its num_processes in launch, or say devices: 0 if it "
                "needs none."
            )
