"""Gen-SER against a plain head on the very same features of EmoDB: what it gains, what it costs.

    python benchmarks/gen_ser.py EMODB WEIGHTS [--folder runs/gen-ser-emodb] [--out PAGE.md]
    python benchmarks/gen_ser.py EMODB WEIGHTS --only-seed 3    does one of the seeds, and stops

EMODB is the corpus as published, WEIGHTS a folder of openai/whisper-tiny.en or its tiny.en.pt. Both
members are trained with five seeds on the publisher's six training speakers by the shipped configs
`corpora/emodb-whisper-encoder.yaml` and `corpora/emodb-gen-ser.yaml`; nothing is chosen on the four
test speakers. Printed, and written as a page, are paired scores, accuracy by sampling steps, and
the time and memory of a training step as ratios. What is in the folder already is not done again.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor

import abhinaya
from abhinaya.cli.processes import quiet_libraries
from abhinaya.corpora import prepare_corpus
from abhinaya.data.manifest import Manifest, read_manifest
from abhinaya.evaluation.metrics import scores
from abhinaya.evaluation.scoring import mean_and_sd
from abhinaya.evaluation.significance import compare_labels
from abhinaya.loading.clips import Cropping, collect_clips
from abhinaya.loading.features import FeatureStore
from abhinaya.member_config import load_member_config
from abhinaya.nn.build import build_classifier
from abhinaya.nn.checkpoint import load_weights
from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.registry import load_member
from abhinaya.training.arguments import training_arguments

CONFIGS = {
    "plain": "corpora/emodb-whisper-encoder.yaml",
    "gen-ser": "corpora/emodb-gen-ser.yaml",
}
STEPS = (0, 1, 2, 4, 10, 20)
PUBLISHED = {1: 0.5613, 2: 0.5617, 4: 0.5625, 10: 0.5628, 20: 0.5644}
"""Accuracy by steps on MELD, table 3 of arXiv:2601.20573."""
SEEDS = (1, 2, 3, 4, 5)
METHODS = ("exact", "euler")
N_ROUNDS = 12

PAGE = """\
# Gen-SER on EmoDB

Real speech, as in [emodb.md](emodb.md): 535 clips, 10 speakers, 7 emotions; in the copy at hand
every clip is cut or padded to 2.0 s. Written by `benchmarks/gen_ser.py` on {date} with
abhinaya {abhinaya}, torch {torch}, transformers {transformers}, on a CPU, float32.

Both members stand on one encoder, OpenAI's Whisper tiny.en (MIT), frozen, a stand-in for the
paper's HuBERT-large: the means over time of its five hidden layers, standardised with training
statistics, from one store on disk. `plain` is `whisper-encoder`, a learned mix of the layers under
one linear layer, {plain_steps} steps. `gen-ser` is the transport of arXiv:2601.20573 as in
[its README](../../members/gen_ser/README.md), 4 layers of width 384, {gen_steps} steps. Train:
speakers 03 08 09 10 11 13 (304 clips). Test: 12 14 15 16 (231 clips). Nothing is chosen on the test
speakers: no validation, the last step counts. Learning rate and length of gen-ser were set after a
look at two of the *training* speakers, held out for that; `plain` is as in emodb.md.

    python benchmarks/gen_ser.py EMODB WEIGHTS

## Paired with the plain head

Gen-SER with {n_steps} steps, `{method}`. The interval (95 %, paired bootstrap over test utterances)
and p (randomisation) are those of the difference in macro-F1; with four test speakers they say
nothing about other speakers.

| seed | plain: macro-F1 | accuracy | gen-ser: macro-F1 | accuracy | difference | interval | p |
|---|---|---|---|---|---|---|---|
{paired}

**{verdict}**

## Accuracy by steps

Mean (standard deviation) over the five seeds. The published row is the paper's, on MELD with
HuBERT-large; only its form can be compared. Without a step there is just the first estimate, made
from the features themselves.

| sampler | {step_names} |
|---|{step_rule}
{by_steps}

## What a training step costs

Forward, backward and AdamW on 32 clips with stored features, one thread, by turns in one process
(min / median / max of {n_rounds}, processor time). Memory is the peak of a process of its own
beyond encoder and batch. The encoder is in neither: its output is computed once and stored.

| | gen-ser over plain |
|---|---|
| trained parameters | {parameters[1]:,} over {parameters[0]:,} |
| time of a step | {times} |
| memory | {memory[1]:.0f} over {memory[0]:.1f} MiB = {memory_ratio:.0f} |

