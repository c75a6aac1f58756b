"""Kills commands at seeded moments, runs them again, and compares the end with an undisturbed run.

A tiny WavLM is trained on a synthetic corpus and predicts, a tiny Llama answers, and a chain does
all of that from the release to the submission; SIGKILL and SIGTERM come by turns. Run it, with some
minutes of time, with:

    python benchmarks/kills.py [--trainings 6] [--predictions 6] [--zero-shots 4] [--chains 4]

It prints a table in Markdown: how many ended with equal bytes, rows lost, optimizer steps that were
done twice (at most `save_steps` per kill), and files left over.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import yaml

from abhinaya.cli.processes import quiet_libraries
from abhinaya.corpora import prepare_corpus
from abhinaya.data.predictions import read_table
from abhinaya.demo.checkpoints.encoders import write_wavlm
from abhinaya.demo.checkpoints.llama import write_llama
from abhinaya.demo.corpus.release import write_corpus

SAVE_STEPS = 5
RESULTS = ("best/model.safetensors", "*.parquet", "submission.csv")

COUNTING = """
import sys
from abhinaya.cli import main
from abhinaya.training.trainer import EmotionTrainer

train = EmotionTrainer.training_step

def training_step(self, *args, **kwargs):
    with open(sys.argv[1], "a") as file:
        file.write(f"{self.state.global_step}\\n")
    return train(self, *args, **kwargs)

EmotionTrainer.training_step = training_step
main(sys.argv[2:])
"""
"""The command itself, which also notes every optimizer step that it begins."""


class Ended(NamedTuple):
    """How one command ended that was killed on its way."""

    n_kills: int
    is_equal: bool
    n_rows_lost: int
    n_steps_twice: int
    n_left: int
    codes: list[int]


def write_inputs(root: Path) -> None:
    """Write corpus, weights and configs below a folder."""
    release = write_corpus(root / "source", n_clips=96, n_speakers=8).release
    prepare_corpus("msp-podcast", release, root / "corpus")
    write_wavlm(root / "wavlm", n_layers=1, n_features=16, n_conv_features=8)
    write_llama(root / "llama", layout="llama3", chat_template=True)
    data = {"manifest": str(root / "corpus" / "manifest.parquet")}
    training = {"global_batch_size": 8, "num_train_epochs": 6, "use_cpu": True}
    training |= {"save_strategy": "steps", "save_steps": SAVE_STEPS, "learning_rate": 0.001}
    speech = {"member": "wavlm", "name": "speech", "base": str(root / "wavlm"), "data": data}
    speech |= {"run_dir": "run", "audio": {"max_audio_s": 0.4}, "training": training}
    words = {"member": "llama-70b-zero-shot", "name": "words", "base": str(root / "llama")}
    words |= {"engine": "transformers", "transformers": {"batch_size": 4}}
    words |= {"prompt": "zero-shot-v1", "answers": "answers"}
    words |= {"data": data | {"transcripts": {"predict": "human"}}}
    chain = {"name": "chain", "out": ".", "vote": {"tiebreaker": ["speech"]}}
    chain |= {"prepare": {"corpus": "msp-podcast", "source": str(release), "out": "corpus"}}
    chain |= {
        "members": {
            one["name"]: {"config": str(root / f"{one['name']}.yaml")} for one in (speech, words)
        }
    }
    chain |= {"predict": {"development": "development"}}
    chain |= {"score": [{"selection": "development"}]}
    names = {"names": "corpus/manifest.parquet", "select": "development"}
    chain |= {"submit": {"selection": "development", **names}}
    for config in (speech, words, chain):
        (root / f"{config['name']}.yaml").write_text(yaml.safe_dump(config))


def run(command: list[str], folder: Path, kill_after_s: float | None, number: int) -> int:
    """Return the exit code of a command, which gets a signal after a while."""
    folder.mkdir(exist_ok=True)
    with (folder.parent / f"{folder.name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", COUNTING, f"{folder}.steps", *command],
            cwd=folder,
            stdout=log,
            stderr=log,
        )
        try:
            return process.wait(kill_after_s)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            return process.wait()


def results(folder: Path) -> dict[str, bytes]:
    """Return name and bytes of the weights, tables and submission below a folder."""
    files = [file for name in RESULTS for file in folder.rglob(name)]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def tables(folder: Path) -> list[Path]:
    """Return the prediction tables below a folder, relative to it."""
    found = folder.rglob("*.parquet")
    return [path.relative_to(folder) for path in found if path.parent.name != "corpus"]


def listing(folder: Path) -> set[str]:
    """Return all that lies below a folder, the stored answers aside: they are kept per process."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return {name for name in found if not name.endswith(".jsonl")}


