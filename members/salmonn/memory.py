"""Sizes of a SALMONN classifier for the formulas of `abhinaya/doctor/memory.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from abhinaya.data.audio import SAMPLE_RATE_HZ
from abhinaya.doctor.memory import (
    BYTES,
    LanguageModel,
    Shapes,
    SpeechEncoders,
    count_layers,
    count_parameters,
    is_checkpointed,
    rows_per_step,
    sum_up,
)
from members.salmonn.beats.fbank import n_fbank_frames
from members.salmonn.build import window_frames
from members.salmonn.config import SalmonnConfig

__all__ = ["SourceShapes", "memory_needed"]

_FRAMES_PER_S = 50


@dataclass(frozen=True)
class SourceShapes:
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
    config: SalmonnConfig, shapes: SourceShapes, *, n_text_tokens: int
) -> dict[str, int]:
    """Return the bytes that training and prediction need on one device, not measured.

    BEATs and what is trained are float32.

    Args:
        config: number types, batch sizes, lengths of clips.
        shapes: of all weights.
        n_text_tokens: BOS, prompt and text of one clip, speech aside.

    Returns:
        What `sum_up` returns, and of its `weights` the shares of `language model`, `whisper`,
        `beats` and `trained`.
    """
    llm = shapes.language_model
    language_model = LanguageModel.of(
        llm,
        shapes.trained,
        config.llm_weights,
        width=llm["embed_tokens.weight"][1],
        n_layers=count_layers(llm),
    )
    speech = _speech(config, shapes)
    shares = {
        "language model": language_model.weights,
        "whisper": int(count_parameters(shapes.whisper) * BYTES[config.whisper_weights]),
        "beats": 4 * count_parameters(shapes.beats),
    }
    n_tokens = _count_speech_tokens(config, shapes, speech.n_frames) + n_text_tokens
    n_rows = rows_per_step(config.training)
    n_crops = config.audio.eval_crop if isinstance(config.audio.eval_crop, int) else 1
    n_read = config.inference.batch_size * n_crops
    kept = language_model.training(n_rows * n_tokens, checkpointed=is_checkpointed(config.training))
    needed = sum_up(
        sum(shares.values()),
        shapes.trained,
        speech.training(n_rows, kept),
        speech.prediction(n_read, language_model.prediction(n_read * n_tokens)),
    )
    return shares | {"trained": 4 * count_parameters(shapes.trained)} | needed


def _speech(config: SalmonnConfig, shapes: SourceShapes) -> SpeechEncoders:
    whisper, beats = shapes.whisper, shapes.beats
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
    _, n_queries, qformer_width = shapes.trained["adapter.query_tokens"]
    inner, beats_width = beats["encoder.layers.0.fc1.weight"]
    return SpeechEncoders(
        n_frames=n_frames,
        whisper=(width, whisper["layers.0.fc1.weight"][0]),
        number=BYTES[config.whisper_weights],
        n_patches=8 * (n_fbank_frames(round(audio_s * SAMPLE_RATE_HZ)) // 16),
        beats=(beats_width, inner, beats["encoder.layers.0.self_attn.grep_a"][1]),
        qformer_layers=count_layers(
            {k: v for k, v in shapes.trained.items() if k.startswith("adapter.qformer.")}
        ),
        queries_per_frame=max(1, qformer_width // 64) * n_queries / window,
    )


def _count_speech_tokens(config: SalmonnConfig, shapes: SourceShapes, n_frames: int) -> int:
    n_queries = shapes.trained["adapter.query_tokens"][1]
    stride = window_frames(config.stride_s or config.window_s)
    return n_queries * ((n_frames - window_frames(config.window_s)) // stride + 1)
