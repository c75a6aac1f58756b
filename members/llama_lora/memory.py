"""What the member needs of a device's memory, computed from the shapes of its weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from members.llama_lora.config import LlamaLoraConfig

__all__ = ["memory_needed"]

Shapes = Mapping[str, tuple[int, ...]]

_CONTEXT = 3 * 2**28
"""0.75 GiB: the driver's context, and what the libraries for matrices set aside."""

_BYTES = {
    "float32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    # One byte, and a float32 scale per row, which is nothing.
    "int8": 1.0,
    # QLoRA: half a byte; an 8-bit scale per 64 weights, and a float32 one per 256 of these.
    "nf4": 0.5 + 1 / 64 + 4 / (64 * 256),
}


def memory_needed(
    config: LlamaLoraConfig,
    language_model: Shapes,
    trained: Shapes,
    *,
    width: int,
    n_layers: int,
) -> dict[str, int]:
    """Bytes that training and prediction need on one device; within some 30 %, not measured.

    With B rows in a batch, all of them of L = `max_tokens` tokens, width H, feed-forward width I, k
    adapters in each of n layers, and c the bytes of a number in computing:

    - weights: parameters times the bytes of their type. int8 and nf4 hold for the matrices of the
      layers; the rest is 16-bit. What is trained is float32.
    - gradients and the two moments of AdamW: 12 bytes per trained parameter.
    - training: a layer keeps B L ((8 c + 7 k) H + 3 c I) bytes, times n; with gradient
      checkpointing one layer does, and of all others c B L H. Gradients on the way, or pooling and
      the last norm: 24 B L H. In prediction one layer with c B L (3 H + 3 I).
    - int8 and nf4: the largest matrix once more in 16 bits, because it is unpacked for use.
    - 0.75 GiB for the device's context.

    Training includes validation, with batches of `inference.batch_size`. Not counted: the copies in
    16 bits that `training.bf16` makes of a language model in float32.

    Args:
        config: number types, batch sizes, tokens of a row.
        language_model: shapes of the frozen weights, without a head over the vocabulary.
        trained: shapes of adapters, norm, pooling and head.
        width: H.
        n_layers: n.

    Returns:
        Bytes of `weights`, `optimizer`, `training activations`, `prediction activations` and
        `context`, and the sums `training` and `prediction`.
    """
    arguments = config.training.arguments
    matrices = {k: shape for k, shape in language_model.items() if _is_matrix(k, shape)}
    rest = _count(language_model) - _count(matrices)
    number = 4 if config.weights == "float32" else 2
    weights = int(_count(matrices) * _BYTES[config.weights] + rest * number + 4 * _count(trained))
    optimizer = 12 * _count(trained)

    inner = max(max(shape) for shape in matrices.values())
    n_adapters = sum(".lora_A." in key for key in trained) / n_layers
    is_quantised = config.weights in ("int8", "nf4")
    unpacked = 2 * is_quantised * max(math.prod(shape) for shape in matrices.values())
    n_rows = min(
        int(arguments.get("per_device_train_batch_size", config.training.global_batch_size)),
        config.training.global_batch_size,
    )
    n_tokens = n_rows * config.max_tokens
    layer = n_tokens * ((8 * number + 7 * n_adapters) * width + 3 * number * inner)
    if any(arguments.get(f"{what}_checkpointing") for what in ("gradient", "activation")):
        kept = layer + n_layers * number * n_tokens * width
    else:
        kept = n_layers * layer
    n_read = config.inference.batch_size * config.max_tokens
    prediction = round(number * n_read * (3 * width + 3 * inner) + unpacked)
    training = max(round(kept + 24 * n_tokens * width + unpacked), prediction)
    return {
        "weights": weights,
        "optimizer": optimizer,
        "training activations": training,
        "prediction activations": prediction,
        "context": _CONTEXT,
        "training": weights + optimizer + training + _CONTEXT,
        "prediction": weights + prediction + _CONTEXT,
    }


def _is_matrix(key: str, shape: tuple[int, ...]) -> bool:
    """Whether it is a linear layer's in one of the blocks, which is what gets quantised."""
    return len(shape) == 2 and re.search(r"\.\d+\.", key) is not None


def _count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())
