"""What a clip of 10 s costs before the model hears it: processor time of reading and of features.

A worker of a loader has one thread, so this does. Features are also made the way they were before:
BEATs' filter banks frame by frame (`spectrogram` of transformers), Whisper's spectrogram of the
whole window (its feature extractor); both ways run by turns, and the results are compared first.
Then: the clips per second of a loader with two workers, over those that a small WavLM trains on.

    python benchmarks/input_cost.py
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from models import noises, timed, wavlm
from torch.utils.data import DataLoader
from transformers import WhisperFeatureExtractor
from transformers.audio_utils import spectrogram

from abhinaya.data.audio import SAMPLE_RATE_HZ, normalize_waveform, read_audio
from abhinaya.data.augmentation import AugmentConfig
from abhinaya.loading.clips import Clip, Cropping
from abhinaya.loading.dataset import ClipDataset, Collator, fresh_loader
from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.nn.head import EmotionHead
from abhinaya.nn.losses.build import LossConfig, build_loss
from abhinaya.nn.pooling import build_pooling
from abhinaya.nn.whisper import log_mel
from members.salmonn.beats.fbank import _window_and_filters, kaldi_fbank
from members.wavlm.member import WaveformInputs

SECONDS = 10.0
FILES = {"16 kHz WAV": (16_000, "wav"), "48 kHz FLAC": (48_000, "flac")}
CPU = torch.device("cpu")

Waveform = np.ndarray
Way = Callable[[Waveform], Waveform]


def former_fbank(waveform: Waveform) -> Waveform:
    """Frame by frame, in Python."""
    window, filters = _window_and_filters()
    found = spectrogram(
        waveform.astype(np.float64) * 2.0**15,
        window,
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        remove_dc_offset=True,
        mel_filters=filters,
        mel_floor=2.0**-23,
        log_mel="log",
        dtype=np.dtype(np.float64),
    )
    return ((found.T - 15.41663) / (2 * 6.55582)).astype(np.float32)


def ways(n_mels: int) -> tuple[Way, Way]:
    """Whisper's log-mel spectrogram: ours, and that of the whole window."""
    extractor = WhisperFeatureExtractor(feature_size=n_mels)

    def whole(waveform: Waveform) -> Waveform:
        found = extractor(waveform, sampling_rate=SAMPLE_RATE_HZ, return_tensors="np")
        return found["input_features"][0]

    return lambda waveform: log_mel(extractor, waveform), whole


def together(*features: Way) -> Way:
    """One after the other; their results end to end."""
    return lambda waveform: np.concatenate([make(waveform).ravel() for make in features])


def members() -> dict[str, tuple[Way, Way]]:
    """Features of each member kind: ours, and as they were made before."""
    large, before_large = ways(128)
    small, before_small = ways(80)
    return {
        "wavlm": (normalize_waveform, normalize_waveform),
        "whisper-encoder": (large, before_large),
        "salmonn": (together(small, kaldi_fbank), together(before_small, former_fbank)),
    }


def spread(values: list[float]) -> str:
    """Smallest, median and largest."""
    return f"{min(values):.2f} / {statistics.median(values):.2f} / {max(values):.2f}"


def loader_over_model(
    folder: Path, n_rounds: int, augment: AugmentConfig | None = None
) -> list[float]:
    """Clips per second of a loader with two workers, over those of a training step."""
    clips = [Clip(f"{n}", folder / "16000.wav", None, SECONDS) for n in range(64)]
    cropping = Cropping("first", SECONDS, augment=augment)
    dataset = ClipDataset(clips, fresh_loader(WaveformInputs(), cropping), np.zeros(64, np.int64))
    loader = DataLoader(
        dataset,
        batch_size=8,
        sampler=[(n, 0) for n in range(64)],
        num_workers=2,
        persistent_workers=True,
        prefetch_factor=4,
        collate_fn=Collator(WaveformInputs().collate),
    )
    batch = next(iter(loader))
    backbone = wavlm("tiny", CPU)
    pooling = build_pooling("attentive-statistics", backbone.n_features)
    head = EmotionHead(pooling.output_size, 8, hidden=64)
    model = EmotionClassifier(
        backbone, pooling, head, build_loss(LossConfig(name="focal"), [1] * 8)
    )

    def step() -> None:
        model(batch["inputs"], batch["labels"]).loss.backward()

    ratios = []
    for _ in range(n_rounds):
        read_s = timed(time.perf_counter, lambda: sum(1 for _ in loader), CPU)
        ratios.append(len(loader) * timed(time.perf_counter, step, CPU) / read_s)
    return ratios


def main() -> None:
    """Print milliseconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    n_rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    (waveform,) = noises(1, SECONDS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        read_ms = {}
        for what, (rate_hz, ending) in FILES.items():
            file = folder / f"{rate_hz}.{ending}"
            noise = np.random.default_rng(0).normal(0, 0.1, round(SECONDS * rate_hz))
            soundfile.write(file, noise, rate_hz, subtype="PCM_16")
            read_audio(file)
            read_ms[what] = 1e3 * statistics.median(
                timed(time.process_time, lambda file=file: read_audio(file), CPU)
                for _ in range(n_rounds)
            )
            print(f"read {what}: {read_ms[what]:.1f} ms of processor time")
        cheapest = min(read_ms.values())
        for kind, (ours, former) in members().items():
            np.testing.assert_allclose(ours(waveform), former(waveform), rtol=0, atol=2e-6)
            times: dict[Way, list[float]] = {ours: [], former: []}
            for _ in range(n_rounds):
                for way in {ours, former}:
                    step = functools.partial(way, waveform)
                    times[way].append(1e3 * timed(time.process_time, step, CPU))
            mine = statistics.median(times[ours])
            ratios = [a / b for a, b in zip(times[ours], times[former], strict=True)]
            print(
                f"{kind}: features {mine:.1f} ms, with reading {mine + cheapest:.1f} ms"
                + ("" if ours is former else f"; over the former way {spread(ratios)}")
            )
        ratios = loader_over_model(folder, max(2, n_rounds // 5))
        print(f"loader of 2 workers over a step of a small WavLM, clips/s: {spread(ratios)}")


if __name__ == "__main__":
    main()
