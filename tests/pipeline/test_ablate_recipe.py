"""A member is trained with and without each switch; trainings are pretended but for one test."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pretended_training import Trainings, write_member
from scipy.stats import ttest_rel

from abhinaya.cli import main

Ablate = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ablate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ablate:
    """A function that runs the command as a user would; code, stdout and stderr."""

    def run(*args: object, config: Path | None = None) -> tuple[int, str, str]:
        path = config or write_member(tmp_path)
        given = ("--out", str(tmp_path / "out"), "--resamples", "50")
        with pytest.raises(SystemExit) as caught:
            main(["ablate-recipe", str(path), *map(str, args), *given])
        return int(caught.value.code or 0), *capsys.readouterr()

    return run


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_switch_is_taken_out_and_what_it_brings_is_said(
    ablate: Ablate, tmp_path: Path, pretended_trainings: Trainings
) -> None:
    """Wrong of 60: 5 as configured; gamma 2, the default, has 10 more; dropout .5 has 5 more."""
    code, out, err = ablate("--switch", "loss.gamma,head.dropout=0.5", "--json")
    assert code == 0, err
    recipes = ["everything", "without-loss.gamma", "without-head.dropout-0.5"]
    assert pretended_trainings.done == [f"{r}/seed-{n}" for r in recipes for n in (1, 2, 3)]
    found = json.loads(out)
    assert (found["n_utts"], found["seeds"], found["unit"]) == (60, [1, 2, 3], "utterances")
    whole, gamma, dropout = found["recipes"]
    # Seeds 1 and 3 are wrong once more.
    assert whole["accuracy"]["values"] == pytest.approx([54 / 60, 55 / 60, 54 / 60])
    assert whole["brings"] is None
    assert gamma["brings"]["accuracy"]["value"] == pytest.approx(10 / 60)
    assert dropout["brings"]["accuracy"]["value"] == pytest.approx(5 / 60)
    theirs = ttest_rel(whole["macro_f1"]["values"], gamma["macro_f1"]["values"])
    assert gamma["brings"]["macro_f1"]["p_seeds"] == pytest.approx(theirs.pvalue)
    assert "The scored rows also chose each run's checkpoint" in err

    rows = read_csv(tmp_path / "out" / "recipes.csv")
    assert [(row["recipe"], row["metric"]) for row in rows] == [
        (recipe, metric) for metric in ("macro_f1", "accuracy") for recipe in recipes
    ]
    assert rows[4]["switch brings"] == "+0.1667"
    seeds = read_csv(tmp_path / "out" / "seeds.csv")
    assert [row["seed"] for row in seeds] == ["1", "2", "3"] * 3
    assert float(seeds[4]["accuracy"]) == pytest.approx(45 / 60)
    page = (tmp_path / "out" / "recipes.md").read_text()
    assert "| without-loss.gamma |" in page
    assert "3 seeds say little about others" in page
    assert "the t test has 2 degrees of freedom" in page


def test_bare_recipe_and_each_switch_alone(ablate: Ablate, pretended_trainings: Trainings) -> None:
    """20 wrong without both, 10 with gamma alone, 15 with dropout alone: only = less bare."""
    code, out, err = ablate(
        "--switch", "loss.gamma,head.dropout=0.5", "--add", "--seeds", "2", "--json"
    )
    assert code == 0, err
    found = {entry["recipe"]: entry["brings"] for entry in json.loads(out)["recipes"]}
    assert list(found)[3:] == ["nothing", "only-loss.gamma", "only-head.dropout-0.5"]
    assert found["only-loss.gamma"]["accuracy"]["value"] == pytest.approx(10 / 60)
    assert found["only-head.dropout-0.5"]["accuracy"]["value"] == pytest.approx(5 / 60)
    assert found["only-loss.gamma"]["accuracy"]["p_seeds"] is None
    assert len(pretended_trainings.done) == 6


def test_one_seed_is_said_to_prove_nothing_about_others(
    ablate: Ablate, pretended_trainings: Trainings
) -> None:
    code, out, _ = ablate("--switch", "loss.gamma", "--seeds", "1", "--by-speaker")
    assert code == 0
    assert "There is one seed, so nothing is known about others" in out
    assert "on other speakers" in out


def test_killed_half_way_it_goes_on(
    ablate: Ablate, tmp_path: Path, pretended_trainings: Trainings
) -> None:
    def kill(name: str) -> None:
        if name == "without-loss.gamma/seed-2":
            raise KeyboardInterrupt

    pretended_trainings.before = kill
    assert ablate("--switch", "loss.gamma")[0] == 130
    assert not (tmp_path / "out" / "recipes.csv").exists()
    assert len(pretended_trainings.done) == 4
    pretended_trainings.before = lambda name: None
    assert ablate("--switch", "loss.gamma")[0] == 0
    first = (tmp_path / "out" / "recipes.md").read_bytes()
    assert pretended_trainings.done[4:] == [
        "without-loss.gamma/seed-2",
        "without-loss.gamma/seed-3",
    ]
    assert ablate("--switch", "loss.gamma")[0] == 0
    assert len(pretended_trainings.done) == 6
    assert (tmp_path / "out" / "recipes.md").read_bytes() == first


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--switch loss.gama", "Unknown key of"),
        ("--switch loss.gama", "Did you mean 'loss.gamma'?"),
        ("--switch mixin", "Did you mean 'mixing'?"),
        ("--switch pooling", "The switch 'pooling' is not set by"),
        ("--switch mixing", "The switch 'mixing' is not set by"),
        ("--switch audio.augment", "The switch 'audio.augment' is not set by"),
        ("--switch pooling", "it has its default already"),
        ("--switch loss.gamma=1", "The switch 'loss.gamma=1' changes nothing"),
        ("loss.gamma=2 --switch loss.gamma", "The switch 'loss.gamma' changes nothing"),
        ("--switch seed=4", "seed is no switch: every run has its own"),
        ("--switch training", "without-training: training is missing"),
        ("--switch loss.gamma,loss.name", "without-loss.name: loss: The loss 'cross-entropy' has"),
        ("--switch head.dropuot=0", "did you mean head.dropout?"),
        ("--switch data.manifest=m.parquet", "differ in data.manifest"),
        ("--switch loss.gamma=2,loss.gamma=:2", "would have the same folder"),
        ("--switch loss.gamma --select nowhere", "Unknown split or subset 'nowhere'"),
        ("--switch loss.gamma --select train", "8 of the 8 rows of 'train' are trained on"),
        ("data.validation=null --switch loss.gamma", "Name a selection with --select"),
        ("member=llama-70b-zero-shot --switch loss.gamma", "has nothing to train, so its config"),
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(
    ablate: Ablate, tmp_path: Path, pretended_trainings: Trainings, args: str, message: str
) -> None:
    code, _, err = ablate(*args.split())
    assert code == 1
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not pretended_trainings.done
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("", "switch names none; give --switch A,B"),
        ("--switch a,,b", "switch names none; give --switch A,B"),
        ("--switch a,b,a", "--switch names 'a' more than once"),
        ("--switch a --seeds 1,1", "--seeds names '1' more than once"),
        ("--switch a --seeds 1,x", "--seeds has 'x', expected whole numbers"),
        ("--switch a --add", "--add needs several switches"),
    ],
    ids=str,
)
def test_options_that_say_nothing_are_refused(ablate: Ablate, args: str, message: str) -> None:
    code, _, err = ablate(*args.split())
    assert code == 2
    assert message in " ".join(err.replace("│", " ").split())


def test_member_with_nothing_to_train_and_rows_without_labels_are_refused(
    ablate: Ablate, tmp_path: Path, pretended_trainings: Trainings
) -> None:
    config = "members/llama-70b-zero-shot.yaml"
    args: tuple[Any, ...] = (f"data.manifest={tmp_path}/m", "--switch", "prompt=few-shot-v1")
    code, _, err = ablate(*args, config=Path(config))
    assert code == 1
    assert "has nothing to train, so its config" in err
    args = ("--switch", "loss.gamma", "--select", "development:O")
    assert ablate(*args)[0] == 1


def test_brackets_keep_their_commas(ablate: Ablate, pretended_trainings: Trainings) -> None:
    code, _, err = ablate("--switch", "loss.class_weights=[1,2,3,4],loss.gamma", "--seeds", "1,2")
    assert code == 0, err
    assert {name.split("/")[0] for name in pretended_trainings.done} == {
        "everything",
        "without-loss.class_weights-1-2-3-4",
        "without-loss.gamma",
    }
