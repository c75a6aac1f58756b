"""What `abhinaya doctor` finds: in the environment, in the weights of a config, in its memory."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import os
import platform
import re
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import abhinaya
from abhinaya.errors import AbhinayaError, MissingFileError

__all__ = [
    "MEMORY_TOLERANCE",
    "PACKAGES",
    "Device",
    "Finding",
    "Findings",
    "Package",
    "check_base",
    "check_environment",
    "check_memory",
    "find_devices",
    "find_model",
    "format_bytes",
]

_ValueT = TypeVar("_ValueT")

Result = Literal["ok", "problem", "note"]

MEMORY_TOLERANCE = 0.3
"""Share by which a computed need of memory may be off, in both directions."""

_HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True)
class Finding:
    """One line of a check-up.

    Args:
        what: the thing that was looked at, such as a package or a key of a config.
        where: its file, folder or hub id; empty where there is none.
        result: `ok`; `problem`, with which nothing will run; or `note`, something to know.
        details: what was found; for a problem also what would be right, and what to do.
    """

    what: str
    where: str
    result: Result
    details: str


class Findings(list[Finding]):
    """Findings in the order in which they were made; a check that fails does not end the others."""

    def add(self, what: str, where: object, result: Result, details: str) -> None:
        """Append a finding, unless the very same one is there already."""
        finding = Finding(what, str(where), result, details)
        if finding not in self:
            self.append(finding)

    def attempt(
        self, what: str, where: object, check: Callable[[], _ValueT], details: str | None = None
    ) -> _ValueT | None:
        """What `check` returns; null if it raises, which is added as a problem.

        Args:
            what: see `Finding`.
            where: see `Finding`.
            check: the check; any error of it is a finding.
            details: what to add when it succeeds; null adds nothing.
        """
        try:
            value = check()
        except Exception as err:  # what is broken can fail in any way
            self.add(what, where, "problem", _reason(err))
            return None
        if details is not None:
            self.add(what, where, "ok", details)
        return value


@dataclass(frozen=True)
class Package:
    """A package that some part of abhinaya uses.

    Args:
        name: of the distribution.
        module: to import; null where importing it costs too much or changes the process.
        extra: the extra of abhinaya that brings it; null for a package that is always needed.
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
        total_bytes: its memory; null where torch does not tell.
        has_bf16: whether it computes in bfloat16; null where torch does not tell.
    """

    name: str
    model: str
    total_bytes: int | None = None
    has_bf16: bool | None = None


def check_environment(packages: Sequence[Package]) -> Findings:
    """Versions, devices, memory, disk and access to the hub; nothing that is broken raises.

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
                f"{version} is installed but cannot be imported: {_reason(err)} Install it again, "
                "and look for packages that were made for another version of torch.",
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
    """The accelerators that torch can use, in its order; empty if there are none."""
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

    if _is_offline():
        return f"offline (HF_HUB_OFFLINE is set): only what lies in {constants.HF_HUB_CACHE!r}"
    return f"online; models are kept in {constants.HF_HUB_CACHE!r}"


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def find_model(base: str) -> Path | None:
    """The file or folder of a model, without going online.

    Args:
        base: path or hub id.

    Returns:
        Null for a hub id that is not, or not as a whole, in the hub's cache but can be fetched.

    Raises:
        MissingFileError: if it is neither, or not in the cache while the hub is offline.
    """
    path = Path(base)
    if path.exists():
        return path
    if not _HUB_ID.fullmatch(base):
        raise MissingFileError(
            f"There is no {base!r}. Give the path of a model, or a hub id such as "
            "'openai/whisper-large-v2'."
        )
    from huggingface_hub import snapshot_download

    from abhinaya.nn.weight_files import weight_files

    try:
        cached = Path(snapshot_download(base, local_files_only=True))
        weight_files(cached)
    except (OSError, ValueError) as err:
        if _is_offline():
            raise MissingFileError(
                f"There is no folder {base!r}, and as a hub id it is not in the hub's cache, while "
                "HF_HUB_OFFLINE forbids to fetch it. Correct it, or go online once."
            ) from err
        return None
    return cached


def check_base(base: str | None) -> Findings:
    """Whether the pre-trained weights of a member without checks of its own are there.

    Args:
        base: path or hub id; null for a member that has none.
    """
    findings = Findings()
    if base is None:
        findings.add("base", "", "note", "this member names no weights; nothing is checked")
        return findings
    found = findings.attempt("base", base, lambda: (find_model(base),))
    if found is not None and found[0] is None:
        findings.add("base", base, "note", "not on this disk; it is fetched when it is first used")
    elif found is not None:
        findings.add("base", base, "ok", "it is there; nothing more is checked for this member")
    return findings


def check_memory(what: str, needed: int, details: str, device: Device | None) -> Finding:
    """Compare a computed need of memory with what a device has.

    It is a problem only if it will not fit although less may be needed than was computed.

    Args:
        what: such as `memory for training`.
        needed: bytes, computed.
        details: what they are made of.
        device: the device; null if there is none, or none that tells its memory.
    """
    text = f"about {format_bytes(needed)}, computed, not measured: {details}"
    if device is None or device.total_bytes is None:
        return Finding(what, "", "note", text)
    if needed <= device.total_bytes:
        return Finding(what, device.name, "ok", text)
    advice = (
        f"{text}. {device.model} has {format_bytes(device.total_bytes)}. Choose a smaller batch, "
        "training.activation_checkpointing: true, whisper_weights: bf16, or llm_weights: nf4"
    )
    is_hopeless = needed * (1 - MEMORY_TOLERANCE) > device.total_bytes
    return Finding(what, device.name, "problem" if is_hopeless else "note", f"{advice}.")


def format_bytes(n_bytes: int) -> str:
    """A number of bytes for people.

    Example:
        >>> format_bytes(3 * 2**29), format_bytes(5 * 2**19)
        ('1.5 GiB', '2.5 MiB')
    """
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MiB"


def _reason(err: Exception) -> str:
    """Our own messages as they are; of others the kind and the first line, as one sentence."""
    if isinstance(err, AbhinayaError):
        return str(err)
    line = next(iter(str(err).splitlines()), "").strip().rstrip(".")
    return f"{type(err).__name__}: {line}." if line else f"{type(err).__name__}."
