"""AdaFocal: its cost by hand, and how its gammas move."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import tensor

from abhinaya.nn.losses.build import AdaptiveFocalLoss, LossConfig, build_loss
from abhinaya.nn.losses.functions import adaptive_focal_loss, weighted_focal_loss

# Row 0: p(true) = e^2 / (e^2 + 1) = .880797, -log p = .126928. Row 1: p = 1/2, -log p = .693147.
LOGITS = tensor([[2.0, 0.0], [0.0, 0.0]])
TARGETS = tensor([0, 1])


def logits_of(*confidences: float) -> torch.Tensor:
    """Two classes, of which the first has these probabilities."""
    p = tensor(confidences)
    return torch.stack([p.log(), (1 - p).log()], dim=1)


@pytest.mark.parametrize(
    ("weights", "reduction", "expected"),
    [
        # Row 0 is in the upper bin, gamma -1: (1 + .880797) * .126928 = .238726.
        # Row 1 is in the lower bin, gamma 3: (1/2)^3 * .693147 = .086643.
        (None, "mean", (0.238726 + 0.086643) / 2),
        (tensor([3.0, 1.0]), "mean", (3 * 0.238726 + 0.086643) / 2),
        (tensor([3.0, 1.0]), "weight-normalised", (3 * 0.238726 + 0.086643) / 4),
    ],
)
def test_adaptive_focal_loss_by_hand(weights, reduction, expected):
    ours = adaptive_focal_loss(
        LOGITS,
        TARGETS,
        weights,
        gammas=tensor([3.0, -1.0]),
        edges=tensor([0.6]),
        reduction=reduction,
    )
    assert ours.item() == pytest.approx(expected, rel=1e-5)


def test_adaptive_focal_loss_of_equal_gammas_is_the_focal_loss():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(40, 8, generator=generator)
    targets = torch.randint(8, (40,), generator=generator)
    weights = 0.2 + torch.rand(8, generator=generator)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    build = LossConfig(name="adaptive-focal", gamma=1.5, class_weights=tuple(weights.tolist()))
    loss = build_loss(build, [5] * 8)(ours, targets)
    expected = weighted_focal_loss(theirs, targets, weights, gamma=1.5)
    torch.testing.assert_close(loss, expected)
    (slope,) = torch.autograd.grad(loss, ours)
    torch.testing.assert_close(slope, torch.autograd.grad(expected, theirs)[0])


@pytest.mark.parametrize("gamma", [-2.0, -0.5, 0.2, 3.0])
def test_adaptive_focal_loss_gradient_is_that_of_its_formula(gamma):
    # With q = 1 - p and z the difference of two logits, dp/dz = pq, so for gamma > 0
    # d/dz -q^g log p = g q^g p log p - q^(g + 1), and with (1 + p)^a, a = -g, for gamma < 0
    # d/dz = -a (1 + p)^(a - 1) p q log p - (1 + p)^a q.
    z = tensor(0.7, requires_grad=True)
    loss = adaptive_focal_loss(
        torch.stack([z, tensor(0.0)])[None],
        tensor([0]),
        gammas=tensor([gamma]),
        edges=tensor([]),
    )
    (slope,) = torch.autograd.grad(loss, z)
    p = 1 / (1 + math.exp(-0.7))
    q, a = 1 - p, abs(gamma)
    expected = (
        a * q**a * p * math.log(p) - q ** (a + 1)
        if gamma > 0
        else -a * (1 + p) ** (a - 1) * p * q * math.log(p) - (1 + p) ** a * q
    )
    assert slope.item() == pytest.approx(expected, rel=1e-5)


def test_adaptive_focal_loss_of_a_certain_row_has_finite_gradients():
    logits = tensor([[60.0, 0.0], [-60.0, 0.0]], requires_grad=True)
    for gamma in (0.3, -2.0):
        loss = adaptive_focal_loss(logits, tensor([0, 0]), gammas=tensor([gamma]), edges=tensor([]))
        assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_adapt_moves_each_gamma_by_the_gap_of_its_bin():
    # Two bins of two rows, cut at the median (.7 + .8) / 2 = .75. Lower: confidence .65, both
    # right: gap -.35. Upper: confidence .85, one right: gap +.35.
    loss = AdaptiveFocalLoss(bins=2, gamma=2.0, rate=0.5)
    loss.adapt(logits_of(0.6, 0.7, 0.8, 0.9), tensor([0, 0, 0, 1]))
    assert loss.edges.tolist() == pytest.approx([0.75])
    assert loss.gammas.tolist() == pytest.approx(
        [2 * math.exp(-0.5 * 0.35), 2 * math.exp(0.5 * 0.35)]
    )


def test_adapt_switches_to_the_inverse_and_back():
    right, wrong = tensor([0, 0]), tensor([1, 1])
    loss = AdaptiveFocalLoss(bins=1, gamma=0.25)
    # Gap -.4: .25 * exp(-.4) = .168 is weak, so -.2. Then -.2 * exp(.4) = -.298.
    for expected in (-0.2, -0.2 * math.exp(0.4)):
        loss.adapt(logits_of(0.6, 0.6), right)
        assert loss.gammas.tolist() == pytest.approx([expected])
    # Gap +.6: -.298 * exp(-.6) = -.164 is weak, so +.2.
    loss.adapt(logits_of(0.6, 0.6), wrong)
    assert loss.gammas.tolist() == pytest.approx([0.2])


def test_adapt_keeps_gammas_in_their_range_and_those_of_empty_bins():
    loss = AdaptiveFocalLoss(bins=3, rate=100.0)
    # Rows that are all alike fall into the last bin.
    loss.adapt(logits_of(0.6, 0.6), tensor([1, 1]))
    assert loss.gammas.tolist() == [1.0, 1.0, 20.0]
    loss.gammas.fill_(-1.0)
    loss.adapt(logits_of(0.6, 0.6), tensor([0, 0]))
    assert loss.gammas.tolist() == [-1.0, -1.0, -2.0]


def test_state_of_the_loss_is_what_it_learned():
    loss = build_loss(LossConfig(name="adaptive-focal", class_weights="inverse", bins=4), [3, 1])
    assert set(loss.state_dict()) == {"gammas", "edges"}
    assert loss.edges.tolist() == [0.25, 0.5, 0.75]


def test_adaptive_focal_from_gamma_zero_raises():
    with pytest.raises(ValidationError, match=r"gamma of the loss 'adaptive-focal' is 0.*above 0"):
        LossConfig(name="adaptive-focal", gamma=0)
