from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from abhinaya.errors import BadValueError, MissingPackageError
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.training.arguments import training_arguments

ArgumentsOf = Callable[..., Any]
MakeConfig = Callable[..., ClassifierConfig]


@pytest.fixture
def arguments_of(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ArgumentsOf:
    """A function that gives the arguments for overrides, as one of `n_processes` sees them."""

    def build(*overrides: str, n_processes: int | None = None) -> Any:
        config = make_config(tmp_path, *overrides)
        with monkeypatch.context() as patch:
            patch.delenv("WORLD_SIZE", raising=False)
            if n_processes is not None:
                patch.setenv("WORLD_SIZE", str(n_processes))
                # The real class would start torch.distributed and wait for the others.
                target = "abhinaya.training.arguments.TrainingArguments"
                patch.setattr(target, partial(SimpleNamespace, n_gpu=0))
            return training_arguments(config, tmp_path)

    return build


@pytest.mark.parametrize(
    ("per_device", "n_processes", "expected"),
    [
        # rows per device * accumulation steps * processes = 64
        (None, 1, (64, 1)),
        (None, 2, (32, 1)),
        (None, 8, (8, 1)),
        (4, 1, (4, 16)),
        (4, 2, (4, 8)),
        (4, 8, (4, 2)),
        # A device that could hold 16 gets the 8 that there are for it.
        (16, 8, (8, 1)),
        (100, 1, (64, 1)),
    ],
)
def test_arguments_accumulation_follows_from_the_global_batch(
    arguments_of: ArgumentsOf,
    per_device: int | None,
    n_processes: int,
    expected: tuple[int, int],
) -> None:
    overrides = ["training.global_batch_size=64"]
    if per_device is not None:
        overrides.append(f"training.per_device_train_batch_size={per_device}")
    built = arguments_of(*overrides, n_processes=n_processes)
    assert (built.per_device_train_batch_size, built.gradient_accumulation_steps) == expected


def test_arguments_one_process_without_a_launcher(
    arguments_of: ArgumentsOf,
) -> None:
    built = arguments_of("training.per_device_train_batch_size=2")
    assert (built.per_device_train_batch_size, built.gradient_accumulation_steps) == (2, 4)


def test_arguments_batch_that_processes_cannot_share_raises(
    arguments_of: ArgumentsOf,
) -> None:
    with pytest.raises(
        BadValueError,
        match=r"global_batch_size is 8, which 3 processes cannot share evenly\. .* multiple of 3",
    ):
        arguments_of(n_processes=3)


def test_arguments_batch_that_a_device_cannot_split_raises(
    arguments_of: ArgumentsOf,
) -> None:
    with pytest.raises(
        BadValueError,
        match=r"train_batch_size is 5, which does not divide the share of 6 rows that each of 2 "
        r"processes has of a global batch of 12\. Choose one of 1, 2, 3, 6\.",
    ):
        arguments_of(
            "training.global_batch_size=12",
            "training.per_device_train_batch_size=5",
            n_processes=2,
        )


def test_arguments_that_transformers_refuses_name_the_run(
    arguments_of: ArgumentsOf,
) -> None:
    with pytest.raises(BadValueError, match=r"training section of 'tiny' does not work: .*match"):
        arguments_of("training.save_strategy=epoch", "training.eval_strategy=steps")
    with pytest.raises(BadValueError, match="does not work: cosinus is not a valid"):
        arguments_of("training.lr_scheduler_type=cosinus")


def test_arguments_steps_of_saving_are_those_of_evaluation(
    arguments_of: ArgumentsOf,
) -> None:
    built = arguments_of("training.save_strategy=steps", "training.save_steps=3")
    assert (built.eval_strategy, built.save_steps, built.eval_steps) == ("steps", 3, 3)


def test_arguments_without_validation_evaluate_nothing(
    arguments_of: ArgumentsOf,
) -> None:
    built = arguments_of("data.validation=null")
    assert built.eval_strategy == "no"
    assert built.save_strategy == "epoch"
    assert not built.load_best_model_at_end
    assert built.metric_for_best_model is None


def test_arguments_with_validation_choose_by_macro_f1(
    arguments_of: ArgumentsOf,
) -> None:
    built = arguments_of()
    assert built.load_best_model_at_end
    assert built.metric_for_best_model == "macro_f1"
    assert built.greater_is_better


def test_arguments_what_the_user_gives_wins_over_defaults(
    arguments_of: ArgumentsOf,
) -> None:
    built = arguments_of("training.save_total_limit=7", "training.logging_strategy=steps")
    assert built.save_total_limit == 7
    assert built.logging_strategy == "steps"
    assert built.report_to == []
    assert built.seed == built.data_seed == 3


def test_arguments_several_devices_do_not_mean_data_parallel(
    arguments_of: ArgumentsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(**given: Any) -> TrainingArguments:
        built = TrainingArguments(**given)
        built._n_gpu = 2  # as one process sees a machine with two accelerators
        return built

    monkeypatch.setattr("abhinaya.training.arguments.TrainingArguments", build)
    built: Any = arguments_of()
    assert built._n_gpu == 1
    assert built.n_gpu == 1
    assert built.train_batch_size == 8


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_arguments_logger_that_is_not_installed_raises(
    arguments_of: ArgumentsOf, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for given in (package, f"[{package}]"):
        with pytest.raises(
            MissingPackageError,
            match=rf"training\.report_to: {package} needs the package {package}\. "
            rf"Install it with: pip install 'abhinaya\[{package}\]'",
        ):
            arguments_of(f"training.report_to={given}")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("ACCELERATE_USE_FSDP", "FSDP"),
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
    ],
)
def test_arguments_launch_that_splits_the_model_raises(
    arguments_of: ArgumentsOf, monkeypatch: pytest.MonkeyPatch, key: str, name: str
) -> None:
    """It trained to the end and died at the last write, which had parts of the weights."""
    monkeypatch.setenv(key, "true")
    with pytest.raises(BadValueError, match=rf"{key} asks for {name}, with which members are not"):
        arguments_of()


def test_arguments_launch_of_more_processes_than_devices_raises(
    arguments_of: ArgumentsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    with pytest.raises(
        BadValueError,
        match=r"started 8 processes on this machine, which has 2 devices\. .*num_processes: 2 for",
    ):
        arguments_of("training.use_cpu=false")
    assert arguments_of("training.use_cpu=true").use_cpu


def test_arguments_launch_with_deepspeed_needs_it(
    arguments_of: ArgumentsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setattr(importlib.util, "find_spec", lambda *args: None)
    with pytest.raises(MissingPackageError, match=r"with DeepSpeed needs .*abhinaya\[deepspeed\]"):
        arguments_of()


@pytest.mark.parametrize("key", ["fp16", "save_only_model"])
def test_arguments_that_deepspeed_would_not_do_raise(
    arguments_of: ArgumentsOf, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setattr(importlib.util, "find_spec", lambda *args: object())
    with pytest.raises(BadValueError, match=rf"training\.{key} is set, .*/one-machine\.yaml"):
        arguments_of(f"training.{key}=true")


@pytest.mark.parametrize(
    ("asked", "overrides", "expected", "warns"),
    [
        ("bf16", (), "no", True),
        ("fp16", ("training.bf16=true",), "bf16", True),
        ("no", ("training.bf16=true",), "bf16", False),
        ("bf16", ("training.bf16=true",), "bf16", False),
        (None, (), "no", False),
    ],
)
def test_arguments_precision_is_that_of_the_config_whatever_the_launcher_says(
    arguments_of: ArgumentsOf,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    asked: str | None,
    overrides: tuple[str, ...],
    expected: str,
    warns: bool,
) -> None:
    """A default accelerate config turned float32 into bf16, with no trace in config or digest."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", asked or "no")
    if asked is None:
        monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    with caplog.at_level(logging.WARNING, logger="abhinaya"):
        built = arguments_of(*overrides)
    assert built.mixed_precision == expected
    assert os.environ.get("ACCELERATE_MIXED_PRECISION", "no") == expected
    assert ("but the config decides" in caplog.text) == warns


def test_arguments_workers_live_on_and_read_ahead(arguments_of: ArgumentsOf) -> None:
    alone, built = arguments_of(), arguments_of("training.dataloader_num_workers=1")
    assert (alone.dataloader_persistent_workers, alone.dataloader_prefetch_factor) == (False, None)
    assert (built.dataloader_persistent_workers, built.dataloader_prefetch_factor) == (True, 4)
    own = ("training.dataloader_persistent_workers=false", "training.dataloader_prefetch_factor=2")
    built = arguments_of("training.dataloader_num_workers=1", *own)
    assert (built.dataloader_persistent_workers, built.dataloader_prefetch_factor) == (False, 2)


def test_arguments_persistent_workers_without_workers_raise(arguments_of: ArgumentsOf) -> None:
    with pytest.raises(BadValueError, match=r"persistent_workers is true, but .*num_workers is 0"):
        arguments_of("training.dataloader_persistent_workers=true")
