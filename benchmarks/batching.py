"""Batches of similar length against batches in random order: padding, and the time of an epoch.

A small random WavLM (layer norm, 2 layers, width 64) takes one epoch of noise clips of 1 to 10 s
forward and backward, in both orders by turns, in one process and one thread. Run it with:

    python benchmarks/batching.py
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from abhinaya.cli.processes import quiet_libraries
from abhinaya.data.audio import SAMPLE_RATE_HZ, pad_waveforms
from abhinaya.demo.checkpoints.encoders import write_wavlm
from abhinaya.loading.sampling import LengthGroupedSampler
from members.wavlm.model import WavLMBackbone

N_CLIPS = 96
BATCH_SIZE = 16
N_ROUNDS = 3


def padded_share(batches: list[list[int]], lengths: np.ndarray) -> float:
    """Samples that the model sees per real sample."""
    seen = sum(len(batch) * lengths[batch].max() for batch in batches)
    return float(seen / lengths.sum())


def epoch_s(backbone: WavLMBackbone, clips: list[np.ndarray], batches: list[list[int]]) -> float:
    start = time.perf_counter()
    for batch in batches:
        waveforms, mask = pad_waveforms([clips[idx] for idx in batch])
        states, frames = backbone.forward_pretrained(
            torch.from_numpy(waveforms), torch.from_numpy(mask)
        )
        (states.mean(1) * frames[..., None]).sum().backward()
    return time.perf_counter() - start


def cut(order: list[int]) -> list[list[int]]:
    return [order[at : at + BATCH_SIZE] for at in range(0, len(order), BATCH_SIZE)]


def main() -> None:
    """Print the padding of both orders and the ratio of their times."""
    torch.set_num_threads(1)
    quiet_libraries()
    rng = np.random.default_rng(0)
    lengths = rng.integers(SAMPLE_RATE_HZ, 10 * SAMPLE_RATE_HZ, N_CLIPS)
    clips = [rng.normal(0, 0.1, n).astype(np.float32) for n in lengths]
    with tempfile.TemporaryDirectory() as folder:
        write_wavlm(Path(folder), n_layers=2)
        backbone = WavLMBackbone.from_pretrained(folder, freeze="nothing", spec_augment=False)
    sampler = LengthGroupedSampler(lengths.tolist(), BATCH_SIZE, seed=0)
    grouped = cut([idx for idx, _ in sampler])
    shuffled = cut(rng.permutation(N_CLIPS).tolist())
    ratios = []
    for _ in range(N_ROUNDS):
        random_s = epoch_s(backbone, clips, shuffled)
        ratios.append(random_s / epoch_s(backbone, clips, grouped))
    print(f"{N_CLIPS} clips of 1 to 10 s, batches of {BATCH_SIZE}, {N_ROUNDS} rounds")
    print(
        f"seen / real samples: random {padded_share(shuffled, lengths):.2f}, "
        f"grouped {padded_share(grouped, lengths):.2f}"
    )
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(f"time random / grouped: {low:.2f} / {middle:.2f} / {high:.2f} (min / median / max)")


if __name__ == "__main__":
    main()
