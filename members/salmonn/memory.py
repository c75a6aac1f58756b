"""What a SALMONN needs of a device's memory, computed from the shapes of its weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from abhinaya.data.audio import SAMPLE_RATE_HZ
from members.salmonn.beats.fbank import n_fbank_frames
from members.salmonn.build import window_frames
from members.salmonn.config import SalmonnConfig

__all__ = ["PartShapes", "Shapes", "count_layers", "memory_needed"]

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each tensor by its name."""

_FRAMES_PER_S = 50
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


@dataclass(frozen=True)
class PartShapes:
    """Shapes of all weights of a SALMONN classifier.

    Args:
        language_model: of the bare language model, under the names of LLaMA.
        whisper: of the encoder, under the names of WhisperEncoder.
        beats: of the encoder, under the names of `Beats`.
        trained: of all that is trained: Q-Former, projection, norms, adapters, pooling, head.
    """

    language_model: Shapes
    whisper: Shapes
    beats: Shapes
    trained: Shapes


def memory_needed(
    config: SalmonnConfig, shapes: PartShapes, *, n_text_tokens: int
) -> dict[str, int]:
    """Bytes that training and prediction need on one device; within some 30 %, not measured.

    With B clips (segments) in a batch, T = 1500 frames of D features in Whisper (feed-forward F),
    N patches in BEATs (width E, feed-forward G), L tokens of width H in the language model
    (feed-forward I, k adapters in each of n layers), and c the bytes of a number in computing:

    - weights: parameters times the bytes of their type. int8 and nf4 hold for the matrices of the
      language model's layers, the rest of which is 16-bit. BEATs and what is trained are float32.
    - gradients and the two moments of AdamW: 12 bytes per trained parameter.
    - encoders, no gradient, only one layer at a time: c B T (4 D + 2 F) for Whisper, and
      4 ((B + 1) heads N^2 + B N (E + 2 G)) for BEATs. What they return: 4 B T (D + E + 1).
    - Q-Former with q layers, h heads (of 64), Q queries and windows of w frames: per number that
      the encoders return q (5.5 + 6.5 h Q / w) bytes; in prediction 8 + 6.5 h Q / w.
    - language model in training: a layer keeps B L ((8 c + 7 k) H + 3 c I) bytes, times n; with
      gradient checkpointing one layer does, and of all others c B L H. Gradients on the way, or
      pooling and the last norm: 24 B L H. In prediction one layer with c B L (3 H + 3 I).
    - int8 and nf4: the largest matrix once more in 16 bits, because it is unpacked for use.
    - 0.75 GiB for the device's context.

    The constants are what PyTorch 2.13 keeps for the gradients, counted at the published sizes.
    Training includes validation, with batches of `inference.batch_size`. Not counted: the copies in
    16 bits that `training.bf16` makes of a language model in float32.

    Args:
        config: number types, batch sizes, lengths of clips.
        shapes: of all weights.
        n_text_tokens: BOS, prompt and text of one clip, speech aside.

    Returns:
        Bytes of `language model`, `whisper`, `beats`, `trained` (weights alone), `optimizer`,
        `training activations`, `prediction activations` and `context`, and the sums `weights` (of
        the first four), `training` and `prediction`.
    """
    training = config.training.arguments
    n_bytes = {
        "language model": _language_model_bytes(config, shapes.language_model),
        "whisper": int(_n_parameters(shapes.whisper) * _BYTES[config.whisper_weights]),
        "beats": 4 * _n_parameters(shapes.beats),
        "trained": 4 * _n_parameters(shapes.trained),
    }
    weights = sum(n_bytes.values())
    n_trained_rows = min(
        int(training.get("per_device_train_batch_size", config.training.global_batch_size)),
        config.training.global_batch_size,
    )
    n_segments = config.audio.eval_crop if isinstance(config.audio.eval_crop, int) else 1
    sizes = _Sizes.of(config, shapes, n_text_tokens)
    is_checkpointed = any(
        training.get(key) for key in ("gradient_checkpointing", "activation_checkpointing")
    )
    prediction = sizes.prediction(config.inference.batch_size * n_segments)
    n_bytes["optimizer"] = 3 * n_bytes["trained"]
    n_bytes["training activations"] = max(
        sizes.training(n_trained_rows, is_checkpointed), prediction
    )
    n_bytes["prediction activations"] = prediction
    n_bytes["context"] = _CONTEXT
    n_bytes["weights"] = weights
    n_bytes["training"] = (
        weights + n_bytes["optimizer"] + n_bytes["training activations"] + _CONTEXT
    )
    n_bytes["prediction"] = weights + prediction + _CONTEXT
    return n_bytes


