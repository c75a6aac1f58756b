"""The files that `accelerate launch --config_file` takes, read by the installed accelerate."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import (
    prepare_deepspeed_cmd_env,
    prepare_multi_gpu_env,
    prepare_simple_launcher_cmd_env,
)

from abhinaya.errors import BadValueError, MissingFileError, MissingPackageError
from abhinaya.pipeline.launching.files import check_launch_file, read_launch_file
from abhinaya.resources import configs_dir, find_config

FILES = sorted(path.name for path in (configs_dir() / "accelerate").iterdir())

DDP = {"ACCELERATE_USE_FSDP": None, "ACCELERATE_USE_DEEPSPEED": None}
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_OFFLOAD_PARAMS": "false",
    "ACCELERATE_USE_DEEPSPEED": None,
}
ZERO = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_USE_FSDP": None}
# What each file starts: processes on this machine, machines, and the environment of the processes.
EXPECTED: dict[str, tuple[int, int, dict[str, str | None]]] = {
    "one-gpu.yaml": (1, 1, DDP),
    "one-machine.yaml": (8, 1, DDP),
    "two-cpu-processes.yaml": (2, 1, DDP),
    "two-nodes.yaml": (8, 2, DDP),
    "fsdp2.yaml": (8, 1, FSDP2),
    "zero2.yaml": (8, 1, ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}),
    "zero3.yaml": (
        8,
        1,
        ZERO
        | {
            "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
            "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
            "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none",
        },
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_shipped_file_starts_what_its_name_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    n_here, n_machines, expected = EXPECTED[name]
    for key in {**FSDP2, **ZERO}:
        monkeypatch.delenv(key, raising=False)
    file = find_config(f"accelerate/{name}")
    options = ["--config_file", str(file)]
    if n_machines > 1:
        options += ["--machine_rank", "1", "--main_process_ip", "node-0"]
    given = launch_command_parser().parse_args([*options, "-m", "abhinaya", "train", "x.yaml"])
    args, defaults, _ = _validate_launch_command(given)
    assert args.num_processes == n_here * n_machines
    if n_here == 1:
        command, environment = prepare_simple_launcher_cmd_env(args)
        assert command[1:] == ["-m", "abhinaya", "train", "x.yaml"]
    elif args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        _, environment = prepare_deepspeed_cmd_env(args)
    else:
        environment = prepare_multi_gpu_env(args)
    if n_here > 1:
        assert args.nproc_per_node == str(n_here)
    if n_machines > 1:
        assert (args.nnodes, args.node_rank) == (str(n_machines), 1)
        assert args.rdzv_endpoint == "node-0:29500"
    wanted: dict[str, str | None] = {**expected, "ACCELERATE_MIXED_PRECISION": "no"}
    assert {key: environment.get(key) for key in wanted} == wanted
    # Nothing in it is left out in silence.
    assert read_launch_file(f"accelerate/{name}") == defaults
    # They say how they are started.
    assert f"configs/accelerate/{name}" in file.read_text()


def write(folder: Path, *lines: str) -> str:
    file = folder / "launch.yaml"
    file.write_text("\n".join(lines) + "\n")
    return str(file)


GPUS = ("distributed_type: MULTI_GPU", "num_machines: 1", "num_processes: 8")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("num_processes: 8",), r"does not take .*`distributed_type` must be specified"),
        ((*GPUS, "num_procs: 3"), r"does not take .*unknown keys \(\['num_procs'\]\)"),
        (("distributed_type: DDP",), r"does not take .*'DDP' is not a valid DistributedType"),
        (("distributed_type: NO",), r"distributed_type is False, expected 'NO' in quotes"),
        (("distributed_type: MULTI_CPU", "num_processes: 2"), r"is MULTI_CPU, .* use_cpu: true"),
        (("distributed_type: MEGATRON_LM", "num_processes: 2"), r"is MEGATRON_LM, expected"),
        (GPUS[:2], r"num_processes is -1 on 1 machines, expected the number of all devices"),
        ((GPUS[0], "num_machines: 3", GPUS[2]), r"num_processes is 8 on 3 machines"),
        (("distributed_type: FSDP", *GPUS[1:]), r"fsdp_version is 1, expected 2"),
        (
            (*GPUS, "fsdp_config: {fsdp_verzion: 2}"),
            r"fsdp_config\.fsdp_verzion is unknown\. Did you mean 'fsdp_version'\?",
        ),
        ((*GPUS, "deepspeed_config: {zero_stag: 2}"), r"unknown\. Did you mean 'zero_stage'\?"),
        (
            ("compute_environment: AMAZON_SAGEMAKER",),
            "Set it to LOCAL_MACHINE",
        ),
        (("- 1",), "it holds a list, expected keys with values"),
    ],
)
def test_wrong_launch_file_is_told_in_one_line(
    tmp_path: Path, lines: tuple[str, ...], message: str
) -> None:
    with pytest.raises(BadValueError, match=message) as caught:
        read_launch_file(write(tmp_path, *lines))
    assert "\n" not in str(caught.value)


def test_missing_launch_file_names_the_nearest() -> None:
    with pytest.raises(MissingFileError, match=r"Did you mean 'accelerate/fsdp2\.yaml'\?"):
        read_launch_file("accelerate/fspd2.yaml")


@pytest.mark.parametrize(
    ("name", "n_here", "message"),
    [
        ("one-machine", 2, r"is for 8 GPUs, .* has 2\. Copy it and set num_processes: 2, or"),
        ("two-nodes", 4, r"is for 8 GPUs, but this machine has 4\."),
        ("one-machine", 0, r"is for 8 GPUs, .* has none\. .* use_cpu: true"),
        ("fsdp2", 0, "with FSDP, but this machine has none"),
        ("zero2", 0, "with DeepSpeed, but this machine has none"),
    ],
)
def test_launch_file_for_other_hardware_is_refused(
    name: str, n_here: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: n_here)
    monkeypatch.setattr(importlib.util, "find_spec", lambda *args: object())
    with pytest.raises(BadValueError, match=message) as caught:
        check_launch_file(f"accelerate/{name}.yaml")
    assert "\n" not in str(caught.value)


def test_launch_file_for_bf16_is_refused_where_the_gpu_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 8)
    monkeypatch.setattr("accelerate.utils.is_bf16_available", lambda ignore_tpu: False)
    with pytest.raises(BadValueError, match=r"mixed_precision: bf16, which .* training\.fp16"):
        check_launch_file(write(tmp_path, *GPUS, "mixed_precision: bf16"))


def test_launch_file_for_deepspeed_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *args: None)
    with pytest.raises(MissingPackageError, match=r"zero3.* pip install 'abhinaya\[deepspeed\]'"):
        check_launch_file("accelerate/zero3.yaml")


def test_launch_file_that_fits_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_launch_file("accelerate/two-cpu-processes.yaml").num_processes == 2
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 8)
    assert check_launch_file("accelerate/fsdp2.yaml").fsdp_config["fsdp_version"] == 2
