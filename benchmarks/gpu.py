"""Training steps of every member at its published size, on an accelerator: time and memory.

Weights are random and made on the device; batch, precision, pooling, head and loss are those of the
shipped config, without activation checkpointing. A step is forward, backward and AdamW. Where the
original's way is known (the language models; transcribing one by one), it runs in the same process
on the same weights, and its time and memory stand beside ours as ratios. One line per member,
printed as soon as it is measured, the most useful first.

    python benchmarks/gpu.py                         all of them, some five minutes
    python benchmarks/gpu.py --only salmonn-13b-nf4
    python benchmarks/gpu.py --size tiny --device cpu
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from models import (
    llama,
    mel_batch,
    noises,
    original_step,
    our_step,
    peak_mib,
    salmonn,
    salmonn_batch,
    start_peak,
    timed,
    token_batch,
    waveform_batch,
    wavlm,
    whisper_encoder,
)
from torch import Tensor, nn

from abhinaya.asr.decoding import DecodingSettings, Recognizer
from abhinaya.asr.model import halve_weights
from abhinaya.cli.processes import quiet_libraries
from abhinaya.member_config import load_member_config
from abhinaya.nn.build import build_head_on

N_CLASSES, N_TOKENS = 8, 128
N_ALONE = 2
"""Clips that are transcribed one by one; more would take minutes."""

SIZES = {
    "salmonn-13b": "13b",
    "salmonn-13b-nf4": "13b",
    "llama-8b-lora": "8b",
    "wavlm": "large",
    "whisper-encoder": "large",
    "salmonn-7b-speech-text": "7b",
    "transcribe": "large",
}
"""The published size of each, in the order of the table."""

HEADER = (
    f"{'member':<24}{'batch':>16}{'s per step':>12}{'peak GiB':>10}{'per second':>18}"
    f"{'time / original':>17}{'memory / original':>19}"
)


def build(kind: str, size: str, device: torch.device) -> tuple[Any, Any, Any, dict[str, Tensor]]:
    """Config, classifier, causal model or None, and batch of a member."""
    is_tiny = size == "tiny"
    member = kind.removesuffix("-nf4")
    config: Any = load_member_config(f"members/{member}.yaml", ["data.manifest=unused.parquet"])
    training = config.training.arguments
    n_clips = training.get("per_device_train_batch_size", config.training.global_batch_size)
    seconds = 1.0 if is_tiny else config.audio.max_audio_s
    causal = None
    if member.startswith("salmonn"):
        dropout = config.lora.dropout
        backbone, causal = salmonn(size, device, nf4=kind.endswith("nf4"), dropout=dropout)
        batch = salmonn_batch(n_clips, seconds, causal.config.vocab_size)
    elif member == "llama-8b-lora":
        backbone, causal = llama(size, device, dropout=config.lora.dropout)
        batch = token_batch(n_clips, 8 if is_tiny else N_TOKENS, causal.config.vocab_size)
    elif member == "wavlm":
        backbone, batch = wavlm(size, device), waveform_batch(n_clips, seconds)
    else:
        backbone, batch = whisper_encoder(size, device), mel_batch(n_clips, seconds)
    model = build_head_on(backbone, config, N_CLASSES, [10] * N_CLASSES).to(device).train()
    return config, model, causal, {name: value.to(device) for name, value in batch.items()}


def measure(kind: str, size: str, device: torch.device, n_rounds: int) -> str:
    """The line of one member."""
    config, model, causal, batch = build(kind, size, device)
    n_clips = len(next(iter(batch.values())))
    labels = torch.arange(n_clips, device=device) % N_CLASSES
    if config.loss.uses_soft_targets:
        labels = nn.functional.one_hot(labels, N_CLASSES).float()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    in_half = bool(config.training.arguments.get("bf16"))

    def step(way: Callable[[], Tensor]) -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=in_half):
            loss = way()
        if not loss.isfinite():
            raise SystemExit(f"{kind}: the loss is {loss.item()}.")
        optimizer.step()
        optimizer.zero_grad()

    ways: dict[str, Callable[[], Tensor]] = {"ours": lambda: our_step(model, batch, labels)}
    if causal is not None:
        ways["original"] = lambda: original_step(model, causal, batch, labels)
    found = {}
    for name, way in ways.items():
        try:
            found[name] = run(lambda way=way: step(way), device, n_rounds)
        except torch.OutOfMemoryError:
            optimizer.zero_grad()
    if "waveforms" in batch or "n_samples" in batch or "input_features" in batch:
        length = 1.0 if size == "tiny" else config.audio.max_audio_s
        return line(kind, n_clips, f"{length:g} s", "s of speech", length, found)
    n_tokens = batch["input_ids"].shape[1]
    return line(kind, n_clips, f"{n_tokens} tokens", "tokens", n_tokens, found)


def run(step: Callable[[], None], device: torch.device, n_rounds: int) -> tuple[float, float]:
    """Median seconds of a step, and peak GiB, weights and optimizer included."""
    step()
    start_peak(device)
    seconds = [timed(time.perf_counter, step, device) for _ in range(n_rounds)]
    return statistics.median(seconds), peak_mib(device) / 1024


def measure_transcribe(size: str, device: torch.device) -> str:
    """The line of Whisper as a recogniser; random weights write texts of the full length."""
    from whisper.model import ModelDimensions, Whisper

    is_tiny = size == "tiny"
    width, n_layers, n_heads = (64, 2, 4) if is_tiny else (1280, 32, 20)
    dims = ModelDimensions(
        n_mels=128,
        n_audio_ctx=100 if is_tiny else 1500,
        n_audio_state=width,
        n_audio_head=n_heads,
        n_audio_layer=n_layers,
        n_vocab=51_866,
        n_text_ctx=16 if is_tiny else 448,
        n_text_state=width,
        n_text_head=n_heads,
        n_text_layer=n_layers,
    )
    with torch.device(device):
        model = Whisper(dims).eval()
    for parameter in model.parameters():  # openai-whisper leaves some of them uninitialised
        nn.init.normal_(parameter, std=0.02)
    in_half = device.type != "cpu"
    if in_half:
        halve_weights(model)
    recognizer = Recognizer(model, DecodingSettings("en", (0.0,)), in_half=in_half)
    n_clips, length = (4, 1.0) if is_tiny else (16, 10.0)
    clips = noises(n_clips, length)

    def transcribe(n: int, batch_size: int) -> None:
        for at in range(0, n, batch_size):
            some = [[clip] for clip in clips[at : at + batch_size]]
            recognizer.transcribe([str(k) for k in range(len(some))], some, batch_size=batch_size)

    found = {"ours": run(lambda: transcribe(n_clips, n_clips), device, 1)}
    alone_s, peak = run(lambda: transcribe(N_ALONE, 1), device, 1)
    found["original"] = alone_s * n_clips / N_ALONE, peak
    return line("transcribe", n_clips, f"{length:g} s", "s of speech", length, found)


def line(
    kind: str,
    n_clips: int,
    each: str,
    unit: str,
    amount: float,
    found: dict[str, tuple[float, float]],
) -> str:
    """One row of the table."""
    if "ours" not in found:
        return f"{kind:<24}{f'{n_clips} x {each}':>16}   out of memory"
    seconds, peak = found["ours"]
    ratios = ["-", "-"]
    if "original" in found:
        ratios = [f"{ours / other:.2f}" for ours, other in zip(*found.values(), strict=True)]
    speed = f"{n_clips * amount / seconds:.0f} {unit}"
    return (
        f"{kind:<24}{f'{n_clips} x {each}':>16}{seconds:>12.3f}{peak:>10.2f}{speed:>18}"
        f"{ratios[0]:>17}{ratios[1]:>19}"
    )


def lines(kinds: Iterable[str], size: str, device: torch.device, rounds: int) -> Iterable[str]:
    """Measure one after the other; what one needed is free for the next."""
    for kind in kinds:
        chosen = SIZES[kind] if size == "published" else size
        if kind == "transcribe":
            yield measure_transcribe(chosen, device)
        else:
            yield measure(kind, chosen, device, rounds)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--size", choices=("published", "tiny"), default="published")
    parser.add_argument("--device", help="by default the accelerator, if there is one")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    found = torch.accelerator.current_accelerator(check_available=True)
    device = torch.device(args.device) if args.device else found
    if device is None:
        raise SystemExit("There is no accelerator. Try --size tiny --device cpu.")
    quiet_libraries()
    print(HEADER, flush=True)
    for row in lines(args.only, args.size, device, args.rounds):
        print(row, flush=True)


if __name__ == "__main__":
    main()
