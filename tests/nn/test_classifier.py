from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from abhinaya.nn.backbone import Backbone, LayerMix, freeze
from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.nn.head import EmotionHead
from abhinaya.nn.losses.build import LossConfig, build_loss
from abhinaya.nn.pooling import build_pooling


class Numbers(Backbone):
    """Each segment is one frame of two given numbers; the encoder scales them by one."""

    def __init__(self, *, standardize: bool = False) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2))
        self.layer_mix = LayerMix(1, 2, standardize=standardize)
        self.n_features = 2
        self.n_enabled = 0

    def forward_pretrained(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return values[:, None, None], torch.ones(len(values), 1, dtype=torch.bool)

    def forward_trained(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer_mix(states), mask

    def enable_gradient_checkpointing(self) -> None:
        self.n_enabled += 1


def make_classifier(loss: str | None = "cross-entropy", **options: Any) -> EmotionClassifier:
    """Logits are the two numbers themselves."""
    head = EmotionHead(2, 2, hidden=0)
    with torch.no_grad():
        head.out.weight.copy_(torch.eye(2))
        head.out.bias.zero_()
    backbone = Numbers(**options)
    built = build_loss(LossConfig(name=loss), [1, 1]) if loss else None
    return EmotionClassifier(backbone, build_pooling("mean", 2), head, built)


def values(*rows: tuple[float, float]) -> dict[str, Tensor]:
    return {"values": torch.tensor(rows)}


def test_classifier_gives_logits_embeddings_and_loss() -> None:
    output = make_classifier()(values((1, 1), (3, 3)), labels=torch.tensor([0, 1]))
    assert output.logits.tolist() == [[1, 1], [3, 3]]
    assert output.embeddings.tolist() == [[1, 1], [3, 3]]
    # Two equal logits: the loss of either class is log 2.
    assert output.loss.item() == pytest.approx(0.693147, abs=1e-6)


def test_classifier_soft_labels_are_distributions() -> None:
    output = make_classifier("soft-cross-entropy")(
        values((0, 0)), labels=torch.tensor([[0.25, 0.75]])
    )
    # 0.25 log 2 + 0.75 log 2
    assert output.loss.item() == pytest.approx(0.693147, abs=1e-6)


def test_classifier_without_labels_or_loss_has_no_loss() -> None:
    assert make_classifier()(values((1, 1))).loss is None
    assert make_classifier(None)(values((1, 1)), labels=torch.tensor([0])).loss is None


def test_classifier_row_of_several_segments_is_their_mean() -> None:
    # Row 0 has two segments, row 1 one, row 2 three.
    inputs = values((0, 2), (4, 6), (1, 1), (3, 0), (0, 0), (0, 3))
    output = make_classifier()(
        inputs, labels=torch.tensor([0, 1, 0]), segment_of=torch.tensor([0, 0, 1, 2, 2, 2])
    )
    assert output.logits.tolist() == [[2, 4], [1, 1], [1, 1]]
    assert output.embeddings.tolist() == output.logits.tolist()
    # Row 0: log(1 + e^(4 - 2)) = 2.126928; rows 1 and 2: log 2. The mean counts rows, not segments.
    assert output.loss.item() == pytest.approx((2.126928 + 2 * 0.693147) / 3, abs=1e-6)


def test_classifier_stored_states_are_as_good_as_inputs() -> None:
    stored = {
        "states": torch.tensor([[[[1.0, 5.0]]]]),
        "mask": torch.ones(1, 1, dtype=torch.bool),
    }
    assert make_classifier()(stored).logits.tolist() == [[1, 5]]


def test_classifier_forward_takes_no_further_keywords() -> None:
    # With **kwargs the Trainer would not divide the loss by the accumulation steps.
    kinds = {p.kind for p in inspect.signature(EmotionClassifier.forward).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds


def test_classifier_passes_gradient_checkpointing_on() -> None:
    # As transformers 5.23 calls it, and as earlier versions do.
    classifier: Any = make_classifier()
    classifier.activation_checkpointing_enable(
        activation_checkpointing_kwargs=None, every_n_layers=1, offload=False
    )
    assert classifier.backbone.n_enabled == 1
    classifier.gradient_checkpointing_enable(gradient_checkpointing_kwargs=None)
    assert classifier.backbone.n_enabled == 2


def test_trained_names_of_a_trained_encoder_have_all_parameters() -> None:
    assert make_classifier().trained_names() == [
        "backbone.encoder.0.weight",
        "backbone.encoder.1.weight",
        "backbone.encoder.1.bias",
        "head.out.weight",
        "head.out.bias",
    ]


def test_trained_names_of_a_frozen_encoder_have_fitted_statistics() -> None:
    classifier = make_classifier(standardize=True)
    freeze(classifier.backbone.encoder)
    # The encoder's own running statistics come with its published weights.
    assert classifier.trained_names() == [
        "backbone.layer_mix.mean",
        "backbone.layer_mix.std",
        "head.out.weight",
        "head.out.bias",
    ]


def test_trained_names_have_no_buffers_of_any_pretrained_network() -> None:
    class Speaker(Numbers):
        pretrained = ("encoder", "decoder")

        def __init__(self) -> None:
            super().__init__(standardize=True)
            self.decoder = nn.BatchNorm1d(2)
            self.norm = nn.BatchNorm1d(2, affine=False)

    classifier = make_classifier()
    classifier.backbone = Speaker()
    freeze(classifier.backbone.encoder)
    # Of the published decoder what is trained, of what is new its statistics, too.
    assert classifier.trained_names() == [
        "backbone.layer_mix.mean",
        "backbone.layer_mix.std",
        "backbone.decoder.weight",
        "backbone.decoder.bias",
        "backbone.norm.running_mean",
        "backbone.norm.running_var",
        "backbone.norm.num_batches_tracked",
        "head.out.weight",
        "head.out.bias",
    ]


def test_trained_names_never_have_the_loss() -> None:
    classifier = make_classifier()
    classifier.loss = build_loss(LossConfig(class_weights=(1.0, 2.0)), [1, 1])
    assert not any(name.startswith("loss") for name in classifier.trained_names())


def test_trained_state_is_a_detached_copy_of_names_in_order() -> None:
    classifier = make_classifier()
    state = classifier.trained_state()
    assert list(state) == classifier.trained_names()
    assert not any(tensor.requires_grad for tensor in state.values())
    assert all(tensor.is_contiguous() for tensor in state.values())
