"""A classifier from a config: untrained for `train`, with its checkpoint for `predict`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from abhinaya.errors import BadValueError
from abhinaya.member import InputBuilder
from abhinaya.nn.attribute_heads import AttributeHeads
from abhinaya.nn.backbone import Backbone
from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.nn.head import EmotionHead
from abhinaya.nn.losses.build import build_loss
from abhinaya.nn.pooling import build_pooling

__all__ = ["ClassifierBuilder", "build_classifier", "build_head_on"]


class ClassifierBuilder(Protocol):
    """What of a member is its own: the backbone, and how its inputs are made."""

    config_class: type[ClassifierConfig]

    def build_backbone(self, config: Any) -> Backbone:
        """Return the backbone with its pre-trained weights, frozen where the config says so."""

    def build_inputs(self, config: Any) -> InputBuilder:
        """Return what turns utterances into inputs of the backbone."""

    def build_on(
        self,
        backbone: Backbone,
        config: Any,
        n_classes: int,
        class_counts: Sequence[int] | None = None,
    ) -> EmotionClassifier:
        """Return the model on top of the backbone: `build_head_on`, or one of the member's own."""


def build_classifier(
    member: ClassifierBuilder,
    config: ClassifierConfig,
    n_classes: int,
    class_counts: Sequence[int] | None = None,
) -> EmotionClassifier:
    """Build the model of a member: its backbone, and what is new on top of it.

    Args:
        member: builds both.
        config: what to build.
        n_classes: K.
        class_counts: training rows per class, shape (K,); None for prediction.

    Raises:
        BadValueError: if the config wants further heads, and the member builds a model without.
    """
    model = member.build_on(member.build_backbone(config), config, n_classes, class_counts)
    if config.attributes is not None and model.attribute_heads is None:
        raise BadValueError(
            f"The config has attributes, but the member {config.member!r} builds a model of its "
            "own, which learns classes only. Remove attributes."
        )
    return model


def build_head_on(
    backbone: Backbone,
    config: ClassifierConfig,
    n_classes: int,
    class_counts: Sequence[int] | None = None,
) -> EmotionClassifier:
    """Build pooling, a new head, and a loss if counts are given; arguments as for a member."""
    pooling = build_pooling(config.pooling, backbone.n_features)
    head = EmotionHead(
        pooling.output_size,
        n_classes,
        hidden=config.head.hidden,
        norm=config.head.norm,
        activation=config.head.activation,
        dropout=config.head.dropout,
    )
    loss = build_loss(config.loss, class_counts) if class_counts is not None else None
    # Last, so that the other new weights are drawn as without them.
    further = None
    if config.attributes is not None:
        further = AttributeHeads(head.last_linear.in_features, config.attributes)
    return EmotionClassifier(
        backbone,
        pooling,
        head,
        loss,
        attribute_heads=further,
        manifold=config.mixing.manifold if config.mixing else None,
    )
