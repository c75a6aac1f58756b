"""An epoch of the member `fusion` on stored features, and on encoders that hear each time.

Two frozen encoders of speech with random weights and one of text, of 4 layers and a width of 256,
and 16 clips of 5 s; both ways take the very same batches through the same legs and head. Prints the
ratio of processor times, how much is stored, and the largest difference of the logits.

    python benchmarks/fusion_features.py
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from abhinaya.data.audio import SAMPLE_RATE_HZ
from abhinaya.demo.checkpoints.encoders import write_wavlm, write_whisper
from abhinaya.demo.checkpoints.text import write_roberta
from abhinaya.loading.clips import Clip, Cropping
from abhinaya.loading.dataset import ClipDataset, Collator, fresh_loader
from abhinaya.loading.joined import open_store
from abhinaya.member_config import check_member_config
from abhinaya.nn.build import build_classifier
from abhinaya.registry import load_member

N_CLIPS, SECONDS, BATCH, N_ROUNDS = 16, 5, 8, 3
CROPPING = Cropping("first", SECONDS)


def write_clips(folder: Path) -> list[Clip]:
    """Noise, with a sentence to each."""
    rng = np.random.default_rng(0)
    clips = []
    for idx in range(N_CLIPS):
        path = folder / f"{idx}.wav"
        soundfile.write(path, rng.uniform(-0.5, 0.5, SECONDS * SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)
        clips.append(Clip(path.name, path, f"so it is {idx} again, I never thought so", SECONDS))
    return clips


def make_config(folder: Path, dtype: str) -> Any:
    """Encoders of 4 layers and a width of 256, legs of a quarter of it, as when published."""
    if not (folder / "wavlm").is_dir():
        write_wavlm(folder / "wavlm", n_layers=4, n_features=256, n_conv_features=128)
        write_whisper(folder / "whisper", chunk_s=10, n_layers=4, n_features=256)
        write_roberta(folder / "roberta", n_layers=4, n_features=256)
    content = {
        "member": "fusion",
        "name": "fusion",
        "run_dir": str(folder / "run"),
        "data": {"manifest": "none", "transcripts": "human"},
        "encoders": {name: {"base": str(folder / name)} for name in ("wavlm", "whisper")},
        "text": {"base": str(folder / "roberta")},
        "audio": {"train_crop": "first", "max_audio_s": SECONDS},
        "legs": {"width": 64, "feed_forward": 128},
        "cache": {"dir": str(folder / "store"), "dtype": dtype},
        "training": {"global_batch_size": BATCH},
    }
    return check_member_config(content, "the benchmark")


def make_epoch(model: Any, rows: ClipDataset, collate: Callable[..., Any]) -> Callable[[], None]:
    """Forward and backward of all clips, reading included."""
    collator = Collator(collate)

    def epoch() -> None:
        for at in range(0, N_CLIPS, BATCH):
            batch = collator([rows[at + idx, 0] for idx in range(BATCH)])
            model(batch["inputs"], batch["labels"]).loss.backward()

    return epoch


def main() -> None:
    """Print the ratios."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = write_clips(folder)
        for dtype in ("float32", "float16"):
            config: Any = make_config(folder, dtype)
            member: Any = load_member("fusion")
            inputs = member.build_inputs(config)
            torch.manual_seed(0)
            model = build_classifier(member, config, 8, [1] * 8).train()
            store = open_store(config.cache, model.backbone, inputs, CROPPING)
            store.fill(clips, batch_size=BATCH, device=torch.device("cpu"))
            targets = np.zeros(N_CLIPS, dtype=np.int64)
            load = fresh_loader(inputs, CROPPING)
            fresh, stored = (ClipDataset(clips, read, targets) for read in (load, store.load))
            size = sum(file.stat().st_size for file in store.files) / 1e6 / (N_CLIPS * SECONDS)
            with torch.no_grad():
                ours = model.eval()(store.collate([store.load(clip)[0] for clip in clips[:4]]))
                theirs = model(dict(inputs.collate([load(clip, None)[0] for clip in clips[:4]])))
            difference = float((ours.logits - theirs.logits).abs().max())
            print(f"{dtype}: {size:.2f} MB per second of sound, logits differ by {difference:.1e}")
            if dtype == "float32":
                model.train()
                slow = make_epoch(model, fresh, inputs.collate)
                quick = make_epoch(model, stored, store.collate)
                rounds = [_seconds(slow) / _seconds(quick) for _ in range(N_ROUNDS + 1)][1:]
                three = (min(rounds), statistics.median(rounds), max(rounds))
                shown = " / ".join(f"{ratio:.1f}" for ratio in three)
                print(f"an epoch without stored features over one with them: {shown}")


def _seconds(epoch: Callable[[], None]) -> float:
    start = time.process_time()
    epoch()
    return time.process_time() - start


if __name__ == "__main__":
    main()
