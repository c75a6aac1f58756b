from __future__ import annotations

import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from abhinaya.config import parse_yaml
from abhinaya.errors import ProblemsError
from abhinaya.nn.classifier_config import ClassifierConfig, argument_kinds

MakeConfig = Callable[..., ClassifierConfig]


def problems_of(make_config: MakeConfig, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ProblemsError) as caught:
        make_config(Path("run"), *overrides)
    return caught.value.problems


def test_training_takes_transformers_names_and_gives_its_types(make_config: MakeConfig) -> None:
    config = make_config(
        Path("run"),
        "training.weight_decay=1",
        "training.warmup_steps=0.1",
        "training.bf16=true",
        "training.lr_scheduler_kwargs.num_cycles=2",
        "training.max_grad_norm=1e-1",
    )
    arguments = config.training.arguments
    assert config.training.global_batch_size == 8
    assert "global_batch_size" not in arguments
    assert arguments["weight_decay"] == 1.0
    assert isinstance(arguments["weight_decay"], float)
    assert arguments["warmup_steps"] == 0.1
    assert arguments["bf16"] is True
    assert arguments["lr_scheduler_kwargs"] == {"num_cycles": 2}
    assert arguments["max_grad_norm"] == 0.1


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            "training.learning_rat=1",
            "learning_rat is unknown to TrainingArguments. Did you mean 'learning_rate'?",
        ),
        ("training.zzz=1", "zzz is unknown to TrainingArguments"),
        (
            "training.num_train_epochs=many",
            "num_train_epochs is 'many': Input should be a valid number, unable to parse",
        ),
        ("training.save_strategy=[no]", "save_strategy is ['no']: Input should be 'no', "),
        ("training.activation_checkpointing_kwargs.offload=true", "every layer is recomputed"),
        ("training.gradient_checkpointing_kwargs.use_reentrant=true", "without re-entrance"),
        ("training.gradient_accumulation_steps=2", "it follows from global_batch_size"),
        ("training.output_dir=x", "output_dir cannot be set: it is run_dir"),
        ("training.seed=2", "seed cannot be set: it is the config's seed"),
        ("training.data_seed=2", "data_seed cannot be set: it is the config's seed"),
        ("training.load_best_model_at_end=true", "it follows from data.validation"),
        ("training.metric_for_best_model=loss", "is the one of highest macro_f1"),
        ("training.greater_is_better=false", "is the one of highest macro_f1"),
        ("training.remove_unused_columns=true", "the data has no columns"),
        ("training.label_names=[a]", "it belongs to the model"),
        ("training.train_sampling_strategy=random", "batches are always grouped by length"),
        ("training.auto_find_batch_size=true", "set per_device_train_batch_size to what fits"),
        ("training.fsdp=full_shard", "fsdp cannot be set: members are not trained with FSDP"),
        ("training.fsdp_config.version=2", "fsdp_config cannot be set: members are not"),
        ("training.deepspeed=zero.json", "deepspeed cannot be set: members are not trained with"),
        ("training.num_train_epochs=0", "num_train_epochs is 0, expected more than 0"),
        ("training.num_train_epochs=-1", "num_train_epochs is -1, expected more than 0"),
        ("training.num_train_epochs=.inf", "num_train_epochs is inf, expected a finite number"),
        ("training.max_steps=0", "max_steps is 0, expected 1 or more, or -1 for num_train_epochs"),
        ("training.max_steps=-2", "max_steps is -2, expected 1 or more"),
        ("training.learning_rate=.nan", "learning_rate is nan, expected a finite number"),
        ("training.learning_rate=-1", "learning_rate is -1, expected 0 or more"),
        ("training.weight_decay=.inf", "weight_decay is inf, expected a finite number"),
    ],
)
def test_training_wrong_key_raises(make_config: MakeConfig, override: str, problem: str) -> None:
    (found,) = problems_of(make_config, override)
    assert found.startswith("training: ")
    assert problem in found


def test_training_keys_that_ask_for_nothing_are_allowed(make_config: MakeConfig) -> None:
    """A file may spell out that neither is used; epochs do not count beside a number of steps."""
    overrides = ("training.deepspeed=null", "training.fsdp=''", "training.max_steps=-1")
    make_config(Path("run"), *overrides)
    make_config(Path("run"), "training.max_steps=3", "training.num_train_epochs=0")


