"""The probes of an audit, five seeds of 200 epochs: one by one against one batched model."""

from __future__ import annotations

import time

import numpy as np
import torch

from abhinaya.probing.probe import ProbeRun, ProbeSettings, predict, train_probes

N_ROWS, N_LAYERS, WIDTH, N_CLASSES, N_SEEDS = 535, 5, 384, 7, 5
"""EmoDB under Whisper tiny."""
N_ROUNDS = 1


def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    features = rng.standard_normal((N_ROWS, N_LAYERS, WIDTH)).astype(np.float32)
    labels = rng.integers(0, N_CLASSES, N_ROWS)
    features[:, 2, :N_CLASSES] += np.eye(N_CLASSES, dtype=np.float32)[labels]
    runs = [
        ProbeRun(features, labels, rng.permutation(N_ROWS)[:320], seed, N_CLASSES)
        for seed in range(N_SEEDS)
    ]
    for hidden in (0, 256):
        settings = ProbeSettings(hidden=hidden)
        train_probes(runs, settings.model_copy(update={"epochs": 1}))  # warm
        ratios = []
        for _ in range(N_ROUNDS):
            start = time.process_time()
            together = train_probes(runs, settings)
            middle = time.process_time()
            alone = [train_probes([run], settings)[0] for run in runs]
            ratios.append((time.process_time() - middle) / (middle - start))
        for one, other in zip(together, alone, strict=True):
            assert (predict(one, features) == predict(other, features)).all()
        low, mid, high = sorted(ratios)
        print(f"hidden {hidden}: one by one over batched {low:.2f} / {mid:.2f} / {high:.2f}")


if __name__ == "__main__":
    main()
