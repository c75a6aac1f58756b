"""What a member needs of a device's memory, computed from the shapes of its weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from abhinaya.doctor.environment import Device, find_devices
from abhinaya.doctor.findings import Finding, Findings, format_bytes
from abhinaya.nn.classifier_config import ClassifierConfig, TrainingConfig

__all__ = [
    "BYTES",
    "MEMORY_TOLERANCE",
    "LanguageModel",
    "Shapes",
    "SpeechEncoders",
    "check_memory",
    "compare_with_device",
    "count_layers",
    "count_parameters",
    "is_checkpointed",
    "rows_per_step",
    "sum_up",
]

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each tensor by its name."""

MEMORY_TOLERANCE = 0.3
"""Share by which a computed need of memory may be off, in both directions."""

_CONTEXT = 3 * 2**28
"""0.75 GiB: the driver's context, and what the libraries for matrices set aside."""

BYTES = {
    "float32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    # One byte, and a float32 scale per row, which is nothing.
    "int8": 1.0,
    # QLoRA: half a byte; an 8-bit scale per 64 weights, and a float32 one per 256 of these.
    "nf4": 0.5 + 1 / 64 + 4 / (64 * 256),
}
"""Bytes of a weight by its number type."""


@dataclass(frozen=True)
class LanguageModel:
    """Memory of a frozen language model with adapters, within some 30 %.

    With L tokens in a batch, width H, feed-forward width I, k adapters in each of n layers, and c
    the bytes of a number in computing:

    - weights: parameters times the bytes of their type. int8 and nf4 hold for the matrices of the
      layers; the rest is 16-bit.
    - training: a layer keeps L ((8 c + 7 k) H + 3 c I) bytes, times n; with gradient checkpointing
      one layer does, and of all others c L H. Gradients on the way, or pooling and the last norm:
      24 L H. In prediction one layer with c L (3 H + 3 I).
    - int8 and nf4: the largest matrix once more in 16 bits, because it is unpacked for use.

    The constants are what PyTorch 2.13 keeps for the gradients, counted at the published sizes.

    Args:
        weights: bytes of the frozen weights.
        width: H.
        inner: I.
        n_layers: n.
        n_adapters: k.
        number: c.
        unpacked: bytes of the largest matrix, where it is unpacked for use.
    """

    weights: int
    width: int
    inner: int
    n_layers: int
    n_adapters: float
    number: int
    unpacked: int

    @classmethod
    def of(
        cls, shapes: Shapes, trained: Shapes, weights: str, *, width: int, n_layers: int
    ) -> LanguageModel:
        """Read the sizes from shapes.

        Args:
            shapes: of the frozen weights, without a head over the vocabulary.
            trained: of all that is trained, the adapters among them.
            weights: number type of the frozen weights.
            width: H.
            n_layers: n.
        """
        matrices = [shape for key, shape in shapes.items() if _is_matrix(key, shape)]
        n_in_matrices = sum(math.prod(shape) for shape in matrices)
        number = 4 if weights == "float32" else 2
        return cls(
            weights=int(
                n_in_matrices * BYTES[weights] + (count_parameters(shapes) - n_in_matrices) * number
            ),
            width=width,
            inner=max(max(shape) for shape in matrices),
            n_layers=n_layers,
            n_adapters=sum(".lora_A." in key for key in trained) / n_layers,
            number=number,
            unpacked=2 * (weights in ("int8", "nf4")) * max(math.prod(shape) for shape in matrices),
        )

    def training(self, n_tokens: int, *, checkpointed: bool) -> int:
        """Return the bytes that a step of training keeps for `n_tokens` tokens."""
        width, number = self.width, self.number
        layer = n_tokens * ((8 * number + 7 * self.n_adapters) * width + 3 * number * self.inner)
        if checkpointed:
            kept = layer + self.n_layers * number * n_tokens * width
        else:
            kept = self.n_layers * layer
        return round(kept + 24 * n_tokens * width + self.unpacked)

    def prediction(self, n_tokens: int) -> int:
        """Return the bytes that prediction needs for `n_tokens` tokens."""
        return self.number * n_tokens * (3 * self.width + 3 * self.inner) + self.unpacked