def try_kills(
    command: list[str], start: Path | None, reference: Path, seconds: float, root: Path, seed: int
) -> Ended:
    """Kill a command once or twice, let it end, and compare it with an undisturbed one."""
    rng = random.Random(seed)
    folder = root / f"{command[0]}-{Path(command[1]).stem}-{seed}"
    if start is not None:
        shutil.copytree(start, folder)
    codes = []
    for _ in range(1 + seed % 2):
        number = (signal.SIGKILL, signal.SIGTERM)[rng.randrange(2)]
        codes.append(run(command, folder, rng.uniform(0.2, 0.8) * seconds, number))
    codes.append(run(command, folder, None, 0))
    ours, theirs = results(folder), results(reference)
    lost = sum(
        len(read_table(reference / name)) - len(read_table(folder / name))
        for name in tables(reference)
        if str(name) in ours
    )
    steps = root / f"{folder.name}.steps"
    done = steps.read_text().splitlines() if steps.is_file() else []
    n_twice = len(done) - len(set(done))
    left = listing(folder) ^ listing(reference)
    n_kills = sum(code != 0 for code in codes)  # one that had ended by then was not killed
    return Ended(n_kills, ours == theirs, lost, n_twice, len(left), codes)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Kill commands and see how they end.")
    for name, count in (
        ("trainings", 6),
        ("predictions", 6),
        ("zero-shots", 4),
        ("chains", 4),
        ("seed", 0),
    ):
        parser.add_argument(f"--{name}", type=int, default=count)
    given = parser.parse_args()
    quiet_libraries()
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_inputs(root)
        select = ["--manifest", str(root / "corpus" / "manifest.parquet"), "--select", "all"]
        trained = root / "trained"
        cases = [
            ("training", given.trainings, ["train", str(root / "speech.yaml")], None),
            ("prediction", given.predictions, ["predict", "run", *select], trained),
            (
                "T1's answers",
                given.zero_shots,
                ["predict", str(root / "words.yaml"), *select],
                None,
            ),
            ("whole chain", given.chains, ["run", str(root / "chain.yaml")], None),
        ]
        print(
            "| killed | runs | kills | equal bytes | rows lost | steps twice | codes | left over |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for title, count, command, start in cases:
            if command[0] == "predict":
                command += ["--out", "table.parquet"]
            reference = trained if command[0] == "train" else root / f"undisturbed-{title[:4]}"
            if start is not None:
                shutil.copytree(start, reference)
            since = time.monotonic()
            if run(command, reference, None, 0) != 0:
                sys.exit(f"the undisturbed {title} failed:\n{Path(f'{reference}.log').read_text()}")
            seconds = time.monotonic() - since
            ends = [
                try_kills(command, start, reference, seconds, root, given.seed + n)
                for n in range(count)
            ]
            codes = sorted({code for end in ends for code in end.codes[:-1]})
            print(
                f"| {title} | {count} | {sum(end.n_kills for end in ends)} "
                f"| {sum(end.is_equal for end in ends)} of {count} "
                f"| {sum(end.n_rows_lost for end in ends)} "
                f"| {sum(end.n_steps_twice for end in ends)} | {', '.join(map(str, codes))} "
                f"| {sum(end.n_left for end in ends)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
