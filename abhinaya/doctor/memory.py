"""What a member needs of a device's memory, computed for every way to start it."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from abhinaya.config import MemberConfig
from abhinaya.data.audio import SAMPLE_RATE_HZ
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.doctor.environment import Device, find_devices
from abhinaya.doctor.findings import Finding, Findings, describe_error, format_bytes
from abhinaya.errors import AbhinayaError, BadValueError
from abhinaya.member import Utterance
from abhinaya.nn.classifier_config import ClassifierConfig, TrainingConfig
from abhinaya.registry import load_member

if TYPE_CHECKING:
    from abhinaya.nn.build import ClassifierBuilder

__all__ = [
    "LAUNCHES",
    "MEMORY_TOLERANCE",
    "Needs",
    "Share",
    "check_memory",
    "compare_launches",
    "compare_with_device",
    "find_needs",
    "find_sizes",
    "rows_per_step",
]

MEMORY_TOLERANCE = 0.15
"""Share by which a computed need of memory may be off, in both directions."""

_CONTEXT = 3 * 2**28
"""0.75 GiB: the driver's context, and what the libraries for matrices set aside."""

_LONG_TEXT = "so " * 4_000
"""More than any member keeps of a text."""


@dataclass(frozen=True)
class Needs:
    """What a member needs, whichever way it is started.

    Args:
        frozen: bytes of the weights that are not trained, as they are stored.
        n_trained: parameters that are trained, in float32.
        gathered: bytes of the largest layer with all that is in no layer, such as embeddings.
        unpacked: bytes of the largest quantised matrix in 16 bits, as it is unpacked for use.
        training: bytes of what a step of training holds besides, validation included.
        prediction: bytes of what a batch of prediction holds besides weights.
    """

    frozen: int
    n_trained: int
    gathered: int
    unpacked: int = 0
    training: int = 0
    prediction: int = 0

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


def _alone(needs: Needs) -> Share:
    trained = needs.n_trained
    return Share(needs.weights, 4 * trained, 8 * trained, needs.training)


def _ddp(needs: Needs, n_devices: int) -> Share:
    """Return everything on each device, and gradients a second time, in buckets to be sent."""
    alone = _alone(needs)
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


def find_needs(config: ClassifierConfig, n_processes: int = 1) -> Needs:
    """Compute what a member needs, from the files' configs alone.

    Clips are as long as the config lets them be, texts longer than it keeps. Its own code is run on
    one step of training and on one batch of prediction, without memory for the tensors; see
    `abhinaya/doctor/trace.py`.

    Args:
        config: of the member.
        n_processes: among which a global batch is divided.

    Raises:
        AbhinayaError: if the model of the config cannot be built.
    """
    from abhinaya.doctor.trace import activation_bytes

    member = cast("ClassifierBuilder", load_member(config.member))
    inputs = member.build_inputs(config)
    rng = np.random.default_rng(0)
    waveform = rng.normal(size=round(config.audio.max_audio_s * SAMPLE_RATE_HZ))
    encoded = inputs.encode(Utterance("clip", waveform.astype("float32"), _LONG_TEXT))

    model = _build_skeleton(member, config)
    sizes = _measure(model)
    training, crop = config.training.arguments, config.audio.eval_crop
    n_rows = config.inference.batch_size * (crop if isinstance(crop, int) else 1)
    autocast = config.inference.precision != "float32"
    batch = inputs.collate([encoded] * n_rows)
    prediction = activation_bytes(model, batch, n_rows, trains=False, autocast=autocast)
    if is_checkpointed(config.training):
        model.activation_checkpointing_enable()
    n_rows = rows_per_step(config.training, n_processes)
    autocast = bool(training.get("bf16") or training.get("fp16"))
    batch = inputs.collate([encoded] * n_rows)
    step = activation_bytes(model, batch, n_rows, trains=True, autocast=autocast)
    step, prediction = (n_bytes + sizes.unpacked for n_bytes in (step, prediction))
    return replace(sizes, training=max(step, prediction), prediction=prediction)


def find_sizes(config: ClassifierConfig) -> Needs:
    """Compute what a member's weights need, without running it."""
    return _measure(_build_skeleton(cast("ClassifierBuilder", load_member(config.member)), config))


def _measure(model: Any) -> Needs:
    frozen = n_trained = unpacked = 0
    layers: Counter[str] = Counter()
    for name, value in model.named_parameters():
        n_bytes = getattr(value, "stored_bytes", value.nbytes)
        if value.requires_grad:
            n_trained += value.numel()
        else:
            frozen += n_bytes
        if hasattr(value, "stored_bytes"):
            unpacked = max(unpacked, 2 * value.numel())
        numbered = re.match(r".*?\.\d+\.", name)
        layers[numbered[0] if numbered else ""] += n_bytes
    gathered = layers.pop("", 0) + max(layers.values(), default=0)
    return Needs(frozen, n_trained, gathered, unpacked)