Not tried: other schedules, widths or encoders, more tokens than one, any tuning beyond the above;
more clips, which nine million parameters would ask for.
"""


def load_config(kind: str, seed: int, args: argparse.Namespace) -> Any:
    """Config of one run: trained on the publisher's six speakers, the last step counts."""
    fixed = ["temperature=0.1"] if kind == "gen-ser" else []  # there are no validation rows
    return load_member_config(
        CONFIGS[kind],
        [
            f"name={kind}-{seed}",
            f"run_dir={args.folder / f'{kind}-{seed}'}",
            f"seed={seed}",
            f"base={args.weights}",
            f"data.manifest={args.folder / 'corpus' / 'manifest.parquet'}",
            "data.train=train",
            "data.validation=null",
            f"cache.dir={args.folder / 'features'}",
            "training.save_strategy=no",
            *fixed,
        ],
    )


def stored_batch(config: Any, manifest: Manifest, split: str) -> tuple[dict[str, Tensor], Any]:
    """All features of a split, and the classes."""
    member: Any = load_member(config.member)
    rows, inputs = manifest.select((split,)), member.build_inputs(config)
    clips, _ = collect_clips(rows, manifest, inputs)
    cropping = Cropping(config.audio.eval_crop, config.audio.max_audio_s)
    store = FeatureStore(config.cache, member.build_backbone(config), inputs, cropping)
    store.fill(clips, batch_size=config.inference.batch_size, device=torch.device("cpu"))
    batch = store.collate([store.load(clip)[0] for clip in clips])
    return batch, manifest.emotions.encode(rows["label"])


def read_model(config: Any, n_classes: int) -> EmotionClassifier:
    """The trained model of a run."""
    member: Any = load_member(config.member)
    model = build_classifier(member, config, n_classes)
    load_weights(config.run_dir / "best", model)
    return model.eval()


@torch.inference_mode()
def predict(model: EmotionClassifier, batch: dict[str, Tensor]) -> NDArray[np.int64]:
    """Classes of all rows of a batch."""
    labels: NDArray[np.int64] = model(batch).logits.argmax(dim=1).numpy()
    return labels


def make_step(
    model: EmotionClassifier, batch: dict[str, Tensor], truth: NDArray[np.int64]
) -> Callable[[], object]:
    """One training step on the first 32 rows."""
    few = {name: value[:32] for name, value in batch.items()}
    labels = torch.from_numpy(truth[:32])
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)

    def step() -> None:
        optimizer.zero_grad()
        model(few, labels).loss.backward()
        optimizer.step()

    model.train()
    return step


def time_ratios(plain: Callable[[], object], ours: Callable[[], object]) -> list[float]:
    """Time of our step over the plain one's, by turns."""

    def seconds(step: Callable[[], object]) -> float:
        start = time.process_time()
        step()
        return time.process_time() - start

    for step in (plain, ours):
        step()
    return [seconds(ours) / seconds(plain) for _ in range(N_ROUNDS)]


def print_memory(kind: str, args: argparse.Namespace) -> None:
    """Peak in MiB of three training steps beyond encoder and batch, alone in a process (Linux)."""
    config = load_config(kind, 1, args)
    manifest = read_manifest(config.data.manifest)
    batch, truth = stored_batch(config, manifest, "train")
    member: Any = load_member(config.member)
    backbone = member.build_backbone(config)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    counts = np.bincount(truth).tolist()
    step = make_step(member.build_on(backbone, config, len(counts), counts), batch, truth)
    for _ in range(3):
        step()
    print(resident("VmHWM") - before)


def resident(key: str) -> float:
    """MiB of this process: `VmRSS` now, `VmHWM` at most."""
    return int(Path("/proc/self/status").read_text().partition(f"{key}:")[2].split()[0]) / 1024


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def spread(values: Sequence[float]) -> str:
    mean, sd = mean_and_sd(values)
    return f"{mean:.4f} ({sd:.4f})"


