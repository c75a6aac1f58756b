"""A classifier saved by Abhinaya's public code, as a run directory of ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from members.salmonn.config import SalmonnConfig
from members.salmonn.weights import read_classifier

if TYPE_CHECKING:
    from abhinaya.nn.classifier import EmotionClassifier
    from abhinaya.training.classifier_member import ClassifierMember

__all__ = ["load_published", "published_classifier"]


def published_classifier(member: ClassifierMember, config: SalmonnConfig) -> Path:
    """The run directory `config.run_dir` with the published classifier as its `best/`.

    What only matters in prediction may change from call to call; it is written anew.

    Raises:
        MissingFileError: if there is no such classifier.
        CheckpointError: if the folder holds another run, or the file does not fit.
    """
    from abhinaya.nn.published_classifier import published_run

    assert config.classifier is not None
    return published_run(config, config.classifier, lambda: load_published(member, config))


def load_published(member: ClassifierMember, config: SalmonnConfig) -> EmotionClassifier:
    """The classifier itself, in evaluation mode.

    Raises:
        CheckpointError: if keys are missing or unexpected, or shapes differ.
    """
    from abhinaya.nn.published_classifier import filled_classifier

    assert config.classifier is not None
    state = read_classifier(config.classifier)
    return filled_classifier(member, config, state, str(config.classifier))