def _build_skeleton(member: ClassifierBuilder, config: ClassifierConfig) -> Any:
    from abhinaya.nn.build import build_classifier
    from abhinaya.nn.weight_files import skeletons

    if hasattr(config, "classifier"):  # its weights have the same shapes
        config = config.model_copy(update={"classifier": None})
    n_classes = len(MSP_PODCAST)
    with skeletons(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*copying from a non-meta parameter")
        model = build_classifier(member, config, n_classes, [1] * n_classes)
    for module in model.modules():
        inner: Any = getattr(module, "config", None)
        if getattr(inner, "layerdrop", 0):
            inner.layerdrop = 0.0  # a step that skips no layer needs most
    return model


def rows_per_step(training: TrainingConfig, n_processes: int = 1) -> int:
    """Return how many rows each of several processes trains on at once."""
    n_rows = max(1, training.global_batch_size // n_processes)
    return min(int(training.arguments.get("per_device_train_batch_size", n_rows)), n_rows)


def is_checkpointed(training: TrainingConfig) -> bool:
    """Tell whether activations are computed again instead of kept."""
    keys = ("gradient_checkpointing", "activation_checkpointing")
    return any(training.arguments.get(key) for key in keys)


def check_memory(config: ClassifierConfig, findings: Findings) -> None:
    """Compare what training and prediction need with the smallest device of this machine.

    Args:
        config: of the member.
        findings: get one line for each of the two.
    """
    try:
        needs = find_needs(config)
    except AbhinayaError:
        details = "can be computed once the sizes of all parts are known; see above"
        findings.add("memory", "", "note", details)
        return
    except Exception as err:  # another network may do what fake tensors cannot
        findings.add("memory", "", "note", f"cannot be computed: {describe_error(err)}")
        return
    devices = findings.attempt("devices", "", find_devices) or ()
    known = [device for device in devices if device.total_bytes is not None]
    device = min(known, key=lambda device: device.total_bytes or 0, default=None)
    key = _key_of_weights(config)
    kind = getattr(config, key) if key else "float32"
    frozen = f"{format_bytes(needs.weights)} of weights ({kind})"
    context = f"{format_bytes(_CONTEXT)} for the device itself"
    training, batch = config.training, config.inference.batch_size
    rows = training.arguments.get("per_device_train_batch_size", training.global_batch_size)
    details = (
        f"{frozen}, {format_bytes(needs.checkpoint)} of gradients and optimizer, "
        f"{format_bytes(needs.training)} for batches of {rows}, and of {batch} in validation, "
        f"{context}"
    )
    smaller = [f"{name}: bf16" for name in ("whisper_weights",) if hasattr(config, name)]
    savings = ", ".join([*smaller, "or " + (f"{key}: nf4" if key else "audio.max_audio_s")])
    what = "memory for training"
    needed = _alone(needs).sum
    findings.append(compare_with_device(what, needed, details, device, savings))
    details = f"{frozen}, {format_bytes(needs.prediction)} for batches of {batch}, {context}"
    what = "memory for prediction"
    needed = needs.weights + needs.prediction + _CONTEXT
    findings.append(compare_with_device(what, needed, details, device, savings))


def _key_of_weights(config: ClassifierConfig) -> str | None:
    """Return the key of the number type of a language model; None if there is none."""
    return next((key for key in ("weights", "llm_weights") if hasattr(config, key)), None)


def compare_launches(config: MemberConfig, n_devices: int) -> dict[str, Share]:
    """Return what each device holds in training, by the way in which it is started.

    One way more is DDP with the language model in four bits, where there is one. Quantised weights
    cannot be divided, so for these there are neither FSDP2 nor ZeRO-3.

    Args:
        config: of the member.
        n_devices: processes, one for each device.

    Raises:
        BadValueError: if there are none, or the member has nothing to train.
    """
    if not isinstance(config, ClassifierConfig):
        raise BadValueError(
            f"The member {config.member!r} has nothing to train, so no device needs memory for it. "
            "Name the config of another one."
        )
    if n_devices < 1:
        raise BadValueError(f"--devices is {n_devices}, expected 1 or more.")
    needs, key = find_needs(config, n_devices), _key_of_weights(config)
    is_quantised = key is not None and getattr(config, key) in ("int8", "nf4")
    shares = {
        name: share(needs, n_devices)
        for name, share in LAUNCHES.items()
        if not (is_quantised and name in ("fsdp2", "zero3"))
    }
    if key is not None and not is_quantised:
        smaller = find_needs(config.model_copy(update={key: "nf4"}), n_devices)
        shares[f"ddp, {key}: nf4"] = _ddp(smaller, n_devices)
    return shares


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
