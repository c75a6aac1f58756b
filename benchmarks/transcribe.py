"""Batches of clips against one clip at a time: the time that Whisper needs for their texts.

A random Whisper of the size of `tiny` (4 + 4 layers, width 384, 30 s windows) decodes noise clips
greedily, its texts cut off after as many tokens as a spoken clip has, in one batch and one by one
by turns, in one process and one thread: with the encoder, and from encoded clips on. Run it with:

    python benchmarks/transcribe.py
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import whisper

from abhinaya.asr.decoding import DecodingSettings, Recognizer
from abhinaya.asr.model import load_whisper
from abhinaya.cli.processes import quiet_libraries
from abhinaya.data.audio import SAMPLE_RATE_HZ
from abhinaya.demo.checkpoints.encoders import write_whisper_openai

N_CLIPS = 8
N_TOKENS = 32
N_ROUNDS = 3


def whole_s(recognizer: Recognizer, clips: list[np.ndarray], batch_size: int) -> float:
    """Seconds from waveforms to texts."""
    start = time.perf_counter()
    for at in range(0, len(clips), batch_size):
        some = [[clip] for clip in clips[at : at + batch_size]]
        recognizer.transcribe([str(n) for n in range(len(some))], some, batch_size=batch_size)
    return time.perf_counter() - start


def decoder_s(recognizer: Recognizer, features: torch.Tensor, batch_size: int) -> float:
    """Seconds from encoded clips to texts."""
    options = whisper.DecodingOptions(language="en", fp16=False)
    start = time.perf_counter()
    for some in features.split(batch_size):
        whisper.decode(recognizer.model, some, options)
    return time.perf_counter() - start


def main() -> None:
    """Print the ratios of the times."""
    torch.set_num_threads(1)
    quiet_libraries()
    rng = np.random.default_rng(0)
    lengths = rng.integers(SAMPLE_RATE_HZ, 10 * SAMPLE_RATE_HZ, N_CLIPS)
    clips = [rng.normal(0, 0.1, n).astype(np.float32) for n in lengths]
    size = {"n_features": 384, "n_decoder_layers": 4, "n_tokens": 51865, "init_std": 0.1}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tiny.pt"
        write_whisper_openai(file, n_positions=2 * N_TOKENS, **size)
        model = load_whisper(str(file), torch.device("cpu"))
    recognizer = Recognizer(model, DecodingSettings("en", temperatures=(0.0,)))
    mels = [
        whisper.log_mel_spectrogram(whisper.pad_or_trim(clip), model.dims.n_mels) for clip in clips
    ]
    with torch.no_grad():
        features = torch.cat([model.encoder(mel[None]) for mel in mels])
    print(f"{N_CLIPS} clips of 1 to 10 s, texts of {N_TOKENS} tokens, {N_ROUNDS} rounds")
    for what, seconds, inputs in (
        ("all", whole_s, clips),
        ("from encoded clips on", decoder_s, features),
    ):
        ratios = []
        for _ in range(N_ROUNDS):
            alone_s = seconds(recognizer, inputs, 1)
            ratios.append(alone_s / seconds(recognizer, inputs, N_CLIPS))
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        print(
            f"time one by one / in a batch, {what}: {low:.2f} / {middle:.2f} / {high:.2f} "
            "(min / median / max)"
        )


if __name__ == "__main__":
    main()
