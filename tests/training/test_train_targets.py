"""Targets of a training: what is refused, what reaches the loss, and what a run remembers."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from abhinaya.config import dump_yaml
from abhinaya.data.manifest import Manifest
from abhinaya.data.predictions import PredictionTable, read_table, write_table
from abhinaya.errors import BadValueError, MissingFileError, ProblemsError
from abhinaya.member import PredictRequest
from abhinaya.member_config import load_member_config
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.registry import load_member
from abhinaya.training.train import training_digest
from abhinaya.training.trainer import EmotionTrainer

MakeConfig = Callable[..., ClassifierConfig]
Train = Callable[..., Path]

SOFT = "loss.name=kl-divergence"
QUICK = (SOFT, "training.max_steps=1", "data.validation=null", "freeze=encoder")


@pytest.fixture
def teacher(manifest: Manifest, tmp_path: Path) -> Path:
    """A table of all rows; its model was trained on the first ones, and abstains on the last."""
    utterances = manifest.rows["utterance"].tolist()
    n_utts, rng = len(utterances), np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(8), n_utts).astype(np.float32)
    labels = probs.argmax(axis=1)
    labels[-1] = -1
    table = PredictionTable(
        "teacher",
        manifest.emotions,
        utterances,
        labels,
        probs=probs,
        trained_on=np.arange(n_utts) < 2,
    )
    write_table(table, tmp_path / "teacher.parquet")
    return tmp_path / "teacher.parquet"


class StopError(Exception):
    """Before anything is trained."""


@pytest.fixture
def trainer_of(train: Train, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A function that gives the trainer of a run, as it is before the first step."""
    seen: list[Any] = []

    def stop(self: EmotionTrainer, **kwargs: Any) -> None:
        seen.append(self)
        raise StopError

    def run(*overrides: str) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(EmotionTrainer, "train", stop)
            with pytest.raises(StopError):
                train(*overrides)
        return seen[-1]

    return run


