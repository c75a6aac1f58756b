"""The common part of all members that fine-tune a backbone under a classification head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abhinaya.config import MemberConfig
from abhinaya.data.manifest import Manifest
from abhinaya.data.predictions import PredictionTable
from abhinaya.errors import BadValueError
from abhinaya.files import sole_writer
from abhinaya.member import InputBuilder, PredictRequest
from abhinaya.nn.backbone import Backbone
from abhinaya.nn.classifier_config import ClassifierConfig

if TYPE_CHECKING:
    from abhinaya.nn.classifier import EmotionClassifier

__all__ = ["ClassifierMember"]


class ClassifierMember(ABC):
    """A member made of a backbone and its input builder; all train and predict alike.

    Attributes:
        config_class: the member's config.
    """

    config_class: type[ClassifierConfig]

    # A member receives its own config class; the annotation cannot say so without generics that
    # would burden every reader.
    @abstractmethod
    def build_backbone(self, config: Any) -> Backbone:
        """Build the backbone with its pre-trained weights, frozen where the config says so."""

    @abstractmethod
    def build_inputs(self, config: Any) -> InputBuilder:
        """Build what turns utterances into inputs of the backbone."""

    def build_on(
        self,
        backbone: Backbone,
        config: Any,
        n_classes: int,
        class_counts: Sequence[int] | None = None,
    ) -> EmotionClassifier:
        """Build the model on top of the backbone: pooling, a classification head and a loss."""
        from abhinaya.nn.build import build_head_on

        return build_head_on(backbone, config, n_classes, class_counts)

    def train(self, config: MemberConfig, manifest: Manifest) -> Path:
        """Train, or resume what was begun; return the run directory."""
        from abhinaya.training.train import train_classifier

        assert isinstance(config, ClassifierConfig)
        with sole_writer(config.run_dir, "run_dir"):
            return train_classifier(self, config, manifest)

    def predict(self, source: Path | MemberConfig, request: PredictRequest) -> PredictionTable:
        """Label every row of a selection with the best checkpoint of a run.

        Raises:
            BadValueError: if `source` is a config: this kind of member must be trained first; or
                if another process writes the same table now.
        """
        from abhinaya.inference.predict import predict_classifier

        if not isinstance(source, Path):
            raise BadValueError(
                f"The member {source.member!r} must be trained before it predicts. "
                "Run abhinaya train, then name the run directory."
            )
        with sole_writer(request.out, "--out"):
            return predict_classifier(self, source, request)
