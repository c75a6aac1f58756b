"""What AdaFocal learned from the validation rows outlives a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from abhinaya.errors import ProblemsError
from abhinaya.training.trainer import EmotionTrainer

Train = Callable[..., Path]

SETTINGS = ("loss.name=adaptive-focal", "loss.bins=3", "training.save_total_limit=9")


def test_gammas_are_in_the_checkpoints_and_not_in_the_best(trained: Train) -> None:
    run = trained(*SETTINGS)
    first, last = (load_file(run / f"checkpoint-{n}/model.safetensors") for n in (5, 10))
    assert first["loss.gammas"].tolist() != last["loss.gammas"].tolist() != [1.0] * 3
    assert not [name for name in load_file(run / "best/model.safetensors") if "loss" in name]


def test_killed_training_goes_on_with_its_gammas(
    train: Train, trained: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step = EmotionTrainer.training_step

    def killed(self: EmotionTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 7:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(EmotionTrainer, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(*SETTINGS, run_dir=tmp_path / "run")
    monkeypatch.undo()
    resumed, whole = train(*SETTINGS, run_dir=tmp_path / "run"), trained(*SETTINGS)
    for name in ("checkpoint-5", "checkpoint-10", "best"):
        file = f"{name}/model.safetensors"
        assert (resumed / file).read_bytes() == (whole / file).read_bytes()


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("data.validation=null", "data.validation is not set"),
        ("training.eval_on_start=true", "training.eval_on_start is true"),
    ],
)
def test_adaptive_focal_without_regular_validation_raises(
    make_config: Callable[..., Any], override: str, what: str
) -> None:
    with pytest.raises(ProblemsError, match=f"adaptive-focal learns from.*{what}; change that"):
        make_config(Path("run"), "loss.name=adaptive-focal", override)