# What a config may say


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("targets.label_smoothing=0.1",), "loss.name to kl-divergence or soft-cross-entropy"),
        (("targets.annotation_dropout.share=0.1", "loss.name=focal"), "the loss focal takes one"),
        (("targets.table=x.parquet", "loss.name=vector-scaling"), "takes one class per row"),
        ((SOFT, "targets.annotation_dropout.share=1"), "share is 1, expected less than 1"),
        ((SOFT, "targets.annotation_dropout.share=-0.1"), "expected greater than or equal to 0"),
        ((SOFT, "targets.annotation_dropout.classes=[]"), "classes is [], tuple should have at"),
        ((SOFT, "targets.label_smoothing=1"), "label_smoothing is 1, expected less than 1"),
        ((SOFT, "targets.table=x", "targets.temperature=0"), "temperature is 0, expected greater"),
        ((SOFT, "targets.table=x", "targets.weight=0"), "weight is 0, expected greater than 0"),
        ((SOFT, "targets.table=x", "targets.weight=1.5"), "weight is 1.5, expected less than or"),
        ((SOFT, "targets.weight=0.5"), "targets: weight is about the table, but none is named"),
        ((SOFT, "targets.temperature=2"), "temperature is about the table, but none is named"),
        ((SOFT, "targets.outside=drop"), "targets.outside is 'drop', expected 'votes' or"),
        ((SOFT, "targets.tablx=x"), "targets.tablx is unknown, did you mean targets.table?"),
    ],
)
def test_targets_that_cannot_work_are_refused(
    make_config: MakeConfig, overrides: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(ProblemsError) as caught:
        make_config(Path("run"), *overrides)
    assert problem in str(caught.value)


def test_runs_without_targets_keep_their_config_and_digest(
    make_config: MakeConfig, manifest: Manifest
) -> None:
    config = make_config(Path("run"), SOFT)
    assert "targets" not in config.model_dump()
    # As it was before there were such targets.
    stated = make_config(Path("run"), SOFT, "targets=null")
    assert training_digest(stated, manifest) == training_digest(config, manifest)
    other = make_config(Path("run"), SOFT, "targets.outside=leave-out")
    assert training_digest(other, manifest) != training_digest(config, manifest)


def test_unknown_class_to_drop_is_refused_before_weights_are_loaded(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("abhinaya.training.train.build_classifier", pytest.fail)
    with pytest.raises(KeyError, match=r"annotation_dropout\.classes 'Z'.* Known: A, C, D"):
        train(SOFT, "targets.annotation_dropout.classes=[N, Z]")


# What reaches the loss


def test_training_rows_get_targets_of_their_epoch_and_validation_true_votes(
    trainer_of: Callable[..., Any], teacher: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = trainer_of(SOFT)
    recipe = (
        *("targets.annotation_dropout.share=0.5", "targets.label_smoothing=0.2"),
        *(f"targets.table={teacher}", "targets.weight=0.25"),
    )
    with caplog.at_level(logging.INFO, logger="abhinaya"):
        ours = trainer_of(SOFT, *recipe)
    own = {clip.utterance: idx for idx, clip in enumerate(plain.train_dataset.clips)}
    table = read_table(teacher)
    probs = dict(zip(table.utterances, table.probs if table.probs is not None else [], strict=True))
    epochs: list[list[Any]] = [[], []]
    for idx, clip in enumerate(ours.train_dataset.clips):
        for epoch in (0, 1):
            epochs[epoch].append(ours.train_dataset.target(idx, epoch))
        votes = plain.train_dataset.target(own[clip.utterance], 0)
        expected = 0.25 * probs[clip.utterance] + 0.75 * (0.8 * votes + 0.2 / 8)
        np.testing.assert_allclose(ours.train_dataset.target(idx, None), expected, rtol=1e-5)
    assert np.abs(np.array(epochs[0]) - np.array(epochs[1])).max() > 0.01
    assert [ours.eval_dataset.target(idx, None).tolist() for idx in range(9)] == [
        plain.eval_dataset.target(idx, None).tolist() for idx in range(9)
    ]
    assert "a share of 0.5 of the votes for" in caplog.text


def test_rows_outside_the_set_are_left_out_when_asked(
    train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="abhinaya"):
        train(*QUICK, "targets.outside=leave-out")
    assert (
        "tiny: 3 of 37 rows of train have no label of the emotion set and are left" in caplog.text
    )
    assert "tiny: 34 training clips" in caplog.text


# What a run remembers


def test_digest_holds_the_content_of_a_table_and_not_its_place(
    make_config: MakeConfig, manifest: Manifest, teacher: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere.parquet"
    shutil.copyfile(teacher, copy)
    first, second = (
        make_config(Path("run"), SOFT, f"targets.table={path}") for path in (teacher, copy)
    )
    assert training_digest(first, manifest) == training_digest(second, manifest)
    warm = make_config(Path("run"), SOFT, f"targets.table={teacher}", "targets.temperature=2")
    assert training_digest(warm, manifest) != training_digest(first, manifest)
    table = read_table(copy)
    write_table(replace(table, labels=table.labels[::-1].copy()), copy)
    assert training_digest(first, manifest) != training_digest(second, manifest)
    copy.unlink()
    with pytest.raises(MissingFileError, match=r"elsewhere\.parquet', which targets\.table names"):
        training_digest(second, manifest)


def test_student_remembers_what_its_teacher_was_trained_on(
    train: Train, manifest: Manifest, teacher: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The teacher's rows were heard by the student too, through the teacher."""
    held_out = manifest.select("development")["utterance"].tolist()
    labelled = manifest.select("development:A,C,D,F,H,N,S,U")["utterance"].iloc[0]
    table = read_table(teacher)
    is_one = np.array([name == labelled for name in table.utterances])
    write_table(replace(table, trained_on=is_one), teacher)
    with caplog.at_level(logging.WARNING, logger="abhinaya"):
        run = train(SOFT, "training.max_steps=1", "freeze=encoder", f"targets.table={teacher}")
    assert (
        "was trained on 1 of the 9 validation rows, so scores on them are too good" in caplog.text
    )
    # The table is not needed to predict.
    teacher.unlink()
    request = PredictRequest(manifest, ("development",), teacher.with_name("student.parquet"))
    predicted = load_member("wavlm").predict(run, request)
    assert predicted.trained_on is not None
    assert np.array(held_out)[predicted.trained_on].tolist() == [labelled]


def test_table_is_found_from_the_folder_of_the_config(
    make_config: MakeConfig, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path / "run", SOFT, "targets.table=../teacher.parquet")
    (tmp_path / "configs").mkdir()
    file = tmp_path / "configs" / "student.yaml"
    file.write_text(dump_yaml(config))
    (tmp_path / "some" / "work").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "some" / "work")
    found: Any = load_member_config(file)
    assert found.targets.table == teacher
    # One on the command line is one of the working directory.
    given: Any = load_member_config(file, ["targets.table=x.parquet"])
    assert given.targets.table == Path("x.parquet")


@pytest.mark.slow
def test_killed_training_with_drawn_targets_resumes_to_the_same_bytes(
    train: Train, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (
        *(SOFT, "data.validation=null", "freeze=encoder", "training.num_train_epochs=2"),
        *("training.save_strategy=steps", "training.save_steps=2"),
        "targets.annotation_dropout={share: 0.4, classes: [A, C, D, F, H, N, S, U]}",
        *("targets.label_smoothing=0.1", f"targets.table={teacher}", "targets.weight=0.5"),
    )

    def weights(run: Path) -> bytes:
        return (run / "best" / "model.safetensors").read_bytes()

    whole = train(*settings)
    original = EmotionTrainer.training_step

    def training_step(self: EmotionTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 7:
            raise StopError
        return original(self, *args, **kwargs)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(EmotionTrainer, "training_step", training_step)
        with pytest.raises(StopError):
            train(*settings, run_dir=run)
    # With another number of processes that read; the table has been moved.
    moved = teacher.rename(tmp_path / "moved.parquet")
    table = f"targets.table={moved}"
    train(*settings, table, "training.dataloader_num_workers=1", run_dir=run)
    assert weights(run) == weights(whole)
    assert weights(train(*settings, table, "targets.weight=0.4")) != weights(whole)
    with pytest.raises(BadValueError, match="holds a run with another config or corpus"):
        train(*settings, table, "targets.weight=0.4", run_dir=run)
