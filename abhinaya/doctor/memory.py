"""What a member needs of a device's memory, computed for every way to start it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from abhinaya.data.audio import SAMPLE_RATE_HZ
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.doctor.environment import Device, find_devices
from abhinaya.doctor.findings import Finding, Findings, format_bytes
from abhinaya.errors import AbhinayaError
from abhinaya.member import Utterance
from abhinaya.nn.classifier_config import ClassifierConfig, TrainingConfig
from abhinaya.registry import load_member

__all__ = [
    "LAUNCHES",
    "MEMORY_TOLERANCE",
    "UNKNOWN",
    "Needs",
    "Share",
    "check_memory",
    "compare_with_device",
    "find_needs",
    "rows_per_step",
]

MEMORY_TOLERANCE = 0.15
"""Share by which a computed need of memory may be off, in both directions."""

_CONTEXT = 3 * 2**28
"""0.75 GiB: the driver's context, and what the libraries for matrices set aside."""

UNKNOWN = "can be computed once the sizes of all parts are known; see above"
"""Said where it cannot be computed."""

_LONG_TEXT = "so " * 4_000
"""More than any member keeps of a text."""


@dataclass(frozen=True)
class Needs:
    """What a member needs, whichever way it is started.

    Args:
        frozen: bytes of the weights that are not trained, as they are stored.
        n_trained: parameters that are trained, in float32.
        gathered: bytes of the largest layer with all that is in no layer, such as embeddings.
        training: bytes of what a step of training holds besides, validation included.
        prediction: bytes of what a batch of prediction holds besides weights.
    """

    frozen: int
    n_trained: int
    gathered: int
    training: int
    prediction: int

    @property
    def weights(self) -> int:
        """Bytes of all weights."""
        return self.frozen + 4 * self.n_trained

    @property
    def checkpoint(self) -> int:
        """Bytes of a checkpoint on disk: what is trained, and the two moments of AdamW."""
        return 12 * self.n_trained


@dataclass(frozen=True)
class Share:
    """Bytes that one device holds in training."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    context: int = _CONTEXT

    @property
    def sum(self) -> int:
        """Bytes of all."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.context


def _alone(needs: Needs, n_devices: int) -> Share:
    del n_devices
    trained = needs.n_trained
    return Share(needs.weights, 4 * trained, 8 * trained, needs.training)


def _ddp(needs: Needs, n_devices: int) -> Share:
    """Return everything on each device, and gradients a second time, in buckets to be sent."""
    alone = _alone(needs, n_devices)
    buckets = 4 * needs.n_trained * (n_devices > 1)
    return Share(needs.weights, alone.gradients + buckets, alone.optimizer, needs.training)


