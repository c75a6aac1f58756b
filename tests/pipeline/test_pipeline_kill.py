"""A chain that is killed twice ends with the bytes of one that never was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chain_files import results

from abhinaya.resources import configs_dir

ROOT = configs_dir().parent


def kill_when(appears):
    """Start the chain as a user would, and kill it as soon as a file of that pattern is there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "abhinaya", "run", "chain.yaml"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not any(Path("out").glob(appears)):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, f"{appears} never appeared"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.fixture
def longer_training():
    """Enough epochs that a kill falls into the middle of them."""
    for name in ("wave.yaml", "mel.yaml"):
        text = Path(name).read_text()
        assert "num_train_epochs: 2" in text
        Path(name).write_text(text.replace("num_train_epochs: 2", "num_train_epochs: 12"))


@pytest.mark.slow
def test_chain_killed_in_training_and_in_prediction_ends_with_the_same_bytes(
    fresh, write_chain, run_chain, longer_training, monkeypatch
):
    kill_when("runs/wave/checkpoint-*/trainer_state.json")
    assert not Path("out/runs/wave/best").exists()
    kill_when("tables/test/wave.parquet")
    assert not Path("out/tables/test/vote.parquet").exists()
    titles = run_chain()
    assert not [title for title in titles if title.startswith("trained")]
    assert titles[-1] == "submission: out/submission.csv"
    after_kills = results()

    undisturbed = fresh.parent / "undisturbed"
    write_chain(undisturbed)
    for name in ("wave.yaml", "mel.yaml"):
        (undisturbed / name).write_bytes(Path(name).read_bytes())
    monkeypatch.chdir(undisturbed)
    run_chain()
    expected = results()
    assert {
        "out/runs/wave/best/model.safetensors",
        "out/runs/mel/best/model.safetensors",
        "out/submission.csv",
    } <= set(expected)
    assert len([name for name in expected if name.endswith(".parquet")]) == 7
    assert set(after_kills) == set(expected)
    assert [name for name in expected if after_kills[name] != expected[name]] == []
