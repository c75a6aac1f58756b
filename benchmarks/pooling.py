"""Attentive statistics pooling: the published loop over utterances against one batched pass.

    python benchmarks/pooling.py [--device cuda] [--n-features 1024] [--n-rounds 7]

Both run forward and backward on the same random batch, taking turns in one process with one
thread, so that a busy machine slows both alike. Printed is how many times longer the loop takes,
smallest, median and largest of the rounds: once with clips of one length, once with clips of half
to full length. On a CPU the loop wins: its pieces fit into the cache, and it never multiplies
padding. Either is small beside an encoder there. The batched pass is meant for accelerators, where
the loop waits for the lengths and makes some ten small calls per clip.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from abhinaya.nn.pooling import AttentiveStatisticsPooling

BATCH_SIZES = (8, 32, 128)
N_FRAMES = 500  # ten seconds at 50 frames per second


def pool_one_by_one(pooling: AttentiveStatisticsPooling, frames: Tensor, mask: Tensor) -> Tensor:
    """Each utterance cut to its length and pooled alone, as published code does it."""
    pooled = []
    for row, length in zip(frames, mask.sum(dim=1).tolist(), strict=True):
        clip = row[:length]
        scores = torch.tanh(pooling.sap_linear(clip)) @ pooling.attention
        weights = scores.softmax(dim=0)
        mean = (weights * clip).sum(dim=0)
        variance = (weights * clip**2).sum(dim=0) - mean**2
        pooled.append(torch.cat([mean, variance.clamp(min=1e-5).sqrt()]))
    return torch.stack(pooled)


def pool_batched(pooling: AttentiveStatisticsPooling, frames: Tensor, mask: Tensor) -> Tensor:
    pooled: Tensor = pooling(frames, mask)
    return pooled


Pool = Callable[[AttentiveStatisticsPooling, Tensor, Tensor], Tensor]


def seconds(pool: Pool, pooling: AttentiveStatisticsPooling, frames: Tensor, mask: Tensor) -> float:
    frames = frames.detach().requires_grad_()
    start = time.perf_counter()
    torch.autograd.grad(pool(pooling, frames, mask).square().sum(), [frames, *pooling.parameters()])
    if frames.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(batch_size: int, shortest: int, n_features: int, n_rounds: int, device: str) -> str:
    torch.manual_seed(batch_size)
    pooling = AttentiveStatisticsPooling(n_features).to(device)
    frames = torch.randn(batch_size, N_FRAMES, n_features, device=device)
    lengths = torch.randint(shortest, N_FRAMES + 1, (batch_size,))
    mask = (torch.arange(N_FRAMES) < lengths.unsqueeze(1)).to(device)
    ours = pool_batched(pooling, frames, mask)
    theirs = pool_one_by_one(pooling, frames, mask)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)

    ratios, ours_s = [], []
    for _ in range(n_rounds):
        theirs_s = seconds(pool_one_by_one, pooling, frames, mask)
        ours_s.append(seconds(pool_batched, pooling, frames, mask))
        ratios.append(theirs_s / ours_s[-1])
    return (
        f"B {batch_size:4d}  frames {shortest:3d}-{N_FRAMES}  "
        f"batched {1000 * statistics.median(ours_s):8.1f} ms  loop / batched "
        f"{min(ratios):.2f} / {statistics.median(ratios):.2f} / {max(ratios):.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--n-features", type=int, default=512)
    parser.add_argument("--n-rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for shortest in (N_FRAMES, N_FRAMES // 2):
        for batch_size in BATCH_SIZES:
            line = compare(batch_size, shortest, args.n_features, args.n_rounds, args.device)
            print(line, flush=True)


if __name__ == "__main__":
    main()
