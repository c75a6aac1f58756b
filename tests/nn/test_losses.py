import pytest
import torch
from torch import tensor

from abhinaya.errors import BadShapeError, BadValueError
from abhinaya.nn.losses.build import EmotionLoss, LossConfig, build_loss

# One config per loss name, with everything on that puts a tensor on board.
CONFIGS = {
    "class-balanced": LossConfig(name="class-balanced"),
    "cross-entropy": LossConfig(name="cross-entropy", class_weights="inverse"),
    "focal": LossConfig(name="focal", class_weights=(1.0, 2.0, 3.0)),
    "kl-divergence": LossConfig(name="kl-divergence", reweight_targets=True),
    "ldam": LossConfig(name="ldam", class_weights="class-balanced"),
    "logit-adjustment": LossConfig(name="logit-adjustment"),
    "soft-cross-entropy": LossConfig(name="soft-cross-entropy", class_weights="inverse"),
    "vector-scaling": LossConfig(name="vector-scaling", class_weights="inverse"),
}
COUNTS = [6, 3, 1]


def a_batch(loss: EmotionLoss):
    generator = torch.Generator().manual_seed(3)
    logits = 4 * torch.randn(5, 3, generator=generator)
    if loss.uses_soft_targets:
        return logits, torch.rand(5, 3, generator=generator).softmax(dim=1)
    return logits, torch.randint(3, (5,), generator=generator)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_loss_in_bfloat16_autocast_equals_float32(name):
    loss = build_loss(CONFIGS[name], COUNTS)
    logits, targets = a_batch(loss)
    logits = logits.bfloat16()
    expected = loss(logits.float(), targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = loss(logits, targets)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, expected)
    assert ours.shape == ()
    assert ours.item() > 0


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_loss_moves_its_tensors_and_saves_none(name):
    loss = build_loss(CONFIGS[name], COUNTS)
    assert loss.state_dict() == {}
    assert list(loss.parameters()) == []
    n_tensors = len(list(loss.buffers()))
    assert n_tensors >= 1
    assert [b.device.type for b in loss.to("meta").buffers()] == ["meta"] * n_tensors


def test_soft_targets_are_wanted_by_the_two_losses_on_votes():
    wanted = [n for n, config in CONFIGS.items() if build_loss(config, COUNTS).uses_soft_targets]
    assert wanted == ["kl-divergence", "soft-cross-entropy"]


def test_build_loss_hands_on_the_options():
    # Counts 3, 1: at tau 2, gamma 0 class 1 has probability (1/16) / (9/16 + 1/16) = 1/10.
    loss = build_loss(LossConfig(name="vector-scaling", gamma=0, tau=2), [3, 1])
    assert loss(tensor([[0.0, 0.0]]), tensor([1])).item() == pytest.approx(2.302585, rel=1e-6)


def test_build_loss_reweights_votes_by_the_rows_of_each_class():
    # p = (1/4, 3/4). Votes (1/2, 1/2) at counts 30, 10 become (1/60, 1/20) * 15 = (1/4, 3/4): no
    # loss is left. As they are: ln 2 / 2 + ln(2/3) / 2.
    logits, votes = tensor([[0.0, 1.0986123]]), tensor([[0.5, 0.5]])
    losses = [
        build_loss(LossConfig(name="kl-divergence", reweight_targets=wanted), [30, 10])
        for wanted in (True, False)
    ]
    found = [loss(logits, votes).item() for loss in losses]
    assert found == pytest.approx([0, 0.143841], abs=1e-6)


def test_build_loss_counts_of_the_config_replace_those_of_the_rows():
    # Share of class 1 is 3/4 by the config: -log(3/4) = .287682.
    loss = build_loss(LossConfig(name="logit-adjustment", class_counts=(1, 3)), [50, 50])
    assert loss(tensor([[0.0, 0.0]]), tensor([1])).item() == pytest.approx(0.287682, rel=1e-5)


def test_build_loss_class_balanced_is_cross_entropy_with_such_weights():
    # One row is worth 1, two rows 1 + 1/2: weights as 3 : 2, scaled to sum to 2. Plain mean.
    loss = build_loss(LossConfig(name="class-balanced", beta=0.5), [1, 2])
    assert loss.class_weights.tolist() == pytest.approx([1.2, 0.8])
    assert loss(torch.zeros(1, 2), tensor([0])).item() == pytest.approx(1.2 * 0.693147, rel=1e-5)


def test_build_loss_without_need_of_counts_takes_a_class_without_rows():
    loss = build_loss(LossConfig(name="focal"), [5, 0, 2])
    assert loss(torch.zeros(1, 3), tensor([1])).isfinite()


@pytest.mark.parametrize(
    "config",
    [
        LossConfig(name="vector-scaling"),
        LossConfig(name="logit-adjustment"),
        LossConfig(name="ldam"),
        LossConfig(name="class-balanced"),
        LossConfig(class_weights="inverse"),
        LossConfig(name="soft-cross-entropy", reweight_targets=True),
    ],
    ids=lambda config: config.name,
)
def test_build_loss_class_without_rows_raises_with_its_index(config):
    with pytest.raises(BadValueError, match=r"class index 1.*Set class_counts in the loss"):
        build_loss(config, [5, 0, 2])


def test_build_loss_other_number_of_weights_or_counts_raises():
    with pytest.raises(BadShapeError, match=r"class_weights of the loss has 2 numbers, expected 3"):
        build_loss(LossConfig(class_weights=(1.0, 2.0)), COUNTS)
    with pytest.raises(BadShapeError, match=r"class_counts of the loss has 2 numbers, expected 3"):
        build_loss(LossConfig(class_counts=(1, 2)), COUNTS)
