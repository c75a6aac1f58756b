"""DistilHuBERT in torch, in ONNX and in eight bits: size of file, time, memory, agreement.

    python benchmarks/export.py [--n-rounds 20]

The model has the sizes of ntu-spml/distilhubert and random weights, under attentive statistics
pooling and a head of 256 units. The three take turns on the same clips of 5 s, one thread each;
printed are processor times per second of audio (median and 95th percentile of the rounds) as shares
of torch's in the same round. Memory is the peak of a fresh process that labels one clip, without
and with the libraries it has imported by then.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CLIP_S = 5
RATE_HZ = 16_000
KINDS = ("torch", "float32", "int8")


def make_clip(seed: int) -> np.ndarray:
    """Return something like a voice: harmonics under an envelope, and noise."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(CLIP_S * RATE_HZ) / RATE_HZ
    pitch_hz = 100 + 20 * seed + 20 * np.sin(2 * np.pi * 0.7 * time_s)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
    voice = sum(np.sin(k * phase) / k for k in range(1, 12))
    envelope = np.abs(np.sin(2 * np.pi * (1 + 0.3 * seed) * time_s))
    sound = 0.05 * (envelope * voice + 0.1 * rng.standard_normal(len(time_s)))
    return sound.astype(np.float32)[None]


def write_base(folder: Path) -> None:
    """Write DistilHuBERT with random weights."""
    import torch
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(0)
    # The rest is as in HuBERT-base, which are the defaults.
    HubertModel(HubertConfig(num_hidden_layers=2, feat_proj_layer_norm=False)).save_pretrained(
        folder
    )


def build_torch(base: Path) -> Any:
    """Return the whole classifier in torch."""
    import torch

    from abhinaya.export.graph import WaveformClassifier, WaveformFrontEnd
    from abhinaya.nn.classifier import EmotionClassifier
    from abhinaya.nn.head import EmotionHead
    from abhinaya.nn.pooling import AttentiveStatisticsPooling
    from members.wavlm.model import WavLMBackbone

    torch.manual_seed(0)
    backbone = WavLMBackbone.from_pretrained(str(base))
    pooling = AttentiveStatisticsPooling(backbone.n_features)
    head = EmotionHead(pooling.output_size, 8, hidden=256)
    classifier = EmotionClassifier(backbone, pooling, head)
    return WaveformClassifier(WaveformFrontEnd(), classifier, normalize=False).eval()


def make_runner(kind: str, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from one waveform (1, S) to logits (1, K)."""
    lengths = np.array([CLIP_S * RATE_HZ])
    if kind == "torch":
        import torch

        torch.set_num_threads(1)
        model = build_torch(folder / "base")

        def run(clip: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return model(torch.from_numpy(clip), torch.from_numpy(lengths)).numpy()

        return run
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / f"{kind}.onnx"), options)
    return lambda clip: session.run(None, {"waveforms": clip, "lengths": lengths})[0]


def peak_mib() -> float:
    # Not getrusage, which counts what the parent had before this program began.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return float(status.partition("VmHWM:")[2].split()[0]) / 1024


def print_memory(kind: str, folder: Path) -> None:
    """Label one clip in this process, and print its peak after the imports and in the end."""
    clip = make_clip(0)
    # What building the runner imports anyway, so that its memory is told apart.
    importlib.import_module("members.wavlm.model" if kind == "torch" else "onnxruntime")
    imported = peak_mib()
    make_runner(kind, folder)(clip)
    print(json.dumps([imported, peak_mib()]))


def measure_memory(kind: str, folder: Path) -> list[float]:
    command = [sys.executable, __file__, "--memory-of", kind, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout.splitlines()[-1]))


def compare(folder: Path, n_rounds: int) -> None:
    from abhinaya.cli.processes import quiet_libraries
    from abhinaya.export.graph import write_graph
    from abhinaya.export.quantize import quantize_int8

    quiet_libraries()
    write_base(folder / "base")
    difference = write_graph(build_torch(folder / "base"), folder / "float32.onnx")
    (folder / "int8.onnx").write_bytes((folder / "float32.onnx").read_bytes())
    quantize_int8(folder / "int8.onnx")
    print(f"largest difference of a logit, float32 ONNX and torch: {difference:.1e}")
    for kind in KINDS[1:]:
        n_bytes = (folder / f"{kind}.onnx").stat().st_size
        print(f"{kind:8s} {n_bytes / 1e6:6.2f} MB")

    runners = {kind: make_runner(kind, folder) for kind in KINDS}
    clips = [make_clip(seed) for seed in range(4)]
    logits = {kind: np.concatenate([run(clip) for clip in clips]) for kind, run in runners.items()}
    spread = logits["torch"].std(axis=0).mean()
    for kind in KINDS[1:]:
        error = np.abs(logits[kind] - logits["torch"]).max()
        print(f"{kind:8s} differs by at most {error:.1e}; logits spread {spread:.2f} over clips")

    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(n_rounds):
        for kind, run in runners.items():
            start = time.process_time()
            run(clips[number % len(clips)])
            times[kind].append((time.process_time() - start) / CLIP_S)
    for kind, seconds in times.items():
        shares = np.divide(seconds, times["torch"])
        low, middle, high = np.min(shares), np.median(shares), np.max(shares)
        p50, p95 = np.percentile(seconds, [50, 95])
        p95_share = p95 / np.percentile(times["torch"], 95)
        print(
            f"{kind:8s} processor seconds per second of audio: p50 {p50:.3f}, p95 {p95:.3f}; "
            f"over torch {low:.2f} / {middle:.2f} / {high:.2f}, p95 {p95_share:.2f}"
        )
    for kind in KINDS:
        imported, peak = measure_memory(kind, folder)
        print(f"{kind:8s} peak {peak:.0f} MiB, {peak - imported:.0f} MiB of it beyond the imports")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-rounds", type=int, default=20)
    parser.add_argument("--memory-of", choices=KINDS, help="internal: of a process of its own")
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.memory_of:
        print_memory(args.memory_of, args.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), args.n_rounds)


if __name__ == "__main__":
    main()
