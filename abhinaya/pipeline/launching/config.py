"""The block `launch` of the chain's YAML, and how each step is started because of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from abhinaya.config import Config, merge
from abhinaya.errors import did_you_mean
from abhinaya.pipeline.launching.files import read_launch_file
from abhinaya.resources import find_config

if TYPE_CHECKING:
    from abhinaya.pipeline.config import Pipeline

__all__ = ["STEP_VARIABLE", "LaunchConfig", "LaunchEntry", "Start", "find_devices", "find_start"]

LAUNCHERS = ("here", "accelerate", "slurm")

STEP_VARIABLE = "ABHINAYA_STEP"
"""Names, in the environment of a step's own process, the step that it is there for."""

_SHARED_OUT = ("transcribe", "train", "predict")
"""Kinds of steps that several processes can do together."""

_ON_DEVICES = (*_SHARED_OUT, "speakers")


class LaunchEntry(Config):
    """How one step, or each of one kind, is started; the launcher's name alone is enough."""

    launcher: str | None = None
    """`here`, `accelerate` (several processes on this machine) or `slurm` (a job)."""
    config_file: str | None = None
    """File for `accelerate launch`, or a shipped one such as `accelerate/fsdp2.yaml`."""
    num_processes: int | None = Field(default=None, ge=1)
    """Processes; by default what `config_file` says, the GPUs of the job, or all devices."""
    devices: int | None = Field(default=None, ge=0)
    """Devices of this machine that the step takes; by default one for each process."""
    slurm: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the job, as submitit names them: partition, time (minutes), gpus_per_node."""

    @model_validator(mode="before")
    @classmethod
    def _one_name_is_a_launcher(cls, value: Any) -> Any:
        return {"launcher": value} if isinstance(value, str) else value

    @field_validator("launcher")
    @classmethod
    def _check_launcher(cls, value: str | None) -> str | None:
        if value is not None and value not in LAUNCHERS:
            raise ValueError(
                f"there is no launcher {value!r}, expected {', '.join(LAUNCHERS)}."
                f"{did_you_mean(value, LAUNCHERS)}"
            )
        return value

    @model_validator(mode="after")
    def _check_effect(self) -> Self:
        useless = {
            "here": self.model_fields_set & {"config_file", "num_processes", "slurm"},
            "accelerate": self.model_fields_set & {"slurm"},
        }.get(self.launcher or "")
        if useless:
            raise ValueError(
                f"{', '.join(sorted(useless))} has no effect with the launcher {self.launcher!r}; "
                "remove one of the two"
            )
        return self


class LaunchConfig(Config):
    """How the steps of a chain are started, which decides nothing about what comes out."""

    default: LaunchEntry = LaunchEntry()
    """For all steps that `steps` says nothing else about."""
    steps: dict[str, LaunchEntry] = Field(default_factory=dict)
    """Name or kind of a step -> what is different there; a name counts more than a kind."""
    devices: int | None = Field(default=None, ge=1)
    """Devices of this machine to share out among steps; by default all that are there."""
    parallel: int | None = Field(default=None, ge=1)
    """Most steps at once on this machine; by default as many as devices, without any one."""
    executor: Literal["slurm", "local", "debug"] = "slurm"
    """submitit's executor of the launcher `slurm`: `local` tries jobs on this machine."""
    stop_after_s: float = Field(default=120, gt=0)
    """How long a step may take to write its checkpoint once it is told to stop, in seconds."""


@dataclass(frozen=True)
class Start:
    """How one step is started.

    Args:
        launcher: one of `LAUNCHERS`.
        n_processes: on all machines together.
        n_machines: more than one only in a job.
        config_file: for `accelerate launch`.
        n_devices: that it takes on each machine.
        slurm: parameters of the job.
        remark: why it is one process where more were asked for.
    """

    launcher: str = "here"
    n_processes: int = 1
    n_machines: int = 1
    config_file: Path | None = None
    n_devices: int = 0
    slurm: Mapping[str, Any] = field(default_factory=dict)
    remark: str = ""

    @property
    def is_launched(self) -> bool:
        """Whether `accelerate launch` starts the step's processes."""
        return self.n_processes > 1 or self.config_file is not None

    def __str__(self) -> str:
        parts = [self.launcher]
        if self.is_launched:
            parts.append(f"{self.n_processes} processes" if self.n_processes > 1 else "1 process")
        if self.n_machines > 1:
            parts.append(f"{self.n_machines} machines")
        if self.config_file is not None:
            parts.append(str(self.config_file))
        return ", ".join([*parts, *([self.remark] if self.remark else [])])


def find_devices(config: LaunchConfig) -> list[str]:
    """Return the devices that steps may take here, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        found = [name for name in visible.split(",") if name.strip()]
    else:
        import torch

        found = [str(number) for number in range(torch.accelerator.device_count())]
    # In a step's own process, only those that the step was given are visible.
    return found if config.devices is None else found[: config.devices]


def find_start(pipeline: Pipeline, name: str) -> Start:
    """Return how the step of this name is started."""
    config = pipeline.config
    block = config.launch or LaunchConfig()
    kind, _, of = name.partition(":")
    entry = _merge_entries(config.gpus, block, kind, name)
    launcher = entry.launcher or "here"
    slurm = entry.slurm if launcher == "slurm" else {}
    names = {member.name: member.server for member in pipeline.members}
    server = names[of.rpartition(":")[2]] if kind == "predict" else None
    is_alone = launcher == "here" or kind not in _SHARED_OUT or server is not None
    path = None if is_alone or entry.config_file is None else find_config(entry.config_file)
    file = read_launch_file(path) if path else None
    n_machines = 1 if is_alone else int(slurm.get("nodes", 1))
    works_on_devices = kind in _ON_DEVICES and server != "running" and not (file and file.use_cpu)
    is_shared = config.launch is not None and works_on_devices and launcher != "slurm"
    devices = find_devices(block) if is_shared else []
    if is_alone:
        n_processes = 1
    elif entry.num_processes or _gpus_of_node(slurm):
        n_processes = entry.num_processes or n_machines * _gpus_of_node(slurm)
    else:
        n_processes = file.num_processes if file else max(1, len(devices))
    is_launched = n_processes > 1 or file is not None
    if entry.devices is not None:
        n_devices = entry.devices
    elif not works_on_devices:
        n_devices = 0
    elif launcher == "slurm":
        n_devices = _gpus_of_node(slurm)
    elif server == "own":
        n_devices = len(devices)
    else:
        n_devices = n_processes if is_launched else min(1, len(devices))
    return Start(
        launcher="here" if launcher == "accelerate" and not is_launched else launcher,
        n_processes=n_processes,
        n_machines=n_machines,
        config_file=path,
        n_devices=n_devices,
        slurm=slurm,
        remark="one process, which asks a server" if server and launcher != "here" else "",
    )


def _merge_entries(gpus: int, block: LaunchConfig, kind: str, name: str) -> LaunchEntry:
    """Return what holds for a step: a name counts more than a kind, and that more than all."""
    content: dict[str, Any] = {"launcher": "accelerate", "num_processes": gpus} if gpus > 1 else {}
    for entry in (block.default, block.steps.get(kind), block.steps.get(name)):
        content = merge(content, entry.model_dump(exclude_unset=True) if entry else {})
    return LaunchEntry.model_construct(**content)


def _gpus_of_node(slurm: Mapping[str, Any]) -> int:
    """Return the GPUs that a job asks for on each machine: 8, or a100:8."""
    number = str(slurm.get("gpus_per_node", 0)).rpartition(":")[2]
    return int(number) if number.isdecimal() else 0