@dataclass(frozen=True)
class SpeechEncoders:
    """Memory of a frozen Whisper and BEATs, and of the Q-Former that is trained on top of them.

    With B clips in a batch, T frames of D features in Whisper (feed-forward F), N patches in BEATs
    (width E, feed-forward G), and c the bytes of a number in Whisper:

    - encoders, no gradient, only one layer at a time: c B T (4 D + 2 F) for Whisper, and
      4 ((B + 1) heads N^2 + B N (E + 2 G)) for BEATs. What they return: 4 B T (D + E + 1).
    - Q-Former with q layers, h heads (of 64), Q queries and windows of w frames: per number that
      the encoders return q (5.5 + 6.5 h Q / w) bytes; in prediction 8 + 6.5 h Q / w.

    Args:
        n_frames: T.
        whisper: D and F.
        number: c.
        n_patches: N.
        beats: E, G and heads.
        qformer_layers: q.
        queries_per_frame: h Q / w.
    """

    n_frames: int
    whisper: tuple[int, int]
    number: float
    n_patches: int
    beats: tuple[int, int, int]
    qformer_layers: int
    queries_per_frame: float

    def training(self, n_rows: int, language_model: int) -> int:
        """Return the bytes of a step, given those that the language model keeps in it."""
        returned = self._returned(n_rows)
        qformer = self.qformer_layers * (5.5 + 6.5 * self.queries_per_frame) * returned
        return round(4 * returned + max(self._encoding(n_rows), language_model + qformer))

    def prediction(self, n_rows: int, language_model: int) -> int:
        """Return the bytes of a batch, given those that the language model needs for it."""
        returned = self._returned(n_rows)
        qformer = (8 + 6.5 * self.queries_per_frame) * returned
        return round(4 * returned + max(self._encoding(n_rows), qformer, language_model))

    def _returned(self, n_rows: int) -> int:
        """Count the numbers that the encoders return."""
        return n_rows * self.n_frames * (self.whisper[0] + self.beats[0] + 1)

    def _encoding(self, n_rows: int) -> float:
        """Return the bytes that the larger one of the encoders needs on the way."""
        width, inner = self.whisper
        speech = self.number * n_rows * self.n_frames * (4 * width + 2 * inner)
        width, inner, n_heads = self.beats
        n_biases = (n_rows + 1) * n_heads * self.n_patches**2
        return max(speech, 4 * (n_biases + n_rows * self.n_patches * (width + 2 * inner)))


def sum_up(frozen: int, trained: Shapes, training: int, prediction: int) -> dict[str, int]:
    """Return what training and prediction need together on one device.

    What is trained is float32; its gradients and the two moments of AdamW take 12 bytes for each
    parameter. Training includes validation. Not counted: the copies in 16 bits that
    `training.bf16` makes of a language model in float32.

    Args:
        frozen: bytes of the frozen weights.
        trained: shapes of what is trained.
        training: bytes of activations of a step.
        prediction: bytes of activations of a batch in prediction.

    Returns:
        Bytes of `weights`, `optimizer`, `training activations`, `prediction activations` and
        `context`, and the sums `training` and `prediction`.
    """
    weights = frozen + 4 * count_parameters(trained)
    optimizer = 12 * count_parameters(trained)
    training = max(training, prediction)
    return {
        "weights": weights,
        "optimizer": optimizer,
        "training activations": training,
        "prediction activations": prediction,
        "context": _CONTEXT,
        "training": weights + optimizer + training + _CONTEXT,
        "prediction": weights + prediction + _CONTEXT,
    }


def rows_per_step(training: TrainingConfig) -> int:
    """Return how many rows one process trains on at once."""
    n_rows = training.global_batch_size
    return min(int(training.arguments.get("per_device_train_batch_size", n_rows)), n_rows)


def is_checkpointed(training: TrainingConfig) -> bool:
    """Tell whether activations are computed again instead of kept."""
    keys = ("gradient_checkpointing", "activation_checkpointing")
    return any(training.arguments.get(key) for key in keys)


def _is_matrix(key: str, shape: tuple[int, ...]) -> bool:
    """Tell whether it is a linear layer's in one of the blocks, which is what gets quantized."""
    return len(shape) == 2 and re.search(r"\.\d+\.", key) is not None


def count_parameters(shapes: Shapes) -> int:
    """Return the number of parameters."""
    return sum(math.prod(shape) for shape in shapes.values())


def count_layers(shapes: Shapes) -> int:
    """Return the number of transformer layers, as numbered in the names.

    Example:
        >>> count_layers({"layers.0.fc1.weight": (8, 4), "layers.1.fc1.weight": (8, 4)})
        2
    """
    return len({match[1] for key in shapes if (match := re.search(r"layers?\.(\d+)\.", key))})


def check_memory(
    config: ClassifierConfig,
    needed: Mapping[str, int],
    findings: Findings,
    *,
    weights: str,
    savings: str,
) -> None:
    """Compare what training and prediction need with the smallest device of this machine.

    Args:
        config: names the sizes of batches.
        needed: of `sum_up`.
        findings: get one line for each of the two.
        weights: number type of most weights.
        savings: settings that need less, for whoever has too little.
    """
    devices = findings.attempt("devices", "", find_devices) or ()
    known = [device for device in devices if device.total_bytes is not None]
    device = min(known, key=lambda device: device.total_bytes or 0, default=None)
    sizes = {key: format_bytes(n_bytes) for key, n_bytes in needed.items()}
    frozen, context = f"{sizes['weights']} of weights ({weights})", f"{sizes['context']} for the"
    training, batch = config.training, config.inference.batch_size
    rows = training.arguments.get("per_device_train_batch_size", training.global_batch_size)
    details = (
        f"{frozen}, {sizes['optimizer']} of gradients and optimizer, "
        f"{sizes['training activations']} for batches of {rows}, and of {batch} in validation, "
        f"{context} device itself"
    )
    what = "memory for training"
    findings.append(compare_with_device(what, needed["training"], details, device, savings))
    details = (
        f"{frozen}, {sizes['prediction activations']} for batches of {batch}, {context} "
        "device itself"
    )
    what = "memory for prediction"
    findings.append(compare_with_device(what, needed["prediction"], details, device, savings))


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
