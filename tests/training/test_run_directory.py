from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from abhinaya.errors import BadValueError
from abhinaya.training.run_directory import RunDirectory


def add_checkpoint(run: RunDirectory, step: int, state: str | None = "{}") -> Path:
    folder = run.path / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.save({}, folder / name)
    save_file({"weight": torch.zeros(1)}, folder / "model.safetensors")
    if state is not None:
        (folder / "trainer_state.json").write_text(state)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    begun = RunDirectory(tmp_path / "run", "d1")
    begun.check()
    begun.begin("seed: 1\n")
    return begun


def test_run_directory_begin_writes_config_and_digest(run: RunDirectory) -> None:
    assert (run.path / "config.yaml").read_text() == "seed: 1\n"
    assert (run.path / "digest.json").read_text() == '{\n  "digest": "d1"\n}\n'
    assert not run.is_finished
    assert run.last_checkpoint() is None


def test_run_directory_same_digest_may_go_on(run: RunDirectory) -> None:
    RunDirectory(run.path, "d1").check()


@pytest.mark.parametrize("made", ["checkpoint-1", "best"])
def test_run_directory_other_digest_raises(run: RunDirectory, made: str) -> None:
    run.begin("a: 1\n")
    (run.path / made).mkdir()
    with pytest.raises(BadValueError, match=r"another config.*digest d1, now d2.*another folder"):
        RunDirectory(run.path, "d2").check()


def test_run_directory_other_digest_before_first_checkpoint_may_start_anew(
    run: RunDirectory,
) -> None:
    run.begin("a: 1\n")
    RunDirectory(run.path, "d2").check()
    RunDirectory(run.path, "d2").begin("a: 2\n")
    assert (run.path / "digest.json").read_text() == '{\n  "digest": "d2"\n}\n'


def test_run_directory_other_digest_without_checkpoint_may_start_anew(run: RunDirectory) -> None:
    again = RunDirectory(run.path, "d2")
    again.check()
    again.begin("seed: 2\n")
    assert (run.path / "config.yaml").read_text() == "seed: 2\n"
    assert (run.path / "digest.json").read_text() == '{\n  "digest": "d2"\n}\n'


def test_run_directory_empty_folder_may_be_used(tmp_path: Path) -> None:
    RunDirectory(tmp_path, "d1").check()


def test_run_directory_foreign_files_raise(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(
        BadValueError, match=r"files but no run of abhinaya: thesis\.tex\. Name an empty"
    ):
        RunDirectory(tmp_path, "d1").check()


def test_run_directory_left_by_a_kill_at_the_first_file_may_be_used(tmp_path: Path) -> None:
    (tmp_path / ".digest.json.77.tmp").write_text('{"dig')
    RunDirectory(tmp_path, "d1").check()


def test_run_directory_newest_complete_checkpoint_counts(run: RunDirectory) -> None:
    add_checkpoint(run, 9)
    add_checkpoint(run, 10)  # ten comes after nine, though not in the alphabet
    add_checkpoint(run, 20, state=None)
    add_checkpoint(run, 30, state='{"epoch": 1')
    assert run.last_checkpoint() == run.path / "checkpoint-10"


def test_run_directory_begin_removes_half_written_checkpoints(run: RunDirectory) -> None:
    complete = add_checkpoint(run, 10)
    add_checkpoint(run, 20, state=None)
    add_checkpoint(run, 30, state="")
    run.begin("seed: 1\n")
    assert [path for path in run.path.iterdir() if path.is_dir()] == [complete]


def test_run_directory_leaves_folders_of_other_names_alone(run: RunDirectory) -> None:
    (run.path / "checkpoint-kept-by-me").mkdir()
    run.begin("seed: 1\n")
    assert run.last_checkpoint() is None
    assert (run.path / "checkpoint-kept-by-me").is_dir()


def test_run_directory_is_finished_once_best_is_there(run: RunDirectory) -> None:
    run.best.mkdir()
    assert run.is_finished


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt"])
def test_run_directory_begin_falls_back_where_the_newest_lacks_a_file(
    run: RunDirectory, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The Trainer would go on with neither optimizer nor scheduler, without a word."""
    whole, broken = add_checkpoint(run, 10), add_checkpoint(run, 20)
    (broken / name).unlink()
    with caplog.at_level(logging.WARNING, logger="abhinaya"):
        run.begin("seed: 1\n")
    assert run.last_checkpoint() == whole
    assert f"cannot be resumed: {name} is missing. The training goes on" in caplog.text


class Loud:
    """A pickle of it calls print when it is loaded."""

    def __reduce__(self) -> Any:
        return print, ("ran",)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state_1.pth"])
@pytest.mark.parametrize("damage", ["cut", "code", "noise"])
def test_run_directory_begin_falls_back_where_the_newest_cannot_be_read(
    run: RunDirectory,
    name: str,
    damage: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole, broken = add_checkpoint(run, 10), add_checkpoint(run, 20)
    for folder in (whole, broken):
        torch.save({"state": torch.zeros(100)}, folder / name)
        state = {"numpy": np.random.get_state(), "cpu": torch.get_rng_state()}
        torch.save(state, folder / "rng_state.pth")
    content = (broken / name).read_bytes()
    if damage == "code":
        torch.save({"state": Loud()}, broken / name)
    else:
        (broken / name).write_bytes(content[:300] if damage == "cut" else b"noise" * 90)
    with caplog.at_level(logging.WARNING, logger="abhinaya"):
        run.begin("seed: 1\n")
    assert run.last_checkpoint() == whole
    assert "checkpoint-20 is removed, because it cannot be resumed" in caplog.text
    assert "goes on from checkpoint-10" in caplog.text
    assert capsys.readouterr().out == ""
