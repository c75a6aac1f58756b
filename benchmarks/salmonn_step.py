"""One training step of SALMONN as a classifier: as the original does it, and as ours does.

The original runs the causal language model with labels (head over the vocabulary, cross-entropy
that nothing uses), stacks all hidden states into one tensor, fills a key-value cache, computes
attention eagerly, and encodes the sound anew in every step. Ours leaves all that out. Both have the
same random weights and the same result, which is checked first; they run by turns in one process.

    python benchmarks/salmonn_step.py                a middle-sized model, on one CPU thread
    python benchmarks/salmonn_step.py --size 7b      SALMONN-7B in bfloat16, on an accelerator
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import original_step, our_step, peak_mib, salmonn, salmonn_batch, start_peak, timed
from torch import Tensor
from transformers import LlamaForCausalLM

from abhinaya.loading.features import collate_features
from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.nn.head import EmotionHead
from abhinaya.nn.losses.build import LossConfig, build_loss
from abhinaya.nn.pooling import build_pooling

BATCH_SIZE, SECONDS = 4, 5.0
SIZES = ("middle", "7b", "13b")


def build(
    size: str, device: torch.device, **options: Any
) -> tuple[EmotionClassifier, LlamaForCausalLM]:
    """The classifier, the same in every call, and the causal model that shares its weights."""
    backbone, causal = salmonn(size, device, **options)
    torch.manual_seed(0)
    pooling = build_pooling("attentive-statistics", backbone.n_features)
    head = EmotionHead(pooling.output_size, 8, hidden=1024, norm="none")
    loss = build_loss(LossConfig(name="focal"), [1] * 8)
    # Without dropout, so that both ways can be compared; its cost is the same for both.
    return EmotionClassifier(backbone, pooling, head, loss).to(device).eval(), causal


def make_batch(device: torch.device) -> dict[str, Tensor]:
    """Noise of five seconds and made-up tokens."""
    batch = salmonn_batch(BATCH_SIZE, SECONDS, vocabulary=32_001)
    return {name: value.to(device) for name, value in batch.items()}


def check_same(
    model: EmotionClassifier, causal: LlamaForCausalLM, batch: dict[str, Tensor], labels: Tensor
) -> None:
    """Both ways give the same loss and the same gradients."""
    tolerance = 1e-4 if batch["fbank"].device.type == "cpu" else 5e-2
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    theirs = original_step(model, causal, batch, labels)
    expected = [parameter.grad.clone() for parameter in trained]
    model.zero_grad()
    ours = our_step(model, batch, labels)
    assert abs(ours.item() - theirs.item()) < tolerance
    for parameter, gradient in zip(trained, expected, strict=True):
        difference = (parameter.grad - gradient).norm()
        assert difference <= tolerance * gradient.norm() + 1e-7
    model.zero_grad()


def stored_batch(
    model: EmotionClassifier, batch: dict[str, Tensor], folder: Path
) -> Callable[[], dict[str, Tensor]]:
    """Reads the encoders' output from disk as the feature store does, once per step."""
    backbone = model.backbone
    context = {name: batch[name] for name in backbone.context}
    rest = {name: value for name, value in batch.items() if name not in context}
    states, _ = backbone.forward_pretrained(**rest)
    for idx, clip in enumerate(states):
        np.save(folder / f"{idx}.npy", clip.transpose(0, 1).cpu().numpy())

    def load() -> dict[str, Tensor]:
        files = [folder / f"{idx}.npy" for idx in range(BATCH_SIZE)]
        stored = collate_features([{"states": np.load(f, mmap_mode="r")} for f in files])
        device = batch["fbank"].device
        return {name: value.to(device) for name, value in stored.items()} | context

    return load


def peak_memory(way: str, size: str, device: torch.device) -> float:
    """Largest memory in MiB beyond the weights while two steps run; alone in this process."""
    model, causal = build(size, device)
    batch, labels = make_batch(device), torch.arange(BATCH_SIZE, device=device)
    start_peak(device)
    before = peak_mib(device)
    for _ in range(2):
        if way == "original":
            original_step(model, causal, batch, labels)
        else:
            our_step(model, batch, labels)
    return peak_mib(device) - before


def main() -> None:
    """Print ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="middle")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--memory", choices=("original", "ours"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    if args.size == "middle":
        device = torch.device("cpu")
    if args.memory:
        print(peak_memory(args.memory, args.size, device))
        return
    (model, causal), (trimmed, _) = (
        build(args.size, device, trim_padding=trims) for trims in (False, True)
    )
    batch, labels = make_batch(device), torch.arange(BATCH_SIZE, device=device)
    check_same(model, causal, batch, labels)
    with tempfile.TemporaryDirectory() as folder:
        load = stored_batch(model, batch, Path(folder))
        steps: dict[str, Callable[[], object]] = {
            "original": lambda: original_step(model, causal, batch, labels),
            "ours": lambda: our_step(model, batch, labels),
            "ours, encoders cached": lambda: our_step(model, load(), labels),
            "ours, trim_padding": lambda: our_step(trimmed, batch, labels),
        }
        for step in steps.values():
            timed(time.perf_counter, step, device)
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(args.rounds):
            for name, step in steps.items():
                times[name].append(timed(time.perf_counter, step, device))
    print(
        f"batch of {BATCH_SIZE} x {SECONDS:g} s, size {args.size}, {device.type}; "
        "min / median / max"
    )
    for name in list(steps)[1:]:
        ratios = [
            mine / theirs for mine, theirs in zip(times[name], times["original"], strict=True)
        ]
        print(
            f"time, {name} over original: {min(ratios):.2f} / {statistics.median(ratios):.2f} / "
            f"{max(ratios):.2f}"
        )
    peaks = {
        way: float(
            subprocess.run(
                [sys.executable, __file__, "--size", args.size, "--memory", way],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for way in ("original", "ours")
    }
    print(
        f"peak memory beyond the weights, ours over original: {peaks['ours']:.0f} MiB / "
        f"{peaks['original']:.0f} MiB = {peaks['ours'] / peaks['original']:.2f}"
    )


if __name__ == "__main__":
    main()
