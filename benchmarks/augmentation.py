"""What augmentation and mixing cost: processor time of loading a clip of 10 s, over a plain clip's.

Each transform is applied for certain, then all with the probabilities of a published system, then
every clip is joined with another. All ways run by turns. At the end: the clips per second of a
loader with two workers, with that system's augmentation, over those that a small WavLM trains on.

    python benchmarks/augmentation.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from input_cost import SECONDS, loader_over_model, spread
from models import timed

from abhinaya.data.audio import SAMPLE_RATE_HZ
from abhinaya.data.augmentation import AugmentConfig
from abhinaya.loading.clips import Clip, Cropping, load_segments
from abhinaya.loading.mixing import join_clips
from abhinaya.nn.recipe.mixing import ClipMixing

CPU = torch.device("cpu")

# Probability and range of each transform, as the winner of POL-EVAL 2025 had them; shift and gain
# are ours.
PUBLISHED = {
    "speed": (0.25, [0.9, 1.1]),
    "time_stretch": (0.25, [0.85, 1.2]),
    "pitch": (0.25, [-3, 3]),
    "reverb": (0.25, [0.1, 0.8]),
    "noise": (0.3, [15, 40]),
    "background": (0.2, [10, 30]),
    "low_pass": (0.15, [2000, 7000]),
    "high_pass": (0.15, [100, 2000]),
    "band_pass": (0.15, [500, 3000]),
    "band_stop": (0.15, [200, 4000]),
    "time_mask": (0.25, [0.05, 0.5]),
}


def config(folder: Path, certain: str | None = None) -> AugmentConfig:
    """All transforms as published, or one of them for certain."""
    return AugmentConfig.model_validate(
        {
            name: {"probability": 1 if certain else probability, "range": limits}
            | ({"folder": folder} if name == "background" else {})
            for name, (probability, limits) in PUBLISHED.items()
            if certain in (None, name)
        }
    )


def main() -> None:
    """Print ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    n_rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "16000.wav"
        noise = np.random.default_rng(0).normal(0, 0.1, round(SECONDS * SAMPLE_RATE_HZ))
        soundfile.write(file, noise, SAMPLE_RATE_HZ, subtype="PCM_16")
        clips = [Clip(f"{n}", file, None, SECONDS) for n in range(20)]

        def loading(augment: AugmentConfig | None) -> Callable[[int], object]:
            cropping = Cropping("first", SECONDS, augment=augment)
            return lambda epoch: [load_segments(clip, cropping, epoch) for clip in clips]

        def joining(epoch: int) -> object:
            cropping, rng = Cropping("first", SECONDS), np.random.default_rng(epoch)
            return [join_clips((c, c), ClipMixing(), cropping, "", epoch, rng) for c in clips]

        ways = {name: loading(config(folder, name)) for name in PUBLISHED}
        ways |= {"all, as published": loading(config(folder)), "joined": joining}
        plain = loading(None)
        ratios: dict[str, list[float]] = {name: [] for name in ways}
        for epoch in range(n_rounds + 1):
            plain_s = timed(time.process_time, lambda epoch=epoch: plain(epoch), CPU)
            for name, way in ways.items():
                taken_s = timed(time.process_time, lambda way=way, epoch=epoch: way(epoch), CPU)
                if epoch > 0:  # the first round also imports
                    ratios[name].append(taken_s / plain_s)
        for name, found in ratios.items():
            print(f"{name}: {spread(found)} times a plain clip")
        rates = {"plain": None, "augmented": config(folder)}
        for name, augment in rates.items():
            found = loader_over_model(folder, max(2, n_rounds // 5), augment)
            print(f"loader of 2 workers over a step of a small WavLM, {name}: {spread(found)}")


if __name__ == "__main__":
    main()
