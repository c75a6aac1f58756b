"""The demo as `make demo` runs it, at full size: what the README promises of it."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score

from abhinaya.data.labels import MSP_PODCAST

# Macro-F1 that each member reaches on the test clips at least. Guessing gives about 0.12; measured
# were 0.69, 0.64, 0.50, 0.33, 0.27, 0.63 and 0.73, and other numbers of threads move them.
LEAST = {
    "wavlm": 0.4,
    "whisper-encoder": 0.4,
    "whisper-encoder-lora": 0.3,
    "gen-ser": 0.4,
    "salmonn": 0.18,
    "salmonn-text": 0.18,
    "llama-zero-shot": 0.4,
    "llama-lora": 0.4,
}
NOT_TRAINED = {"llama-zero-shot"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a whole demo, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-m", "abhinaya.demo"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "runs/demo", done.stdout


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_labels(path: Path) -> dict[str, str]:
    return {row["FileName"]: row["EmoClass"] for row in read_csv(path)}


def score(labels: dict[str, str], folder: Path) -> float:
    """Macro-F1 against the labels kept aside, all of whose clips are there."""
    truth = read_labels(folder / "source/test3_truth.csv")
    assert sorted(labels) == sorted(truth)
    return float(
        f1_score(
            [truth[name] for name in labels],
            list(labels.values()),
            labels=list(MSP_PODCAST.codes),
            average="macro",
            zero_division=0,
        )
    )


@pytest.mark.slow
def test_vote_clearly_beats_chance_on_the_labels_kept_aside(demo: tuple[Path, str]) -> None:
    folder, printed = demo
    submitted = read_labels(folder / "submission.csv")
    assert list(submitted) == sorted(submitted)
    macro_f1 = score(submitted, folder)
    # Pitch and energy alone stay below 0.5 (test_demo_corpus.py), words alone below 0.9
    # (test_sentences.py).
    assert macro_f1 > 0.5
    assert f"a macro-F1 of {macro_f1:.2f}" in printed


@pytest.mark.slow
def test_every_member_beats_chance(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    tables = {file.stem: file for file in (folder / "tables/test").glob("*.parquet")}
    assert set(tables) == {*LEAST, "vote"}
    for name, least in LEAST.items():
        table = pq.read_table(tables[name], columns=["utterance", "label"]).to_pydict()
        labels = dict(zip(table["utterance"], table["label"], strict=True))
        assert score(labels, folder) > least, name


@pytest.mark.slow
def test_every_training_loss_falls(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    logs = {file.parent.name: read_csv(file) for file in (folder / "runs").glob("*/log.csv")}
    assert set(logs) == set(LEAST) - NOT_TRAINED
    for name, rows in logs.items():
        losses = [float(row["loss"]) for row in rows if row["loss"]]
        assert len(losses) >= 8, name
        assert losses[-1] < 0.7 * losses[0], name
