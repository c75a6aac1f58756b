"""Files of `accelerate launch --config_file`: is one sound, and does it fit this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from abhinaya.config import load_yaml
from abhinaya.errors import BadValueError, ProblemsError, did_you_mean, require_package
from abhinaya.resources import find_config

if TYPE_CHECKING:
    from accelerate.commands.config.config_args import ClusterConfig

__all__ = ["check_launch_file", "read_launch_file"]

# The sections whose keys accelerate does not look at: what is misspelt is left out in silence.
_SECTIONS = {"fsdp_config": "fsdp_", "deepspeed_config": "", "dynamo_config": "dynamo_"}
_SHARING = {"FSDP": "FSDP", "DEEPSPEED": "DeepSpeed"}


def read_launch_file(name: str | Path) -> ClusterConfig:
    """Read a file that `accelerate launch --config_file` takes, and check it by itself.

    Args:
        name: a file, or a shipped one such as `accelerate/fsdp2.yaml`.

    Returns:
        accelerate's own view of it.

    Raises:
        MissingFileError: if there is no such file.
        BadValueError: if accelerate does not take it, or would leave out a part of it in silence.
    """
    path = find_config(name)
    content = load_yaml(path)
    from accelerate.commands.config.config_args import load_config_from_file

    where = f"the launch file {str(path)!r}"
    place = content.get("compute_environment", "LOCAL_MACHINE")
    if place != "LOCAL_MACHINE":
        raise BadValueError(f"compute_environment is {place} in {where}. Set it to LOCAL_MACHINE.")
    try:
        config: Any = load_config_from_file(str(path))
    except (ValueError, TypeError, AttributeError) as err:
        raise BadValueError(
            f"accelerate does not take {where}: {str(err).rstrip('.')}. Begin with one of "
            "those that are shipped, such as accelerate/one-machine.yaml."
        ) from err
    # accelerate reads NO without quotes as false.
    kind = str(getattr(config.distributed_type, "value", config.distributed_type))
    problems = _find_unknown(content)
    if kind not in ("NO", *_SHARING) and (not kind.startswith("MULTI_") or kind == "MULTI_CPU"):
        problems.append(
            f"distributed_type is {kind}, expected 'NO' in quotes, MULTI_GPU, FSDP or DEEPSPEED; "
            "processes on the CPU are MULTI_GPU with use_cpu: true"
        )
    n_processes, n_machines = config.num_processes, config.num_machines
    if not _is_count(n_processes) or not _is_count(n_machines) or n_processes % n_machines:
        problems.append(
            f"num_processes is {n_processes} on {n_machines} machines, expected the number of all "
            "devices, equally many on each machine"
        )
    version = (config.fsdp_config or {}).get("fsdp_version", 1)
    if kind == "FSDP" and str(version) != "2":
        problems.append(f"fsdp_config.fsdp_version is {version}, expected 2")
    if problems:
        raise ProblemsError(where, problems)
    return config


def check_launch_file(name: str | Path) -> ClusterConfig:
    """Check that a launch file can be started on this machine, before anything is.

    Args:
        name: a file, or a shipped one such as `accelerate/fsdp2.yaml`.

    Returns:
        accelerate's own view of it.

    Raises:
        MissingFileError: if there is no such file.
        MissingPackageError: if it asks for DeepSpeed, which is not installed.
        BadValueError: if the file is wrong, or meant for other hardware.
    """
    config = read_launch_file(name)
    import torch
    from accelerate.utils import is_bf16_available

    kind = config.distributed_type.value
    if kind == "DEEPSPEED":
        require_package("deepspeed", f"The launch file {str(name)!r}", "deepspeed")
    here = 0 if config.use_cpu else torch.accelerator.device_count()
    wanted = config.num_processes // config.num_machines
    where = f"The launch file {str(name)!r}"
    if here == 0 and kind in _SHARING:
        raise BadValueError(
            f"{where} shares a model among GPUs with {_SHARING[kind]}, but this machine has none. "
            "Use accelerate/two-cpu-processes.yaml, or start it where the GPUs are."
        )
    if here < wanted and not config.use_cpu and kind != "NO":
        raise BadValueError(
            f"{where} is for {wanted} GPUs, but this machine has {here or 'none'}. Copy it and set "
            + (f"num_processes: {here}" if here else "use_cpu: true for processes on the CPU")
            + ", or start it where the GPUs are."
        )
    if config.mixed_precision == "bf16" and not is_bf16_available(True):
        raise BadValueError(
            f"{where} says mixed_precision: bf16, which the GPU of this machine does not have. "
            "Set it to 'no', and training.fp16: true in the member's config."
        )
    return config


def _find_unknown(content: Any) -> list[str]:
    """Return one sentence for each key of a section that `accelerate launch` does not know."""
    from accelerate.commands.launch import launch_command_parser

    known = set(vars(launch_command_parser().parse_args(["script"])))
    problems = []
    for section, prefix in _SECTIONS.items():
        # As accelerate completes them: fsdp_version may stand there as version.
        own = {key for key in known if prefix and key.startswith(prefix)}
        keys = own | {key.removeprefix(prefix) for key in own} if prefix else known
        for key in content.get(section) or {}:
            if key not in keys:
                problems.append(f"{section}.{key} is unknown.{did_you_mean(str(key), keys)}")
    return problems


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value > 0
