"""What the commands that work on tables cost on a large corpus, and how that grows.

Five tables of 8 classes with probabilities, one of them without abstentions, a table with
embeddings, and a manifest whose speakers have 50 clips each; every command runs as a user runs it,
in a process of its own on one core. Printed are its processor seconds, its peak memory, and the
exponent of the growth from each size to the next, with the cost of starting (the command on 1,000
rows) taken off: 1 is linear. Run it with:

    python benchmarks/scale.py [--rows 10000 --rows 100000] [--commands vote --commands score]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from multiprocessing import Process
from pathlib import Path

ROWS = (10_000, 100_000, 1_000_000)
START_ROWS = 1_000
N_CLIPS = 50
WIDTH = 16
TABLES = [f"t{number}.parquet" for number in range(1, 6)]
TRUTH = ["--manifest", "manifest.parquet"]
COMMANDS = {
    "vote": ["vote", *TABLES, "--tiebreaker", "t2", "--out", "voted.parquet"],
    "submit": ["submit", "t5.parquet", "--names", "manifest.parquet", "--out", "submission.csv"],
    "score": ["score", "t1.parquet", *TRUTH],
    "compare": ["compare", "t1.parquet", "t2.parquet", *TRUTH],
    "smooth": ["smooth", "embedded.parquet", *TRUTH, "--jobs", "1", "--out", "smooth.parquet"],
    "fit": ["fit", "temperature", *TABLES, *TRUTH, "--out", "recipe.json"],
    "ablate": ["ablate", *TABLES, *TRUTH, "--tiebreaker", "t2"],
}


def write_corpus(n_rows: int, folder: Path) -> None:
    """Write the manifest and the tables, column by column and without a package of ours."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(n_rows)
    codes = np.array(list("ACDFHNSUOX"))
    names = pa.array([f"MSP-PODCAST_{n // 400:04d}_{n % 400:04d}.wav" for n in range(n_rows)])
    emotions = json.dumps(
        {"codes": list("ACDFHNSU"), "names": list("ACDFHNSU"), "outside": ["O", "X"]}
    )

    def write(file: str, columns: dict[str, pa.Array], **stored: object) -> None:
        meta = {"abhinaya": json.dumps({"emotions": emotions, **stored})}
        pq.write_table(pa.table(columns).replace_schema_metadata(meta), folder / file)

    def lists(values: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])

    truth = rng.choice(10, size=n_rows, p=[0.09, 0.03, 0.03, 0.02, 0.2, 0.35, 0.1, 0.03, 0.1, 0.05])
    speakers = rng.integers(max(10, n_rows // N_CLIPS), size=n_rows)
    votes = rng.multinomial(5, np.full(9, 1 / 9), size=n_rows).astype(np.int32)
    columns = {
        "utterance": names,
        "audio": pa.array([f"Audios/{name}" for name in names.to_pylist()]),
        "split": pa.array(["train"] * n_rows),
        "label": pa.array(codes[truth]),
        "speaker": pa.array([f"{speaker}" for speaker in speakers], mask=rng.random(n_rows) < 0.01),
        "gender": pa.array(np.array(["Female", "Male"])[speakers % 2]),
        "duration_s": pa.array(rng.uniform(2, 11, n_rows).round(2)),
        "votes": lists(votes),
    }
    write("manifest.parquet", columns, kind="manifest", facts={"name": "scale"})
    for number, name in enumerate([*TABLES, "embedded.parquet"], start=1):
        scores = rng.normal(size=(n_rows, 8)).astype(np.float32)
        scores[np.arange(n_rows), np.where(truth < 8, truth, 5)] += 0.8 + 0.1 * number
        probs = np.exp(scores)
        probs /= probs.sum(axis=1, keepdims=True)
        abstains = rng.random(n_rows) < (0 if number == 5 else 0.01)
        columns = {
            "utterance": names,
            "label": pa.array(codes[probs.argmax(axis=1)], mask=abstains),
            "reason": pa.array(np.where(abstains, "no answer", ""), mask=~abstains),
            "probs": lists(probs),
        }
        if name == "embedded.parquet":
            turned = scores @ rng.normal(size=(8, WIDTH)).astype(np.float32)
            columns["embedding"] = lists(turned + rng.normal(size=turned.shape).astype(np.float32))
        write(name, columns, kind="predictions", name=Path(name).stem, meta={})


def measure(command: list[str], folder: Path) -> tuple[float, float]:
    """Return a command's processor seconds and its peak memory in GiB."""
    root = Path(__file__).parents[1]
    env = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    with (folder / "log.txt").open("w+") as log:
        words = [sys.executable, "-m", "abhinaya", *command]
        child = subprocess.Popen(words, cwd=folder, env=env, stdout=log, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            log.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{log.read()}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20


def main() -> None:
    """Print a row per command: seconds and GiB at each size, exponents between them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, action="append", help="repeatable; 10k, 100k and 1M")
    parser.add_argument("--commands", choices=COMMANDS, action="append", help="repeatable; all")
    asked = parser.parse_args()
    sizes = sorted(asked.rows or ROWS)
    found: dict[str, list[tuple[float, float]]] = {}
    for n_rows in (START_ROWS, START_ROWS, *sizes):  # loops are compiled the first time
        with tempfile.TemporaryDirectory() as made:
            # Memory that the parent has touched would count as a child's.
            maker = Process(target=write_corpus, args=(n_rows, Path(made)))
            maker.start()
            maker.join()
            if maker.exitcode:
                sys.exit("The tables could not be made.")
            for name in asked.commands or COMMANDS:
                found.setdefault(name, []).append(measure(COMMANDS[name], Path(made)))
                print(f"{n_rows} {name}: {found[name][-1]}", file=sys.stderr)
    print("| command |", *(f"{n_rows:,} rows: s / GiB |" for n_rows in sizes), "exponents |")
    print("|---|" + "---|" * (len(sizes) + 1))
    for name, (_, (start, _), *costs) in found.items():
        cells = [f"{seconds:.1f} / {memory:.1f}" for seconds, memory in costs]
        beyond = [max(seconds - start, 0.01) for seconds, _ in costs]
        exponents = [
            f"{math.log(beyond[idx] / beyond[idx - 1], sizes[idx] / sizes[idx - 1]):.2f}"
            for idx in range(1, len(sizes))
        ]
        print(f"| {name} | {' | '.join(cells)} | {', '.join(exponents)} |")


if __name__ == "__main__":
    main()