@dataclass(frozen=True)
class _Sizes:
    """The letters of `memory_needed`'s formulas."""

    frames: int  # T
    whisper: tuple[int, int]  # D, F
    whisper_bytes: float
    patches: int  # N
    beats: tuple[int, int, int]  # E, G, heads
    qformer_layers: int
    queries_per_frame: float  # h Q / w
    tokens: int  # L
    llm: tuple[int, int]  # H, I
    llm_layers: int
    adapters: float  # k
    llm_bytes: float
    unpacked: int

    @classmethod
    def of(cls, config: SalmonnConfig, shapes: PartShapes, n_text_tokens: int) -> _Sizes:
        whisper, beats, llm = shapes.whisper, shapes.beats, shapes.language_model
        n_frames, width = whisper["embed_positions.weight"]
        heard_s = n_frames / _FRAMES_PER_S
        longest = max(
            config.audio.max_audio_s if crop != "full" else heard_s
            for crop in (config.audio.train_crop, config.audio.eval_crop)
        )
        audio_s = min(longest, heard_s)
        window = window_frames(config.window_s)
        if config.trim_padding:
            n_frames = min(n_frames, window * math.ceil(audio_s * _FRAMES_PER_S / window))
        stride = window_frames(config.stride_s or config.window_s)
        _, n_queries, qformer_width = shapes.trained["adapter.query_tokens"]
        n_speech = n_queries * ((n_frames - window) // stride + 1)
        n_layers = count_layers(llm)
        lora = [key for key in shapes.trained if ".lora_A." in key]
        is_quantised = config.llm_weights in ("int8", "nf4")
        return cls(
            frames=n_frames,
            whisper=(width, whisper["layers.0.fc1.weight"][0]),
            whisper_bytes=_BYTES[config.whisper_weights],
            patches=8 * (n_fbank_frames(round(audio_s * SAMPLE_RATE_HZ)) // 16),
            beats=(
                beats["encoder.layers.0.fc1.weight"][1],
                beats["encoder.layers.0.fc1.weight"][0],
                beats["encoder.layers.0.self_attn.grep_a"][1],
            ),
            qformer_layers=count_layers(
                {k: v for k, v in shapes.trained.items() if k.startswith("adapter.qformer.")}
            ),
            queries_per_frame=max(1, qformer_width // 64) * n_queries / window,
            tokens=n_speech + n_text_tokens,
            llm=(
                llm["embed_tokens.weight"][1],
                max(shape[0] for key, shape in llm.items() if _is_matrix(key, shape)),
            ),
            llm_layers=n_layers,
            adapters=len(lora) / n_layers,
            llm_bytes=4.0 if config.llm_weights == "float32" else 2.0,
            unpacked=2
            * is_quantised
            * max(math.prod(shape) for key, shape in llm.items() if _is_matrix(key, shape)),
        )

    def training(self, n_rows: int, is_checkpointed: bool) -> int:
        width, inner = self.llm
        n_tokens, number = n_rows * self.tokens, self.llm_bytes
        layer = n_tokens * ((8 * number + 7 * self.adapters) * width + 3 * number * inner)
        if is_checkpointed:
            kept = layer + self.llm_layers * number * n_tokens * width
        else:
            kept = self.llm_layers * layer
        encoded = self._encoded(n_rows)
        kept += 24 * n_tokens * width + self.unpacked
        kept += self.qformer_layers * (5.5 + 6.5 * self.queries_per_frame) * encoded
        return round(4 * encoded + max(self._encoding(n_rows), kept))

    def prediction(self, n_rows: int) -> int:
        width, inner = self.llm
        layer = self.llm_bytes * n_rows * self.tokens * (3 * width + 3 * inner) + self.unpacked
        encoded = self._encoded(n_rows)
        adapter = (8 + 6.5 * self.queries_per_frame) * encoded
        return round(4 * encoded + max(self._encoding(n_rows), adapter, layer))

    def _encoded(self, n_rows: int) -> int:
        """Numbers that the encoders return."""
        return n_rows * self.frames * (self.whisper[0] + self.beats[0] + 1)

    def _encoding(self, n_rows: int) -> float:
        """Bytes that the larger one of the encoders needs on the way."""
        width, inner = self.whisper
        speech = self.whisper_bytes * n_rows * self.frames * (4 * width + 2 * inner)
        width, inner, n_heads = self.beats
        n_biases = (n_rows + 1) * n_heads * self.patches**2
        sound = 4 * (n_biases + n_rows * self.patches * (width + 2 * inner))
        return max(speech, sound)


def _language_model_bytes(config: SalmonnConfig, shapes: Shapes) -> int:
    matrices = sum(math.prod(shape) for key, shape in shapes.items() if _is_matrix(key, shape))
    rest = _n_parameters(shapes) - matrices
    rest_bytes = 4 if config.llm_weights == "float32" else 2
    return int(matrices * _BYTES[config.llm_weights] + rest * rest_bytes)


def _is_matrix(key: str, shape: tuple[int, ...]) -> bool:
    """Whether it is a linear layer's, which is what gets quantised."""
    return len(shape) == 2 and "embed" not in key


def _n_parameters(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def count_layers(shapes: Shapes) -> int:
    """Number of transformer layers, as numbered in the names.

    Example:
        >>> count_layers({"layers.0.fc1.weight": (8, 4), "layers.1.fc1.weight": (8, 4)})
        2
    """
    return len({match[1] for key in shapes if (match := re.search(r"layers?\.(\d+)\.", key))})
