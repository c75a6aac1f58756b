from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from abhinaya.errors import BadValueError
from abhinaya.nn.backbone import Backbone, LayerMix, freeze


class Doubler(Backbone):
    """Its encoder makes one layer of two frames out of each input number."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5))
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.n_features = 1

    def forward_pretrained(self, values: Tensor) -> tuple[Tensor, Tensor]:
        states = values[:, None, None, None].expand(-1, 1, 2, 1)
        return states, torch.ones(len(values), 2, dtype=torch.bool)

    def forward_trained(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.scale * states.squeeze(1), mask


def test_backbone_model_inputs_are_encoded_and_mixed() -> None:
    features, mask = Doubler()({"values": torch.tensor([3.0, 5.0])})
    assert features.squeeze(-1).tolist() == [[6.0, 6.0], [10.0, 10.0]]
    assert mask.shape == (2, 2)


def test_backbone_stored_states_are_only_mixed() -> None:
    states = torch.tensor([1.0, 4.0]).reshape(1, 1, 2, 1)
    features, mask = Doubler()({"states": states, "mask": torch.tensor([[True, False]])})
    assert features.squeeze(-1).tolist() == [[2.0, 8.0]]
    assert mask.tolist() == [[True, False]]


def test_backbone_frozen_encoder_stays_in_evaluation_mode() -> None:
    backbone = Doubler()
    freeze(backbone.encoder)
    backbone.train()
    assert backbone.is_frozen
    assert backbone.training
    assert not backbone.encoder.training


def test_backbone_with_one_trained_parameter_is_not_frozen() -> None:
    backbone = Doubler()
    freeze(backbone.encoder)
    next(backbone.encoder.parameters()).requires_grad_(True)
    backbone.train()
    assert not backbone.is_frozen
    assert backbone.encoder.training


class Shifter(Doubler):
    """Adds a number of each row, which the encoder never sees, to its frames."""

    context = ("shift",)

    def forward_trained(self, states: Tensor, mask: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        features, mask = super().forward_trained(states, mask)
        return features + shift[:, None, None], mask


def test_backbone_context_goes_to_mix_and_not_to_encode() -> None:
    inputs = {"values": torch.tensor([3.0, 5.0]), "shift": torch.tensor([1.0, -1.0])}
    features, _ = Shifter()(inputs)
    # 2 * 3 + 1, 2 * 5 - 1
    assert features.squeeze(-1).tolist() == [[7.0, 7.0], [9.0, 9.0]]
    states, mask = Shifter().find_states(inputs)
    assert states[:, 0, :, 0].tolist() == [[3.0, 3.0], [5.0, 5.0]]
    stored = {"states": states, "mask": mask, "shift": inputs["shift"]}
    assert torch.equal(Shifter()(stored)[0], features)
    found = Shifter().find_states(stored)
    assert found[0] is states
    assert found[1] is mask


def test_backbone_frozen_pretrained_networks_stay_in_evaluation_mode() -> None:
    class Speaker(Doubler):
        pretrained = ("encoder", "decoder", "adapted")

        def __init__(self) -> None:
            super().__init__()
            self.decoder, self.adapted = nn.Dropout(0.5), nn.Linear(1, 1)

    backbone = Speaker().train()
    assert [backbone.encoder.training, backbone.decoder.training] == [True, False]
    assert backbone.adapted.training
    assert not backbone.eval().adapted.training


def test_freeze_leaves_no_parameter_to_train() -> None:
    module = nn.Linear(2, 2)
    freeze(module)
    assert [p.requires_grad for p in module.parameters()] == [False, False]


def test_gradient_checkpointing_unable_encoder_raises() -> None:
    with pytest.raises(
        BadValueError, match=r"Sequential cannot checkpoint.*activation_checkpointing"
    ):
        Doubler().enable_gradient_checkpointing()


def test_save_adapter_without_adapter_writes_nothing(tmp_path: Path) -> None:
    assert not Doubler().save_adapter(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_layer_mix_starts_as_the_mean_of_all_layers() -> None:
    states = torch.tensor([1.0, 2.0, 6.0]).reshape(1, 3, 1, 1)
    # (1 + 2 + 6) / 3
    assert LayerMix(3, 1)(states).item() == pytest.approx(3.0)


def test_layer_mix_weights_pass_through_softmax() -> None:
    mix = LayerMix(2, 1)
    assert mix.weights is not None
    mix.weights.data = torch.tensor([0.0, 3.0]).log1p()  # softmax of log(1), log(4) is 1/5, 4/5
    states = torch.tensor([10.0, 20.0]).reshape(1, 2, 1, 1)
    # 10 / 5 + 20 * 4 / 5
    assert mix(states).item() == pytest.approx(18.0)


def test_layer_mix_of_one_layer_has_no_weights_and_passes_it_through() -> None:
    mix = LayerMix(1, 2)
    states = torch.arange(6.0).reshape(1, 1, 3, 2)
    assert list(mix.parameters()) == []
    assert torch.equal(mix(states), states[:, 0])


def test_layer_mix_fit_uses_real_frames_of_all_batches() -> None:
    mix = LayerMix(1, 1, standardize=True)
    first = torch.tensor([2.0, 4.0, 99.0]).reshape(1, 1, 3, 1)
    second = torch.tensor([9.0]).reshape(1, 1, 1, 1)
    mix.fit([(first, torch.tensor([[True, True, False]])), (second, torch.tensor([[True]]))])
    # Mean of 2, 4, 9 is 5; variance is (9 + 1 + 16) / 3 = 26 / 3.
    assert mix.mean.item() == pytest.approx(5.0)
    assert mix.std.item() == pytest.approx((26 / 3) ** 0.5)
    assert mix(second).item() == pytest.approx(4 / (26 / 3) ** 0.5)


def test_layer_mix_fit_treats_each_layer_and_feature_on_its_own() -> None:
    mix = LayerMix(2, 2, standardize=True)
    # Two frames; layer 0 has the features (1, 10), (3, 30); layer 1 has (5, 0), (5, 2).
    states = torch.tensor([[[[1.0, 10.0], [3.0, 30.0]], [[5.0, 0.0], [5.0, 2.0]]]])
    mix.fit([(states, torch.ones(1, 2, dtype=torch.bool))])
    assert mix.mean.squeeze(1).tolist() == [[2.0, 20.0], [5.0, 1.0]]
    # The feature that never moves is not divided by zero.
    assert mix.std.squeeze(1).tolist() == [[1.0, 10.0], [1.0, 1.0]]


def test_layer_mix_fit_on_one_frame_raises() -> None:
    mix = LayerMix(1, 1, standardize=True)
    with pytest.raises(BadValueError, match="at least two frames, got 1"):
        mix.fit([(torch.zeros(1, 1, 1, 1), torch.tensor([[True]]))])


def test_layer_mix_statistics_are_part_of_the_state() -> None:
    assert set(LayerMix(2, 3, standardize=True).state_dict()) == {"weights", "mean", "std"}
