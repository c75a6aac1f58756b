"""What `abhinaya doctor` finds in the environment: packages, devices, memory, disk, hub."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import os
import platform
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import abhinaya
from abhinaya.doctor.findings import Findings, describe_error, format_bytes

__all__ = [
    "PACKAGES",
    "Device",
    "Package",
    "check_environment",
    "find_devices",
    "is_offline",
]


@dataclass(frozen=True)
class Package:
    """A package that some part of abhinaya uses.

    Args:
        name: of the distribution.
        module: to import; None where importing it costs too much or changes the process.
        extra: the extra of abhinaya that brings it; None for a package that is always needed.
    """

    name: str
    module: str | None
    extra: str | None = None


PACKAGES = (
    Package("torch", "torch"),
    Package("transformers", "transformers"),
    Package("peft", "peft"),
    Package("accelerate", "accelerate"),
    Package("soundfile", "soundfile"),
    Package("soxr", "soxr"),
    Package("sentencepiece", "sentencepiece", "text"),
    Package("protobuf", "google.protobuf", "text"),
    Package("bitsandbytes", "bitsandbytes", "quant"),
    Package("vllm", None, "vllm"),
    Package("openai-whisper", "whisper", "dev"),
    Package("onnx", "onnx", "export"),
    Package("onnxruntime", "onnxruntime", "export"),
    Package("tensorboard", None, "tensorboard"),
    Package("wandb", None, "wandb"),
)
"""What `abhinaya doctor` looks for."""


@dataclass(frozen=True)
class Device:
    """An accelerator.

    Args:
        name: of torch, such as `cuda:0`.
        model: its maker's name for it.
        total_bytes: its memory; None where torch does not tell.
        has_bf16: whether it computes in bfloat16; None where torch does not tell.
    """

    name: str
    model: str
    total_bytes: int | None = None
    has_bf16: bool | None = None


def check_environment(packages: Sequence[Package]) -> Findings:
    """Describe versions, devices, memory, disk and hub; nothing that is broken raises.

    Args:
        packages: what to look for, such as `PACKAGES`.
    """
    findings = Findings()
    findings.add("python", "", "ok", f"{platform.python_version()} on {platform.platform()}")
    findings.add("abhinaya", "", "ok", f"{abhinaya.__version__} in {_home()}")
    for package in packages:
        _check_package(package, findings)
    devices = findings.attempt("devices", "", find_devices) or ()
    for device in devices:
        findings.add(device.name, "", "ok", _describe(device))
    if not devices and not any(finding.what == "devices" for finding in findings):
        findings.add("devices", "", "note", "none; everything runs on the CPU")
    for what, look in (
        ("cpu", _cores),
        ("memory", _main_memory),
        ("disk", _disk),
        ("hub", _hub),
    ):
        details = findings.attempt(what, "", look)
        if details is not None:
            findings.add(what, "", "ok", details)
    return findings


def _home() -> str:
    return str(Path(abhinaya.__file__).parent)


def _check_package(package: Package, findings: Findings) -> None:
    try:
        version = importlib.metadata.version(package.name)
    except importlib.metadata.PackageNotFoundError:
        if package.extra is None:
            advice = "not installed, but needed. Install it with: pip install abhinaya"
            findings.add(package.name, "", "problem", f"{advice}.")
        else:
            advice = f"not installed; pip install 'abhinaya[{package.extra}]' brings it"
            findings.add(package.name, "", "note", advice)
        return
    if package.module is not None:
        try:
            _import_quietly(package.module)
        except Exception as err:  # what is broken can fail in any way
            findings.add(
                package.name,
                "",
                "problem",
                f"{version} is installed but cannot be imported: {describe_error(err)} Install "
                "it again, and look for packages that were made for another version of torch.",
            )
            return
    findings.add(package.name, "", "ok", version)


def _import_quietly(module: str) -> None:
    """Import without the reports that some libraries print while they look around."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    finally:
        logging.disable(before)


def find_devices() -> tuple[Device, ...]:
    """List the accelerators that torch can use, in its order; empty if there are none."""
    import torch

    accelerator = (
        torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    )
    if accelerator is None:
        return ()
    module: Any = torch.get_device_module(accelerator.type)
    devices = []
    for idx in range(torch.accelerator.device_count()):
        name = f"{accelerator.type}:{idx}"
        if not hasattr(module, "get_device_properties"):
            devices.append(Device(name, accelerator.type))
            continue
        properties = module.get_device_properties(idx)
        has_bf16 = None
        if accelerator.type == "cuda":
            with torch.cuda.device(idx):
                has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        devices.append(Device(name, properties.name, int(properties.total_memory), has_bf16))
    return tuple(devices)


def _describe(device: Device) -> str:
    parts = [device.model]
    if device.total_bytes is not None:
        parts.append(format_bytes(device.total_bytes))
    if device.has_bf16 is not None:
        parts.append("with bfloat16" if device.has_bf16 else "without bfloat16, use fp16")
    return ", ".join(parts)


def _cores() -> str:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{usable} of {os.cpu_count()} cores may be used"


def _main_memory() -> str:
    return format_bytes(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _disk() -> str:
    return f"{format_bytes(shutil.disk_usage(Path.cwd()).free)} free in {str(Path.cwd())!r}"


def _hub() -> str:
    from huggingface_hub import constants

    if is_offline():
        return f"offline (HF_HUB_OFFLINE is set): only what lies in {constants.HF_HUB_CACHE!r}"
    return f"online; models are kept in {constants.HF_HUB_CACHE!r}"


def is_offline() -> bool:
    """Tell whether HF_HUB_OFFLINE forbids to fetch models."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