def _zero2(needs: Needs, n_devices: int) -> Share:
    """Return all weights; gradients, moments and DeepSpeed's own copy of the weights divided."""
    trained = needs.n_trained
    return Share(needs.weights, 4 * trained // n_devices, 12 * trained // n_devices, needs.training)


def _zero3(needs: Needs, n_devices: int) -> Share:
    """Return everything divided, and one layer whole."""
    zero2 = _zero2(needs, n_devices)
    weights = needs.weights // n_devices + needs.gathered
    return Share(weights, zero2.gradients, zero2.optimizer, needs.training)


def _fsdp2(needs: Needs, n_devices: int) -> Share:
    """Return everything divided, and one layer whole."""
    trained = needs.n_trained
    weights = needs.weights // n_devices + needs.gathered
    return Share(weights, 4 * trained // n_devices, 8 * trained // n_devices, needs.training)


LAUNCHES: dict[str, Callable[[Needs, int], Share]] = {
    "ddp": _ddp,
    "fsdp2": _fsdp2,
    "zero2": _zero2,
    "zero3": _zero3,
}
"""Ways to start a training on several devices. What a device holds, in bytes: weights as they are
stored, float32 for what is trained, whose gradient is float32 and the two moments of AdamW too."""


def find_needs(config: ClassifierConfig) -> Needs:
    """Compute what a member needs, from the files' configs alone.

    Clips are as long as the config lets them be, texts longer than it keeps. Its own code is run on
    one step of training and on one batch of prediction, without memory for the tensors; see
    `abhinaya/doctor/trace.py`. Not counted: the copies in 16 bits that `training.bf16` makes of
    weights in float32 at each step stay until its end, which is counted, but not their fragments.

    Raises:
        AbhinayaError: if the model of the config cannot be built.
    """
    from abhinaya.doctor.trace import activation_bytes
    from abhinaya.nn.build import ClassifierBuilder, build_classifier
    from abhinaya.nn.skeleton import skeletons

    member = cast("ClassifierBuilder", load_member(config.member))
    n_classes = len(MSP_PODCAST)

    def build() -> Any:
        with skeletons():
            model = build_classifier(member, config, n_classes, [1] * n_classes)
        for module in model.modules():
            inner = getattr(module, "config", None)
            if getattr(inner, "layerdrop", 0):
                inner.layerdrop = 0.0  # a step that skips no layer needs most
        return model

    inputs = member.build_inputs(config)
    rng = np.random.default_rng(0)
    waveform = rng.normal(size=round(config.audio.max_audio_s * SAMPLE_RATE_HZ))
    clip = Utterance("clip", waveform.astype("float32"), _LONG_TEXT)
    encoded = inputs.encode(clip)
    model = build()
    sizes = _Sizes(model)
    training, n_rows = config.training, rows_per_step(config.training)
    if is_checkpointed(training):
        model.activation_checkpointing_enable()
    step = activation_bytes(
        model,
        inputs.collate([encoded] * n_rows),
        n_rows,
        trains=True,
        autocast=bool(training.arguments.get("bf16") or training.arguments.get("fp16")),
    )
    crop = config.audio.eval_crop
    n_read = config.inference.batch_size * (crop if isinstance(crop, int) else 1)
    batch = activation_bytes(
        build(),
        inputs.collate([encoded] * n_read),
        n_read,
        trains=False,
        autocast=config.inference.precision != "float32",
    )
    step, batch = (n_bytes + sizes.unpacked for n_bytes in (step, batch))
    return Needs(sizes.frozen, sizes.n_trained, sizes.gathered, max(step, batch), batch)


class _Sizes:
    """Bytes of a model's weights; `unpacked` of the largest quantised matrix, in 16 bits."""

    def __init__(self, model: Any) -> None:
        self.frozen = self.n_trained = self.unpacked = 0
        layers: Counter[str] = Counter()
        for name, value in model.named_parameters():
            n_bytes = getattr(value, "stored_bytes", value.nbytes)
            if value.requires_grad:
                self.n_trained += value.numel()
            else:
                self.frozen += n_bytes
            if hasattr(value, "stored_bytes"):
                self.unpacked = max(self.unpacked, 2 * value.numel())
            numbered = re.match(r".*?\.\d+\.", name)
            layers[numbered[0] if numbered else ""] += n_bytes
        self.gathered = layers.pop("", 0) + max(layers.values(), default=0)


def rows_per_step(training: TrainingConfig) -> int:
    """Return how many rows one process trains on at once."""
    n_rows = training.global_batch_size
    return min(int(training.arguments.get("per_device_train_batch_size", n_rows)), n_rows)


def is_checkpointed(training: TrainingConfig) -> bool:
    """Tell whether activations are computed again instead of kept."""
    keys = ("gradient_checkpointing", "activation_checkpointing")
    return any(training.arguments.get(key) for key in keys)


def check_memory(
    config: ClassifierConfig, findings: Findings, *, weights: str, savings: str
) -> None:
    """Compare what training and prediction need with the smallest device of this machine.

    Args:
        config: of the member.
        findings: get one line for each of the two.
        weights: number type of most weights.
        savings: settings that need less, for whoever has too little.
    """
    try:
        needs = find_needs(config)
    except AbhinayaError:
        findings.add("memory", "", "note", UNKNOWN)
        return
    devices = findings.attempt("devices", "", find_devices) or ()
    known = [device for device in devices if device.total_bytes is not None]
    device = min(known, key=lambda device: device.total_bytes or 0, default=None)
    frozen = f"{format_bytes(needs.weights)} of weights ({weights})"
    context = f"{format_bytes(_CONTEXT)} for the device itself"
    training, batch = config.training, config.inference.batch_size
    rows = training.arguments.get("per_device_train_batch_size", training.global_batch_size)
    details = (
        f"{frozen}, {format_bytes(needs.checkpoint)} of gradients and optimizer, "
        f"{format_bytes(needs.training)} for batches of {rows}, and of {batch} in validation, "
        f"{context}"
    )
    what = "memory for training"
    needed = _alone(needs, 1).sum
    findings.append(compare_with_device(what, needed, details, device, savings))
    details = f"{frozen}, {format_bytes(needs.prediction)} for batches of {batch}, {context}"
    what = "memory for prediction"
    needed = needs.weights + needs.prediction + _CONTEXT
    findings.append(compare_with_device(what, needed, details, device, savings))


def compare_with_device(
    what: str, needed: int, details: str, device: Device | None, savings: str
) -> Finding:
    """Compare a computed need of memory with what a device has.

    It is a problem only if it will not fit although less may be needed than was computed.

    Args:
        what: such as `memory for training`.
        needed: bytes, computed.
        details: what they are made of.
        device: the device; None if there is none, or none that tells its memory.
        savings: settings that need less.
    """
    text = f"about {format_bytes(needed)}, computed, not measured: {details}"
    if device is None or device.total_bytes is None:
        return Finding(what, "", "note", text)
    if needed <= device.total_bytes:
        return Finding(what, device.name, "ok", text)
    advice = (
        f"{text}. {device.model} has {format_bytes(device.total_bytes)}. Choose a smaller batch, "
        f"training.activation_checkpointing: true, {savings}"
    )
    is_hopeless = needed * (1 - MEMORY_TOLERANCE) > device.total_bytes
    return Finding(what, device.name, "problem" if is_hopeless else "note", f"{advice}.")