def test_training_all_wrong_keys_are_reported_together(make_config: MakeConfig) -> None:
    (found,) = problems_of(
        make_config, "training.seed=1", "training.learning_rate=x", "training.lr=1"
    )
    assert found.count("; ") == 2
    assert "seed cannot be set" in found
    assert "learning_rate is 'x'" in found
    assert "lr is unknown" in found


def test_training_without_global_batch_size_raises(make_config: MakeConfig) -> None:
    assert problems_of(make_config, "training={}") == ("training.global_batch_size is missing",)
    assert problems_of(make_config, "training.global_batch_size=0") == (
        "training.global_batch_size is 0, expected greater than 0",
    )


def test_training_cannot_be_changed(make_config: MakeConfig) -> None:
    training: Any = make_config(Path("run")).training
    with pytest.raises(ValueError, match="frozen"):
        training.global_batch_size = 4


@pytest.mark.parametrize("crop", ["first", "3"])
def test_cache_with_repeatable_crops_is_allowed(make_config: MakeConfig, crop: str) -> None:
    config = make_config(
        Path("run"),
        "freeze=encoder",
        "cache.dir=x",
        "audio.train_crop=first",
        f"audio.eval_crop={crop}",
    )
    assert config.cache is not None
    assert config.cache.dtype == "float32"


def test_cache_with_random_crops_raises(make_config: MakeConfig) -> None:
    assert problems_of(make_config, "freeze=encoder", "cache.dir=x") == (
        "cache keeps what is computed once, but audio.train_crop is 'random'; set it to first, "
        "centre, full or a number of segments to draw from, or remove cache",
    )


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("audio.max_audio_s=0", "audio.max_audio_s is 0, expected greater than 0"),
        ("audio.eval_crop=0", "audio.eval_crop is 0, expected greater than 0"),
        ("audio.eval_crop=random", "audio.eval_crop is 'random', expected 'first', 'centre' or"),
        ("head.dropout=1", "head.dropout is 1, expected less than 1"),
        (
            "seed=18446744073709551616",
            "seed is 18446744073709551616, expected less than 4294967296",
        ),
        ("head.hidden=1000000000", "head.hidden is 1000000000, expected less than or equal to"),
        ("head.hidden=-1", "head.hidden is -1, expected greater than or equal to 0"),
        ("inference.precision=int8", "inference.precision is 'int8', expected 'float32', 'bf16'"),
        ("loss.gamma=1", "has no option 'gamma'"),
        ("standardize=true", "standardize is true but freeze is 'convolutions'"),
    ],
)
def test_classifier_config_value_out_of_range_raises(
    make_config: MakeConfig, override: str, problem: str
) -> None:
    assert any(problem in found for found in problems_of(make_config, override))


def test_arguments_of_trainings_are_those_of_transformers() -> None:
    """They are read from its source, so that a config is checked before it is imported."""
    from transformers import TrainingArguments

    kinds = argument_kinds()
    assert list(kinds) == list(TrainingArguments.__dataclass_fields__)
    hints = typing.get_type_hints(TrainingArguments)
    plain = {name: kind for name, kind in kinds.items() if re.fullmatch(PLAIN, kind)}
    for name, kind in plain.items():
        assert eval(kind, {"Any": Any}) == hints[name], name
    assert len(plain) >= 90


PLAIN = r"(\||None|bool|float|int|str|dict|list|Any|[\[\], ])+"


@pytest.mark.parametrize(
    "value", ["eval_strategy=steps", "eval_strategy=3", "debug=[underflow_overflow]", "debug=[x]"]
)
def test_enumerations_of_transformers_are_checked_as_it_declares_them(
    make_config: MakeConfig, value: str
) -> None:
    name, _, given = value.partition("=")
    from transformers import TrainingArguments

    adapter = TypeAdapter(typing.get_type_hints(TrainingArguments)[name])
    content = parse_yaml(given)
    try:
        expected = adapter.validate_python(content)
    except ValidationError as err:
        with pytest.raises(ProblemsError, match=re.escape(err.errors()[0]["msg"][:30])):
            make_config(Path("run"), f"training.{value}")
    else:
        assert make_config(Path("run"), f"training.{value}").training.arguments[name] == expected
