"""Batches of clips against one clip at a time: the time that Whisper needs for their texts.

A random Whisper of the size of `tiny` (4 + 4 layers, width 384, 30 s windows) decodes noise clips
greedily, its texts cut off after as many tokens as a spoken clip has, in batches and one by one by
turns, in one process and one thread. Run it with:

    python benchmarks/transcribe.py
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from abhinaya.audio import SAMPLE_RATE_HZ
from abhinaya.cli.processes import quiet_libraries
from abhinaya.demo.checkpoints import write_whisper_openai
from members.transcripts.decoding import DecodingSettings, Recogniser, Transcript
from members.transcripts.model import load_whisper

N_CLIPS = 16
N_TOKENS = 32
BATCH_SIZES = (4, 16)
N_ROUNDS = 3


def transcribe(
    recogniser: Recogniser, clips: list[np.ndarray], batch_size: int
) -> tuple[float, list[Transcript]]:
    """Seconds, and the texts."""
    found = []
    start = time.perf_counter()
    for at in range(0, len(clips), batch_size):
        some = clips[at : at + batch_size]
        names = [str(at + number) for number in range(len(some))]
        found += recogniser.transcribe(names, [[clip] for clip in some], batch_size=batch_size)
    return time.perf_counter() - start, found


def main() -> None:
    """Print the ratio of the times."""
    torch.set_num_threads(1)
    quiet_libraries()
    rng = np.random.default_rng(0)
    lengths = rng.integers(SAMPLE_RATE_HZ, 10 * SAMPLE_RATE_HZ, N_CLIPS)
    clips = [rng.normal(0, 0.1, n).astype(np.float32) for n in lengths]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tiny.pt"
        write_whisper_openai(
            file,
            n_features=384,
            n_decoder_layers=4,
            n_tokens=51865,
            n_positions=2 * N_TOKENS,
            init_std=0.1,
        )
        model = load_whisper(str(file), torch.device("cpu"))
    for timestamps in (True, False):
        settings = DecodingSettings("en", temperatures=(0.0,), timestamps=timestamps)
        recogniser = Recogniser(model, settings)
        for batch_size in BATCH_SIZES:
            ratios, n_same = [], 0
            for _ in range(N_ROUNDS):
                alone_s, alone = transcribe(recogniser, clips, 1)
                batched_s, batched = transcribe(recogniser, clips, batch_size)
                ratios.append(alone_s / batched_s)
                n_same = sum(a.text == b.text for a, b in zip(alone, batched, strict=True))
            low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
            print(
                f"{N_CLIPS} clips, time stamps {'on' if timestamps else 'off'}: one by one / "
                f"batches of {batch_size}: {low:.2f} / {middle:.2f} / {high:.2f} "
                f"(min / median / max), {n_same} texts the same"
            )


if __name__ == "__main__":
    main()
