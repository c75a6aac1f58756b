"""Training on rows that are drawn by class, in one stage or two."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kills import KilledError
from safetensors.torch import load_file
from two_processes import ROOT, run_two

from abhinaya.config import dump_yaml, merge
from abhinaya.data.manifest import Manifest
from abhinaya.errors import BadValueError, ProblemsError
from abhinaya.loading.dataset import ClipDataset
from abhinaya.member_config import check_member_config
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.nn.losses.build import EmotionLoss

Train = Callable[..., Path]
MakeConfig = Callable[..., ClassifierConfig]

# 34 rows of a class, 2 of the rarest ones, and 3 without: 37 rows in batches of 8 are five steps,
# and 8 * 2 + 2 are three. Dropout, random crops and accumulation, as in the tests of resuming.
SECOND = (
    "loss.name=soft-cross-entropy",
    "loss.class_weights=inverse",
    "balance.second_stage.from_epoch=1",
    "balance.second_stage.learning_rate=0.004",
    "balance.second_stage.outside_share=1",
    "training.per_device_train_batch_size=4",
    "training.num_train_epochs=3",
    "training.save_total_limit=9",
)
BY_STEPS = ("training.save_strategy=steps", "training.save_steps=2")


def read_log(run: Path, column: str) -> list[float]:
    with (run / "log.csv").open(newline="", encoding="utf-8") as file:
        return [float(row[column]) for row in csv.DictReader(file) if row[column]]


def test_second_stage_has_its_own_rows_rate_and_no_weights(
    train: Train, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[int, str]] = []
    weighs: list[bool] = []
    get, loss = ClipDataset.__getitem__, EmotionLoss.forward

    def recorded(self: ClipDataset, key: Any) -> dict[str, Any]:
        if isinstance(key, tuple):
            drawn.append((key[1], self.clips[key[0]].utterance))
        return get(self, key)

    def watched(self: EmotionLoss, *args: Any) -> Any:
        if len(args[0]) == 4:
            weighs.append(self.weighs_classes)
        return loss(self, *args)

    monkeypatch.setattr(ClipDataset, "__getitem__", recorded)
    monkeypatch.setattr(EmotionLoss, "forward", watched)
    run = train(*SECOND, "training.logging_strategy=steps", "training.logging_steps=1")

    labels = dict(zip(manifest.rows["utterance"], manifest.rows["label"], strict=True))
    per_epoch = [Counter(name for at, name in drawn if at == epoch) for epoch in range(3)]
    assert [times.total() for times in per_epoch] == [40, 24, 24]
    assert len(per_epoch[0]) == 37
    outside = [name for name in per_epoch[0] if labels[name] in "OX"]
    assert len(outside) == 3
    for times in per_epoch[1:]:
        classes = Counter("O" if name in outside else labels[name] for name in times)
        assert classes == dict.fromkeys("ACDFHNSUO", 2)
        assert max(times.values()) == 2  # 18 rows fill 24 places
    assert set(per_epoch[1]) != set(per_epoch[2])
    # Two micro-batches a step: each stage falls linearly from its own rate.
    assert weighs == [True] * 10 + [False] * 12
    rates = [0.01 * (5 - step) / 5 for step in range(5)]
    rates += [0.004 * (6 - step) / 6 for step in range(6)]
    assert read_log(run, "learning_rate") == pytest.approx(rates)
    assert read_log(run, "epoch")[4::3] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [BY_STEPS, ()], ids=["steps", "epoch"])
def test_training_killed_in_each_stage_resumes_to_the_same_bytes(
    train: Train, trained: Train, tmp_path: Path, kill_in_step: Any, strategy: tuple[str, ...]
) -> None:
    settings, run = (*SECOND, *strategy), tmp_path / "run"
    # In the first stage, in the last step of an epoch, between and in the middle of epochs.
    for step in (4, 6, 8, 10, 11):
        kill_in_step(step)
        with pytest.raises(KilledError):
            train(*settings, run_dir=run)
    kill_in_step(0)
    train(*settings, run_dir=run)
    undisturbed = trained(*settings)
    ours, theirs = (
        {file.parent.name: file.read_bytes() for file in folder.glob("*/model.safetensors")}
        for folder in (run, undisturbed)
    )
    steps = (2, 4, 6, 8, 10, 11) if strategy else (5, 8, 11)
    assert sorted(theirs) == sorted(["best", *(f"checkpoint-{step}" for step in steps)])
    assert ours == theirs
    for column in ("step", "epoch", "eval_loss", "eval_macro_f1"):
        assert read_log(run, column) == read_log(undisturbed, column)


@pytest.mark.slow
def test_two_processes_train_two_stages_as_one_does(
    make_config: MakeConfig, trained: Train, wavlm_without_dropout: str, tmp_path: Path
) -> None:
    settings = (*SECOND, *BY_STEPS, f"base={wavlm_without_dropout}", "head.dropout=0")
    settings += ("spec_augment=false", "training.optim=sgd", "balance.sampler=square-root")
    settings += ("training.max_grad_norm=0",)
    run, file = tmp_path / "run", tmp_path / "config.yaml"
    file.write_text(dump_yaml(make_config(run, *settings)))
    command = ["-m", "abhinaya", "train", str(file), "--json"]
    done: subprocess.CompletedProcess[str] = run_two(
        tmp_path, *command, "training.per_device_train_batch_size=2"
    )
    assert done.returncode == 0, done.stderr
    alone = trained(*settings)
    names = {folder.name for folder in alone.glob("checkpoint-*")}
    assert names == {f"checkpoint-{step}" for step in (2, 4, 6, 8, 10, 11)}
    for name in names:
        ours, theirs = (load_file(each / name / "model.safetensors") for each in (run, alone))
        assert max(float((ours[key] - theirs[key]).abs().max()) for key in theirs) < 1e-5


def test_steps_may_end_the_training_within_the_second_stage(train: Train, tmp_path: Path) -> None:
    run = train(*SECOND, "training.max_steps=7", run_dir=tmp_path / "run")
    assert read_log(run, "epoch")[-1] == pytest.approx(1 + 2 / 3)
    assert json.loads((run / "best" / "metrics.json").read_text())["n_steps"] == 7


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ((), "second_stage.from_epoch"),
        (("balance.second_stage=null", "balance.reweight_from_epoch=1"), "reweight_from_epoch"),
    ],
)
def test_steps_that_end_before_the_change_raise(
    train: Train, tmp_path: Path, overrides: tuple[str, ...], key: str
) -> None:
    message = rf"max_steps is 5, but balance\.{key} is 1, and there are 5 steps before that epoch"
    with pytest.raises(BadValueError, match=message):
        train(*SECOND, *overrides, "training.max_steps=5", run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["polynomial", "constant"])
def test_second_stage_may_be_all_there_is(train: Train, kind: str) -> None:
    alone = ("balance.second_stage.from_epoch=0", f"training.lr_scheduler_type={kind}")
    logging = ("training.logging_strategy=steps", "training.logging_steps=1")
    run = train(*SECOND, *alone, *logging, "training.num_train_epochs=1.5")
    # Three steps an epoch, and half of three are two.
    falling = 1 if kind == "polynomial" else 0
    rates = [0.004 * (1 - falling * step / 5) for step in range(5)]
    assert read_log(run, "learning_rate") == pytest.approx(rates, rel=1e-3)


@pytest.mark.slow
def test_clip_of_the_second_stage_whose_loss_is_no_number_is_named(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    get, unheard = ClipDataset.__getitem__, list[str]()

    def broken(self: ClipDataset, key: Any) -> dict[str, Any]:
        row = get(self, key)
        name = self.clips[key[0] if isinstance(key, tuple) else key].utterance
        if isinstance(key, tuple) and key[1] == 2 and unheard in ([], [name]):
            unheard[:] = [name]
            row["segments"] = [
                {part: value * float("nan") for part, value in segment.items()}
                for segment in row["segments"]
            ]
        return row

    monkeypatch.setattr(ClipDataset, "__getitem__", broken)
    with pytest.raises(BadValueError, match=r"loss of optimizer step 9 is not") as failure:
        train(*SECOND)
    assert unheard[0] in str(failure.value)


@pytest.mark.parametrize(
    ("loss", "weights"),
    [
        ("cross-entropy", "inverse"),
        pytest.param("ldam", "class-balanced", marks=pytest.mark.slow),
    ],
)
def test_class_weights_apply_from_the_epoch_on_that_was_asked_for(
    trained: Train, loss: str, weights: str
) -> None:
    settings = ("training.save_total_limit=9", f"loss.name={loss}")
    without, weighted = trained(*settings), trained(*settings, f"loss.class_weights={weights}")
    late = "balance.reweight_from_epoch=1"
    deferred = trained(*settings, f"loss.class_weights={weights}", late)
    first, second = (
        [(run / f"checkpoint-{n}" / "model.safetensors").read_bytes() for n in (5, 10)]
        for run in (deferred, without)
    )
    assert first[0] == second[0] != (weighted / "checkpoint-5" / "model.safetensors").read_bytes()
    assert first[1] != second[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "power"),
    [
        (("balance.sampler=natural",), None),
        (("balance.sampler=square-root",), 0.5),
        (("balance.sampler=class-balanced",), 1),
        (("balance.sampler=square-root", "loss.name=logit-adjustment", "loss.tau=0.5"), 1),
    ],
)
def test_facts_say_how_much_of_the_prior_is_gone(
    train: Train, overrides: tuple[str, ...], power: float | None
) -> None:
    run = train("training.max_steps=1", *overrides)
    facts = json.loads((run / "best" / "facts.json").read_text())
    powers = [count ** (power or 0) for count in facts["class_counts"]]
    expected = [each / sum(powers) for each in powers]
    assert facts["absorbed_prior"] == (None if power is None else pytest.approx(expected))


@pytest.mark.slow
def test_facts_of_a_best_checkpoint_know_its_stage(train: Train) -> None:
    """Without validation the last checkpoint counts, and that is of the second stage."""
    run = train(*SECOND, "data.validation=null")
    facts = json.loads((run / "best" / "facts.json").read_text())
    shares = [count / 34 for count in facts["class_counts"]]
    assert facts["absorbed_prior"] == pytest.approx(shares)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("balance.second_stage.from_epoch=3",), r"from_epoch is 3, but the last of 3 epochs is"),
        (("balance.second_stage.learning_rate=0",), r"learning_rate.*greater than 0"),
        (("balance.second_stage.outside_share=-1",), r"outside_share.*greater than or equal to 0"),
        (("loss.name=focal",), r"outside_share is 1, but the loss 'focal' needs a class for each"),
        (("training.learning_rate=0",), r"training\.learning_rate is 0, so there is no rate"),
        (
            ("training.lr_scheduler_type=reduce_lr_on_plateau",),
            r"lr_scheduler_type is reduce_lr_on_plateau, which .* take one that counts steps",
        ),
        (("balance.reweight_from_epoch=1",), r"but second_stage has no class weights and begins"),
        (
            ("balance.second_stage=null", "balance.reweight_from_epoch=3"),
            r"reweight_from_epoch is 3, but the last of 3 epochs is number 2",
        ),
        (
            (
                *("loss.class_weights=none", "balance.second_stage=null"),
                "balance.reweight_from_epoch=1",
            ),
            r"reweight_from_epoch is 1, but the loss has no class weights; set",
        ),
    ],
)
def test_balance_that_the_training_does_not_go_with_raises(
    make_config: MakeConfig, tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ProblemsError, match=message):
        make_config(tmp_path / "run", *SECOND, *overrides)


def test_second_stage_may_have_a_higher_rate(make_config: MakeConfig, tmp_path: Path) -> None:
    higher = "balance.second_stage.learning_rate=1"
    assert make_config(tmp_path / "run", *SECOND, higher).balance is not None


def test_examples_of_the_page_about_balance_are_configs(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    section = page.partition("## Balance\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"(?s)```yaml\n(.*?)```", section)
    assert len(blocks) == 2
    weighted = make_config(
        tmp_path / "run", "loss.class_weights=inverse", "training.num_train_epochs=5"
    )
    for block in blocks:
        content = merge(weighted.model_dump(mode="json"), yaml.safe_load(block))
        config = check_member_config(content, "the page")
        assert isinstance(config, ClassifierConfig)
        assert config.balance is not None


def test_config_without_balance_is_written_as_before(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    assert "balance:" not in dump_yaml(make_config(tmp_path / "run"))
