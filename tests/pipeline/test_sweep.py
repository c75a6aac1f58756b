"""Many values of some keys; trainings are pretended but for two processes on one study."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pretended_training import Trainings, write_member
from untrained_runs import bases, corpus, make_config
from warm_python import warm_python

from abhinaya.cli import main
from abhinaya.config import dump_yaml
from abhinaya.errors import BadValueError
from abhinaya.pipeline.trials.space import Range, read_space

__all__ = ["bases", "corpus", "make_config"]

Sweep = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Sweep:
    """A function that runs the command as a user would; code, stdout and stderr."""
    pytest.importorskip("optuna", reason="the extra 'sweep' is not installed")

    def run(*args: object) -> tuple[int, str, str]:
        given = ("--out", str(tmp_path / "out"), "--resamples", "50")
        with pytest.raises(SystemExit) as caught:
            main(["sweep", str(write_member(tmp_path)), *map(str, args), *given])
        return int(caught.value.code or 0), *capsys.readouterr()

    return run


GRID = ("loss.gamma=0,1,2", "head.dropout=0.25,0.5", "seed=1,2")
TPE = ("loss.gamma=0..2", "head.dropout=0.25,0.5", "--search", "tpe", "--trials")


def test_grid_is_scored_over_seeds_and_compared_with_the_best(
    sweep: Sweep, tmp_path: Path, pretended_trainings: Trainings
) -> None:
    """Wrong of 60: 10 |gamma - 1| + 20 dropout, and one more for the odd seed."""
    code, out, err = sweep(*GRID, "--json")
    assert code == 0, err
    assert pretended_trainings.done == [
        f"loss.gamma-{gamma}_head.dropout-{dropout}/seed-{seed}"
        for gamma in (0, 1, 2)
        for dropout in (0.25, 0.5)
        for seed in (1, 2)
    ]
    found = json.loads(out)
    assert (found["seeds"], found["n_unfinished"]) == ([1, 2], 0)
    best, *others = found["trials"]
    assert best["values"] == {"loss.gamma": 1, "head.dropout": 0.25}
    assert best["trial"] == found["against"]
    assert best["difference"] is None
    assert best["accuracy"]["values"] == pytest.approx([54 / 60, 55 / 60])
    assert others[0]["values"] == {"loss.gamma": 1, "head.dropout": 0.5}
    assert others[0]["difference"]["accuracy"]["value"] == pytest.approx(-5 / 60)
    shares = found["importance"]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["loss.gamma"] > shares["head.dropout"]

    folder = tmp_path / "out"
    with (folder / "classes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * 4
    f1 = [float(row["f1"]) for row in rows[:4]]
    assert f1 == pytest.approx(list(best["f1"].values()))
    assert np.mean(f1) == pytest.approx(best["macro_f1"]["mean"])
    assert len((folder / "points.csv").read_text().splitlines()) == 7
    page = (folder / "sweep.md").read_text()
    assert "its score is too good" in page
    assert "macro-F1 of 6 trials, 2 seeds each, on 60 utterances of development" in page
    for name in ("importance", "f1-by-loss.gamma", "f1-by-head.dropout"):
        assert "loss.gamma" in (folder / f"{name}.svg").read_text() or "dropout" in name
    before = {file.name: file.read_bytes() for file in folder.glob("*.*") if file.is_file()}

    assert sweep(*GRID, "--json")[1] == out  # nothing is trained again, and all is the same
    assert len(pretended_trainings.done) == 12
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert len(before) == 6
    # A grid grows.
    assert sweep("loss.gamma=0,1,2,3", *GRID[1:])[0] == 0
    assert len(pretended_trainings.done) == 16


def test_trial_of_another_process_is_left_to_it(
    sweep: Sweep, tmp_path: Path, pretended_trainings: Trainings
) -> None:
    from abhinaya.pipeline.trials.study import claim

    with claim(tmp_path / "out" / "loss.gamma-1" / "seed-0.trial") as is_mine:
        assert is_mine
        code, out, err = sweep("loss.gamma=0,1,2", "--against", "first")
    assert code == 0
    assert "1 trials are being computed by other processes" in err
    assert pretended_trainings.done == ["loss.gamma-0/seed-0", "loss.gamma-2/seed-0"]
    assert "minus the first" in out
    assert "its score is too good" not in out
    assert sweep("loss.gamma=0,1,2")[0] == 0
    assert len(pretended_trainings.done) == 3


def test_search_goes_on_where_it_was_killed_as_if_it_had_not_been(
    sweep: Sweep, tmp_path: Path, pretended_trainings: Trainings
) -> None:
    def kill(name: str) -> None:
        if name == "trial-0002/seed-2":
            raise KeyboardInterrupt

    pretended_trainings.before = kill
    assert sweep(*TPE, 5, "seed=1,2")[0] == 130
    pretended_trainings.before = lambda name: None
    code, out, err = sweep(*TPE, 5, "seed=1,2", "--json")
    assert code == 0, err
    done = [f"trial-{number:04d}/seed-{seed}" for number in range(5) for seed in (1, 2)]
    assert pretended_trainings.done == done
    found = json.loads(out)
    assert all(0 <= trial["values"]["loss.gamma"] <= 2 for trial in found["trials"])
    assert sweep(*TPE, 5, "seed=1,2", "--json")[1] == out
    assert len(pretended_trainings.done) == 10

    (tmp_path / "out").rename(tmp_path / "killed")
    code, again, _ = sweep(*TPE, 5, "seed=1,2", "--json")
    assert again == out
    # More trials may follow, other seeds or values may not: they would mean something else.
    assert sweep(*TPE, 6, "seed=1,2")[0] == 0
    assert pretended_trainings.done[-1] == "trial-0005/seed-2"
    for other in (("seed=1",), ("seed=1,2", "data.validation=all")):
        code, _, err = sweep(*TPE, 6, *other)
        assert code == 1
    code, _, err = sweep(*TPE, 6, "seed=1")
    assert "holds a search with another config, seeds, rows or values" in err


def test_random_search_draws_whole_numbers_and_logarithms(
    sweep: Sweep, pretended_trainings: Trainings
) -> None:
    args = ("head.hidden=4..8", "training.learning_rate=log:1e-6..1e-2", "seed=2")
    code, out, err = sweep(*args, "--search", "random", "--trials", 8, "--json")
    assert code == 0, err
    points = [trial["values"] for trial in json.loads(out)["trials"]]
    assert {type(point["head.hidden"]) for point in points} == {int}
    rates = [point["training.learning_rate"] for point in points]
    assert min(rates) < 1e-4 < max(rates)
    assert len(set(rates)) == 8


def test_finished_trials_without_their_tables_are_named(
    sweep: Sweep, tmp_path: Path, pretended_trainings: Trainings
) -> None:
    assert sweep(*TPE, 2)[0] == 0
    (tmp_path / "out" / "trial-0001" / "seed-0.parquet").unlink()
    code, _, err = sweep(*TPE, 2)
    assert code == 1
    assert "has 2 finished trials, but tables of 'trial-0001' are gone" in err


def test_damaged_study_is_named(
    sweep: Sweep, tmp_path: Path, pretended_trainings: Trainings
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "study.db").write_bytes(b"no database" * 99)
    code, _, err = sweep(*TPE, 2)
    assert code == 1
    assert "cannot be read as a study of Optuna" in err
    assert "Delete it to search anew" in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("loss.gamma", "'loss.gamma' is not of the form KEY=VALUES"),
        ("loss.gamma=", "'loss.gamma=' is not of the form KEY=VALUES"),
        ("loss.gamma=1", "Nothing to sweep: no key has several values"),
        ("loss.gamma=1,2 loss.gamma=3", "loss.gamma is given twice"),
        ("loss.gamma=1,2,1", "loss.gamma has the value 1 twice"),
        ("loss.gamma=0..2", "loss.gamma has a range, of which a grid would never end"),
        ("loss.gamma=2..0 --search tpe --trials 2", "2 is not below 0"),
        ("loss.gamma=log:0..2 --search tpe --trials 2", "begins at 0, which has no logarithm"),
        ("loss.gamma=log:1,2", "is no range, such as log:1e-6..1e-4"),
        ("loss.gamma=1,2 seed=1..3", "must list whole numbers, such as seed=1,2,3"),
        ("loss.gamma=1,2 seed=a", "must list whole numbers, such as seed=1,2,3"),
        ("loss.gamma=1,2 name=a,b", "name cannot be swept"),
        ("loss.gamma=1,-2", "loss.gamma is -2"),
        ("loss.gamma=-1..2 --search tpe --trials 2", "loss.gamma is -1"),
        ("loss.gama=1,2", "did you mean loss.gamma?"),
        ("loss.gamma=1,2 loss.name=focal,cross-entropy", "has no option 'gamma'"),
        (
            "loss.gamma=0..2 loss.name=focal,cross-entropy --search tpe --trials 2",
            "has no option 'gamma'",
        ),
        ("data.manifest=a,b", "differ in data.manifest"),
        ("loss.gamma=1,2 --select train", "8 of the 8 rows of 'train' are trained on"),
    ],
    ids=str,
)
def test_what_cannot_be_swept_is_refused_before_anything_is_trained(
    sweep: Sweep, tmp_path: Path, pretended_trainings: Trainings, args: str, message: str
) -> None:
    code, _, err = sweep(*args.split())
    assert code == 1
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not pretended_trainings.done
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("args", [("--trials", "3"), ("--search", "tpe")])
def test_number_of_trials_is_that_of_a_search(sweep: Sweep, args: tuple[str, ...]) -> None:
    code, _, err = sweep("loss.gamma=1,2", *args)
    assert code == 2
    assert "give trials to a search, --search tpe --trials 40, and to no grid" in err


def test_values_are_yaml_in_any_place() -> None:
    space = read_space(["a.b=none,[1,2],1e-3", "c=x/y", "d=log:1e-6..1", "e=0.5..2", "seed=3"])
    assert space.overrides == ("c=x/y",)
    assert space.seeds == (3,)
    one, log, plain = space.dimensions
    assert (one.key, one.values) == ("a.b", ("none", [1, 2], 0.001))
    assert log.values == Range(1e-6, 1, log=True)
    assert plain.values == Range(0.5, 2, log=False)
    assert read_space(["a=../x,../y"]).dimensions[0].values == ("../x", "../y")


def test_points_that_look_alike_have_folders_of_their_own() -> None:
    grid = read_space(["a=[1,2],[12],'1 2',12", "b=" + "x" * 200 + ",y"]).grid()
    assert len(grid) == 8
    assert all(len(name) < 120 for name in grid)


def test_launch_is_told_to_start_several_commands(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = sweep("loss.gamma=1,2")
    assert code == 1
    assert "A sweep is not for accelerate launch" in err


def test_missing_extra_is_named(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = sweep("loss.gamma=1,2")
    assert code == 1
    assert "A sweep needs the package optuna. Install it with: pip install 'abhinaya[sweep]'" in err


@pytest.mark.slow
def test_two_processes_share_one_study(make_config: Callable[..., object], tmp_path: Path) -> None:
    """Both begin together; each trial is trained once, and the last one to end shows all."""
    pytest.importorskip("optuna", reason="the extra 'sweep' is not installed")
    config = tmp_path / "tiny.yaml"
    content = dump_yaml(make_config(tmp_path / "none", "training.num_train_epochs=1"))
    config.write_text(content)
    command = [
        warm_python(), "-m", "abhinaya", "sweep", str(config), "head.dropout=0..0.5",
        "--search", "tpe", "--trials", "4", "--resamples", "50", "--json",
        "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ended = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0, 0], ended
    trained = [err.count("training clips") for _, err in ended]
    assert sum(trained) == 4
    assert min(trained) >= 1
    assert not any("trained already" in err for _, err in ended)
    found = [json.loads(out) for out, _ in ended]
    assert max(len(report["trials"]) for report in found) == 4
    names = {trial["trial"] for report in found for trial in report["trials"]}
    assert names == {f"trial-{number:04d}" for number in range(4)}
    # Everything is there: a third one trains nothing.
    third = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "training clips" not in third.stderr
    assert json.loads(third.stdout)["n_unfinished"] == 0


def test_error_of_a_bad_range_is_ours() -> None:
    with pytest.raises(BadValueError, match="is no range"):
        read_space(["a=log:x..y", "b=1,2"])
