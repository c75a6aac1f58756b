"""The model that every fine-tuned member trains: backbone, pooling, head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from abhinaya.nn.attribute_heads import AttributeHeads
from abhinaya.nn.backbone import Backbone
from abhinaya.nn.head import EmotionHead
from abhinaya.nn.losses.build import EmotionLoss
from abhinaya.nn.losses.manifold import draw_mix
from abhinaya.nn.recipe.mixing import ManifoldMixing

__all__ = ["EmotionClassifier", "EmotionOutput", "row_means"]


@dataclass
class EmotionOutput(ModelOutput):
    """What a classifier returns.

    Args:
        loss: scalar, where there were labels and a loss.
        logits: shape (B, K).
        embeddings: input of the head's last linear layer, shape (B, D).
        attributes: what `AttributeHeads` returns, shape (B, N); None without such heads.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    embeddings: Tensor | None = None
    attributes: Tensor | None = None


class EmotionClassifier(nn.Module):
    """Utterance-level classifier.

    Args:
        backbone: features of each frame or token.
        pooling: frames (B, T, D) and mask (B, T) to one vector (B, P).
        head: vector to logits (B, K) and embedding.
        loss: applied when labels are given; not part of a checkpoint.
        attribute_heads: further tasks on the embedding, if there are any.
        manifold: mix the pooled vectors of a batch in training.

    Attributes:
        calibrates: whether something is set after training, by `calibrate`.
    """

    calibrates = False

    def __init__(
        self,
        backbone: Backbone,
        pooling: nn.Module,
        head: EmotionHead,
        loss: EmotionLoss | None = None,
        attribute_heads: AttributeHeads | None = None,
        manifold: ManifoldMixing | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.head = head
        self.loss = loss
        self.attribute_heads = attribute_heads
        self.manifold = manifold

    # No **kwargs: with them the Trainer would take the loss for a sum over accumulated batches.
    def forward(
        self,
        inputs: dict[str, Tensor],
        labels: Tensor | None = None,
        segment_of: Tensor | None = None,
        attributes: Tensor | None = None,
    ) -> EmotionOutput:
        """Return logits of a batch, and its loss if labels are given.

        Args:
            inputs: what the backbone takes, for P segments of audio or text.
            labels: class indices (B,), or vote distributions (B, K) for a loss on soft targets.
            segment_of: row that each segment belongs to, shape (P,), every row named; logits and
                embeddings of a row are the means over its segments. By default each segment is a
                row of its own.
            attributes: truth of the further tasks, shape (B, N), NaN where unknown.
        """
        features, mask = self.backbone(inputs)
        pooled = self.pooling(features, mask)
        mix = None
        if self.training and self.manifold is not None and labels is not None:
            mix = draw_mix(self.manifold, len(pooled))
        logits, embeddings = self.head(pooled if mix is None else mix.vectors(pooled))
        if segment_of is not None:
            logits, embeddings = row_means(logits, segment_of), row_means(embeddings, segment_of)
        further = None
        if self.attribute_heads is not None:
            further = self.attribute_heads(embeddings)
        loss = None
        if self.loss is not None and labels is not None:
            loss = mix.loss(self.loss, logits, labels) if mix else self.loss(logits, labels)
            if self.attribute_heads is not None and attributes is not None:
                compare = self.attribute_heads.loss
                assert further is not None
                loss = loss + (
                    mix.loss(compare, further, attributes) if mix else compare(further, attributes)
                )
        return EmotionOutput(loss=loss, logits=logits, embeddings=embeddings, attributes=further)

    def calibrate(self, logits: NDArray[np.float32], truth: NDArray[np.int64]) -> None:
        """Set what is fitted after training, if anything.

        Args:
            logits: of the validation rows by the best checkpoint, shape (U, K).
            truth: their classes, shape (U,).
        """

    def activation_checkpointing_enable(self, **settings: Any) -> None:
        """Return what the Trainer calls for `activation_checkpointing: true`."""
        del settings  # configs cannot set any
        self.backbone.enable_gradient_checkpointing()

    # The name in earlier versions of transformers 5, for `gradient_checkpointing: true`.
    gradient_checkpointing_enable = activation_checkpointing_enable

    @property
    def _no_split_modules(self) -> list[str]:
        """The layers that FSDP gathers one at a time, by the name that accelerate asks for."""
        return self.backbone.repeated_layers

    def trained_names(self) -> list[str]:
        """Return keys of what training changes: trained parameters and fitted statistics."""
        parameters = {name for name, value in self.named_parameters() if value.requires_grad}
        # Published networks bring their own buffers: positions, scales of quantised weights.
        outside = ("loss.", *(f"backbone.{name}." for name in self.backbone.pretrained))
        fitted = {name for name, _ in self.named_buffers() if not name.startswith(outside)}
        return [name for name in self.state_dict() if name in parameters or name in fitted]

    def trained_state(self) -> dict[str, Tensor]:
        """Return the state that a checkpoint holds, on the CPU."""
        state = self.state_dict()
        return {name: state[name].detach().cpu().contiguous() for name in self.trained_names()}


def row_means(segments: Tensor, segment_of: Tensor) -> Tensor:
    """Return mean over the segments of each row: (P, D) and (P,) to (B, D)."""
    n_rows = int(segment_of.max()) + 1
    totals = segments.new_zeros(n_rows, segments.shape[1]).index_add(0, segment_of, segments)
    counts = segments.new_zeros(n_rows).index_add(0, segment_of, segments.new_ones(len(segments)))
    return totals / counts.unsqueeze(1)