def main() -> None:
    """Train what is missing, compare, print the page and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("emodb", type=Path)
    parser.add_argument("weights")
    parser.add_argument("--folder", type=Path, default=Path("runs/gen-ser-emodb"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only-seed", type=int)
    parser.add_argument("--memory", choices=sorted(CONFIGS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    quiet_libraries()
    if args.memory:
        print_memory(args.memory, args)
        return
    file = args.folder / "corpus" / "manifest.parquet"
    if not file.exists():
        prepare_corpus("emodb", args.emodb, file.parent)
    manifest = read_manifest(file)
    for seed in [args.only_seed] if args.only_seed is not None else SEEDS:
        label_test(seed, args, manifest)
    if args.only_seed is not None:
        return
    page = write_page(args, manifest)
    print(page)
    if args.out:
        args.out.write_text(page, encoding="utf-8")


def label_test(seed: int, args: argparse.Namespace, manifest: Manifest) -> None:
    """Train both members with a seed, and write what they say about the test rows."""
    file = args.folder / f"labels-{seed}.npz"
    if file.exists():
        return
    configs = {kind: load_config(kind, seed, args) for kind in CONFIGS}
    for config in configs.values():
        load_member(config.member).train(config, manifest)
    test, truth = stored_batch(configs["gen-ser"], manifest, "test")
    found = {"truth": truth}
    found["plain"] = predict(read_model(configs["plain"], len(manifest.emotions)), test)
    ours: Any = read_model(configs["gen-ser"], len(manifest.emotions))
    for method in METHODS:
        for steps in STEPS:
            ours.sampler = ours.sampler.model_copy(update={"method": method, "steps": steps})
            found[f"{method}-{steps}"] = predict(ours, test)
    np.savez(file, **found)


def write_page(args: argparse.Namespace, manifest: Manifest) -> str:
    """Compare what was written."""
    n_classes = len(manifest.emotions)
    config = load_config("gen-ser", SEEDS[0], args)
    paired, found, accuracies = [], {"plain": [], "gen-ser": []}, {}
    for seed in SEEDS:
        labels = dict(np.load(args.folder / f"labels-{seed}.npz"))
        truth = labels["truth"]
        labels["gen-ser"] = labels[f"{config.sampler.method}-{config.sampler.steps}"]
        scored = {kind: scores(truth, labels[kind], n_classes) for kind in CONFIGS}
        (macro_f1, _) = compare_labels(truth, labels["gen-ser"], labels["plain"], n_classes, seed=0)
        for kind, result in scored.items():
            found[kind].append(result)
        for method in METHODS:
            for steps in STEPS:
                accuracy = float((labels[f"{method}-{steps}"] == truth).mean())
                accuracies.setdefault((method, steps), []).append(accuracy)
        both = [f"{n:.4f}" for s in scored.values() for n in (s.macro_f1, s.accuracy)]
        low, high = macro_f1.interval
        difference = (f"{macro_f1.value:+.4f}", f"{low:+.4f} to {high:+.4f}", f"{macro_f1.p:.4f}")
        paired.append(row(seed, *both, *difference))
    means = [
        spread([getattr(s, name) for s in found[kind]])
        for kind in CONFIGS
        for name in ("macro_f1", "accuracy")
    ]
    pairs = zip(found["gen-ser"], found["plain"], strict=True)
    differences = [ours.macro_f1 - plain.macro_f1 for ours, plain in pairs]
    mean, sd = mean_and_sd(differences)
    paired.append(row("**mean (sd)**", *means, f"{mean:+.4f} ({sd:.4f})", "", ""))
    won = sum(difference > 0 for difference in differences)
    verdict = (
        f"Gen-SER is {abs(mean):.4f} macro-F1 {'above' if mean > 0 else 'below'} the plain head on "
        f"average, and above it with {won} of {len(SEEDS)} seeds."
    )
    by_steps = [
        row(method, *(spread(accuracies[method, steps]) for steps in STEPS)) for method in METHODS
    ]
    published = (f"{PUBLISHED[steps]:.4f}" if steps in PUBLISHED else "" for steps in STEPS)
    by_steps.append(row("published, MELD", *published))
    n_rows = len(manifest.select(("train",)))
    return PAGE.format(
        date=f"{datetime.date.today():%d %B %Y}".lstrip("0"),
        abhinaya=abhinaya.__version__,
        torch=torch.__version__.partition("+")[0],
        transformers=transformers.__version__,
        plain_steps=count_steps(load_config("plain", 1, args), n_rows),
        gen_steps=count_steps(config, n_rows),
        method=config.sampler.method,
        n_steps=config.sampler.steps,
        paired="\n".join(paired),
        verdict=verdict,
        step_names=" | ".join("none" if steps == 0 else str(steps) for steps in STEPS),
        step_rule="---|" * len(STEPS),
        by_steps="\n".join(by_steps),
        n_rounds=N_ROUNDS,
        **measure_costs(args, manifest),
    )


def measure_costs(args: argparse.Namespace, manifest: Manifest) -> dict[str, Any]:
    """Parameters, time and memory of a training step of the two members, for the page."""
    configs = {kind: load_config(kind, SEEDS[0], args) for kind in CONFIGS}
    batch, truth = stored_batch(configs["gen-ser"], manifest, "train")
    counts = np.bincount(truth).tolist()
    models = []
    for config in configs.values():
        member: Any = load_member(config.member)
        models.append(build_classifier(member, config, len(counts), counts))
    ratios = time_ratios(*(make_step(model, batch, truth) for model in models))
    memory = [measure_memory(kind, args) for kind in CONFIGS]
    return {
        "parameters": [count_trained(model) for model in models],
        "times": f"{min(ratios):.0f} / {statistics.median(ratios):.0f} / {max(ratios):.0f}",
        "memory": memory,
        "memory_ratio": memory[1] / memory[0],
    }


def count_trained(model: EmotionClassifier) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def count_steps(config: Any, n_rows: int) -> int:
    """Steps of a whole training."""
    epochs = training_arguments(config, config.run_dir).num_train_epochs
    return int(epochs * -(-n_rows // config.training.global_batch_size))


def measure_memory(kind: str, args: argparse.Namespace) -> float:
    command = [sys.executable, __file__, str(args.emodb), args.weights]
    done = subprocess.run(
        [*command, "--folder", str(args.folder), "--memory", kind],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
