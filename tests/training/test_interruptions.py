"""A training that a signal or a loss that is no number ends before its time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from abhinaya.config import dump_yaml
from abhinaya.errors import BadValueError
from abhinaya.loading.dataset import ClipDataset
from abhinaya.stopping.interruptions import Interruption, heeding_signals
from abhinaya.training.trainer import EmotionTrainer

Train = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[2]

# Five steps an epoch; a checkpoint behind each epoch, after its validation.
SETTINGS = ("training.per_device_train_batch_size=4", "training.save_total_limit=9")


def contents(run: Path) -> dict[str, bytes]:
    files = sorted(run.glob("*/model.safetensors"))
    return {file.parent.name: file.read_bytes() for file in files}


@pytest.fixture
def signal_in_step(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function after which a signal comes in the middle of an optimizer step; 0 for never."""
    original = EmotionTrainer.training_step

    def arm(step: int, number: int = signal.SIGTERM) -> None:
        def training_step(self: EmotionTrainer, *args: Any, **kwargs: Any) -> Any:
            if self.state.global_step + 1 == step:
                os.kill(os.getpid(), number)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(EmotionTrainer, "training_step", training_step)

    return arm


@pytest.mark.parametrize(
    ("step", "number", "strategy"),
    [
        (3, signal.SIGTERM, ()),
        (5, signal.SIGUSR1, ()),  # the last of an epoch, which is validated first
        (10, signal.SIGTERM, ()),  # the very last
        (3, signal.SIGTERM, ("training.save_strategy=steps", "training.save_steps=5")),
        (5, signal.SIGUSR2, ("training.save_strategy=steps", "training.save_steps=5")),
        (7, signal.SIGTERM, ("training.save_strategy=steps", "training.save_steps=4")),
    ],
)
def test_signal_writes_a_checkpoint_and_the_rest_ends_with_the_same_bytes(
    train: Train,
    trained: Train,
    tmp_path: Path,
    signal_in_step: Callable[..., None],
    step: int,
    number: int,
    strategy: tuple[str, ...],
) -> None:
    undisturbed = trained(*SETTINGS, *strategy)
    run = tmp_path / "run"
    signal_in_step(step, number)
    with heeding_signals(), pytest.raises(Interruption):
        train(*SETTINGS, *strategy, run_dir=run)
    assert (run / f"checkpoint-{step}" / "trainer_state.json").is_file()
    assert not (run / f"checkpoint-{step + 1}").exists()
    assert not (run / "best").exists()
    signal_in_step(0)
    train(*SETTINGS, *strategy, run_dir=run)
    ours, theirs = contents(run), contents(undisturbed)
    assert {name for name in theirs if ours[name] != theirs[name]} == set()
    assert set(ours) - set(theirs) <= {f"checkpoint-{step}"}


@pytest.mark.slow
def test_signal_to_a_command_and_its_readers_exits_143_after_a_checkpoint(
    make_config: Callable[..., Any], tmp_path: Path
) -> None:
    """As SLURM does: every process of a job gets it."""
    overrides = ("training.num_train_epochs=200", "training.dataloader_num_workers=1")
    (tmp_path / "config.yaml").write_text(dump_yaml(make_config(tmp_path / "run", *overrides)))
    process = subprocess.Popen(
        [sys.executable, "-m", "abhinaya", "train", str(tmp_path / "config.yaml")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run").glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert said.endswith("Stopped by a signal. Run the same command again to go on.\n")
    assert "Traceback" not in said


def make_clip_unheard(patch: pytest.MonkeyPatch, epoch: int) -> list[str]:
    """Let one clip yield no numbers in an epoch; return its name, once it was read."""
    original, unheard = ClipDataset.__getitem__, list[str]()

    def get(self: ClipDataset, key: int | tuple[int, int]) -> dict[str, Any]:
        row = original(self, key)
        if isinstance(key, tuple) and key == (20, epoch):
            unheard[:] = [self.clips[20].utterance]
            row["segments"] = [
                {name: value * float("nan") for name, value in segment.items()}
                for segment in row["segments"]
            ]
        return row

    patch.setattr(ClipDataset, "__getitem__", get)
    return unheard


def test_loss_that_is_no_number_stops_at_its_step_and_names_the_clips(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        unheard = make_clip_unheard(patch, epoch=1)
        with pytest.raises(BadValueError) as caught:
            train(*SETTINGS, run_dir=run)
    said = str(caught.value)
    assert repr(unheard[0]) in said
    assert said.count(".wav'") == 4  # of eight in the step
    for part in ("The loss of optimizer step ", "learning rate 0.0", "Listen to these clips"):
        assert part in said
    # The last good checkpoint is the last one, and the same training goes on from it.
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-5"]
    train(*SETTINGS, run_dir=run)
    assert (run / "best").is_dir()
