"""Trainings that stop in the middle of an optimizer step, as if they were killed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kills import KilledError

from abhinaya.training.trainer import EmotionTrainer

__all__ = ["kill_in_step"]


@pytest.fixture
def kill_in_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function after which trainings stop in the middle of an optimizer step; 0 for never."""
    original = EmotionTrainer.training_step

    def arm(step: int) -> None:
        def training_step(self: EmotionTrainer, *args: Any, **kwargs: Any) -> Any:
            loss = original(self, *args, **kwargs)
            if self.state.global_step + 1 == step:
                raise KilledError
            return loss

        monkeypatch.setattr(EmotionTrainer, "training_step", training_step)

    return arm
