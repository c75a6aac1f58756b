"""A training that is killed and started again ends with the bytes of one that was not."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kills import KilledError

from abhinaya.errors import BadValueError, CheckpointError
from abhinaya.training.trainer import EmotionTrainer

pytestmark = pytest.mark.slow

Train = Callable[..., Path]

# Dropout in encoder and head, SpecAugment, random crops, two accumulation steps; 5 steps an epoch
# and a checkpoint every second one, so some of them fall into the middle of an epoch.
SETTINGS = (
    "pooling=attentive-statistics",
    "training.per_device_train_batch_size=4",
    "training.save_strategy=steps",
    "training.save_steps=2",
    "training.num_train_epochs=3",
    "training.save_total_limit=9",
    "training.learning_rate=0.001",
)
STEPS_PER_EPOCH, N_STEPS = 5, 15
"""34 usable rows in batches of 8."""


@pytest.fixture
def resumed_from(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Names of the checkpoints that trainings went on from."""
    seen: list[str | None] = []
    original = EmotionTrainer.train

    def train(self: EmotionTrainer, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        seen.append(Path(resume_from_checkpoint).name if resume_from_checkpoint else None)
        return original(self, resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    monkeypatch.setattr(EmotionTrainer, "train", train)
    return seen


def weights_of(run: Path) -> dict[str, bytes]:
    """Bytes of the weights of every checkpoint and of the best one."""
    files = sorted(run.glob("*/model.safetensors"))
    return {file.parent.name: file.read_bytes() for file in files}


def log_of(run: Path) -> list[tuple[str, ...]]:
    """What was measured, without how long it took."""
    columns = ("step", "epoch", "eval_loss", "eval_macro_f1")
    with (run / "log.csv").open(newline="", encoding="utf-8") as file:
        return [tuple(row[column] for column in columns) for row in csv.DictReader(file)]


def test_same_training_twice_gives_the_same_bytes(train: Train, trained: Train) -> None:
    first = weights_of(trained(*SETTINGS))
    steps = range(2, N_STEPS + 1, 2)
    assert sorted(first) == sorted(["best", *(f"checkpoint-{step}" for step in [*steps, 15])])
    assert len({first[f"checkpoint-{step}"] for step in steps}) == 7
    assert weights_of(train(*SETTINGS)) == first


@pytest.mark.parametrize(
    ("killed_in", "expected"),
    [
        ((1,), [None, None]),
        ((4,), [None, "checkpoint-2"]),
        # In the second epoch, in its middle; then again before the next checkpoint, then later.
        ((9, 9, 14), [None, "checkpoint-8", "checkpoint-8", "checkpoint-12"]),
        # In the first step of an epoch.
        ((11,), [None, "checkpoint-10"]),
    ],
)
def test_killed_training_resumes_to_the_same_bytes(
    train: Train,
    trained: Train,
    tmp_path: Path,
    kill_in_step: Callable[[int], None],
    resumed_from: list[str | None],
    killed_in: tuple[int, ...],
    expected: list[str | None],
) -> None:
    run = tmp_path / "run"
    for step in killed_in:
        kill_in_step(step)
        with pytest.raises(KilledError):
            train(*SETTINGS, run_dir=run)
        assert not (run / "best").exists()
    kill_in_step(0)
    train(*SETTINGS, run_dir=run)
    assert resumed_from == expected
    undisturbed = trained(*SETTINGS)
    assert weights_of(run) == weights_of(undisturbed)
    assert log_of(run) == log_of(undisturbed)
    assert {path.name for path in run.iterdir()} == {path.name for path in undisturbed.iterdir()}


@pytest.mark.parametrize("workers", [(0, 1), (1, 0)])
def test_killed_training_may_resume_with_other_workers(
    train: Train,
    trained: Train,
    tmp_path: Path,
    kill_in_step: Callable[[int], None],
    workers: tuple[int, int],
) -> None:
    """Whenever workers started, they took a random number that dropout would have used."""
    run = tmp_path / "run"
    before, after = (f"training.dataloader_num_workers={number}" for number in workers)
    kill_in_step(8)
    with pytest.raises(KilledError):
        train(*SETTINGS, before, run_dir=run)
    kill_in_step(0)
    train(*SETTINGS, after, run_dir=run)
    assert weights_of(run) == weights_of(trained(*SETTINGS))


@pytest.mark.parametrize("damage", ["absent", "truncated"])
def test_half_written_checkpoint_is_removed_and_an_earlier_one_used(
    train: Train,
    trained: Train,
    tmp_path: Path,
    kill_in_step: Callable[[int], None],
    resumed_from: list[str | None],
    damage: str,
) -> None:
    run = tmp_path / "run"
    kill_in_step(9)
    with pytest.raises(KilledError):
        train(*SETTINGS, run_dir=run)
    state = run / "checkpoint-8" / "trainer_state.json"
    if damage == "absent":
        state.unlink()
    else:
        state.write_text(state.read_text()[:100])
    kill_in_step(7)
    with pytest.raises(KilledError):
        train(*SETTINGS, run_dir=run)
    assert not (run / "checkpoint-8").exists()
    kill_in_step(0)
    train(*SETTINGS, run_dir=run)
    assert resumed_from == [None, "checkpoint-6", "checkpoint-6"]
    assert weights_of(run) == weights_of(trained(*SETTINGS))


def test_training_killed_before_the_best_was_written_only_writes_it(
    train: Train,
    trained: Train,
    tmp_path: Path,
    kill_in_step: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"

    def killed(folder: Path, *args: Any, **kwargs: Any) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("abhinaya.training.train.save_checkpoint", killed)
        with pytest.raises(KilledError):
            train(*SETTINGS, run_dir=run)
    assert not (run / "best").exists()
    kill_in_step(N_STEPS)
    train(*SETTINGS, run_dir=run)
    assert weights_of(run) == weights_of(trained(*SETTINGS))


def test_finished_training_returns_at_once(
    train: Train, tmp_path: Path, kill_in_step: Callable[[int], None]
) -> None:
    run = train("training.max_steps=1", run_dir=tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    kill_in_step(1)
    assert train("training.max_steps=1", run_dir=run) == run
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_training_with_another_config_is_refused(train: Train, tmp_path: Path) -> None:
    run = train("training.max_steps=1", run_dir=tmp_path / "run")
    before = weights_of(run)
    with pytest.raises(BadValueError, match=r"another config or corpus .*folder"):
        train("training.max_steps=1", "seed=4", run_dir=run)
    assert weights_of(run) == before


def test_training_into_a_folder_of_something_else_is_refused(train: Train, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(BadValueError, match=r"holds files but no run of abhinaya: notes\.txt"):
        train("training.max_steps=1", run_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_checkpoint_with_the_state_of_something_else_is_refused_by_name(
    train: Train, tmp_path: Path, kill_in_step: Callable[[int], None]
) -> None:
    run = tmp_path / "run"
    kill_in_step(3)
    with pytest.raises(KilledError):
        train(*SETTINGS, run_dir=run)
    folder = run / "checkpoint-2"
    (folder / "optimizer.pt").write_bytes((folder / "scheduler.pt").read_bytes())
    kill_in_step(0)
    with pytest.raises(
        CheckpointError,
        match=r"checkpoint-2' cannot be resumed: one of its files .*something else\. Delete it",
    ):
        train(*SETTINGS, run_dir=run)


def test_checkpoint_that_does_not_fit_is_refused_by_name(
    train: Train, tmp_path: Path, kill_in_step: Callable[[int], None]
) -> None:
    from safetensors.torch import load_file, save_file

    run = tmp_path / "run"
    kill_in_step(3)
    with pytest.raises(KilledError):
        train(*SETTINGS, run_dir=run)
    file = run / "checkpoint-2" / "model.safetensors"
    state = load_file(file)
    state["stray"] = state.pop("head.out.bias")
    save_file(state, file, metadata={"format": "pt"})
    kill_in_step(0)
    with pytest.raises(
        CheckpointError,
        match=r"does not fit the model: missing 'head\.out\.bias', unexpected 'stray'\. Delete",
    ):
        train(*SETTINGS, run_dir=run)
