"""What is refused under DeepSpeed, where DeepSpeed itself need not be there to be asked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from abhinaya.errors import BadValueError, CheckpointError
from abhinaya.processes import join_launch, splits_weights
from abhinaya.training.zero import ZeroTrainer, check_deepspeed


class Model(torch.nn.Linear):
    def __init__(self, repeated_layers: list[str], dtype: torch.dtype) -> None:
        super().__init__(2, 2)
        self.packed = torch.nn.Parameter(torch.zeros(2, dtype=dtype), requires_grad=False)
        self.backbone = SimpleNamespace(repeated_layers=repeated_layers)


@pytest.mark.parametrize(
    ("layers", "dtype", "message"),
    [
        (["Layer"], torch.uint8, r"'packed' are quantised, and ZeRO-3 cannot .* zero2\.yaml"),
        ([], torch.float32, r"runs clips in groups of equal length, .* zero2\.yaml"),
    ],
)
def test_models_that_zero3_cannot_share_out_are_refused(
    layers: list[str], dtype: torch.dtype, message: str
) -> None:
    model: Any = Model(layers, dtype)
    arguments: Any = SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=3))
    with pytest.raises(BadValueError, match=message):
        ZeroTrainer(model=model, args=arguments, bf16=False)


@pytest.mark.parametrize(
    ("is_enabled", "advice"),
    [(False, "was written with DeepSpeed, .* Launch with it"), (True, "Launch without it")],
)
def test_checkpoint_of_the_other_kind_of_launch_is_refused(
    tmp_path: Path, is_enabled: bool, advice: str
) -> None:
    """The Trainer would go on with a new optimizer, and say nothing."""
    if not is_enabled:
        (tmp_path / "global_step2").mkdir()
    trainer: Any = SimpleNamespace(is_deepspeed_enabled=is_enabled)
    with pytest.raises(CheckpointError, match=advice):
        ZeroTrainer._check_kind(trainer, tmp_path)
    trainer.is_deepspeed_enabled = not is_enabled
    ZeroTrainer._check_kind(trainer, tmp_path)


def test_launch_file_that_contradicts_the_config_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason="deepspeed is not installed: make test-deepspeed")
    from accelerate.utils import DeepSpeedPlugin

    arguments = TrainingArguments(str(tmp_path), use_cpu=True, gradient_accumulation_steps=2)
    arguments.deepspeed_plugin = DeepSpeedPlugin(gradient_accumulation_steps=3, zero_stage=2)
    with pytest.raises(
        BadValueError, match=r"contradicts .*: gradient_accumulation_steps=3 vs hf .*=2\. Remove"
    ):
        check_deepspeed(arguments)


@pytest.mark.parametrize(
    ("stage", "expected"), [("1", False), ("2", False), ("3", True), (None, True)]
)
def test_zero3_splits_weights_and_what_does_not_train_splits_none(
    monkeypatch: pytest.MonkeyPatch, stage: str | None, expected: bool
) -> None:
    """Without a stage, it stands in a file of DeepSpeed's own."""
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.delenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", raising=False)
    if stage is not None:
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", stage)
    assert splits_weights() == expected
    join_launch()
    assert not splits_weights()
