import math

import pytest
import torch
import torch.nn.functional as F
from torch import tensor

from abhinaya.errors import BadShapeError, BadValueError, UnknownNameError
from abhinaya.nn.losses.functions import (
    ldam_loss,
    logit_adjustment_loss,
    soft_cross_entropy,
    soft_kl_divergence,
    vector_scaling_loss,
    weighted_cross_entropy,
    weighted_focal_loss,
)

# Row 0: p(true) = e^2 / (e^2 + 1) = .880797, -log p = .126928. Row 1: p = 1/2, -log p = .693147.
LOGITS = tensor([[2.0, 0.0], [0.0, 0.0]])
TARGETS = tensor([0, 1])
WEIGHTS = tensor([3.0, 1.0])


def random_batch(n_rows=40, n_classes=8):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(n_rows, n_classes, generator=generator)
    targets = torch.randint(n_classes, (n_rows,), generator=generator)
    weights = 0.2 + torch.rand(n_classes, generator=generator)
    return logits, targets, weights


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("weight-normalised", (3 * 0.126928 + 0.693147) / 4),
        ("mean", (3 * 0.126928 + 0.693147) / 2),
    ],
)
def test_weighted_cross_entropy_by_hand(reduction, expected):
    ours = weighted_cross_entropy(LOGITS, TARGETS, WEIGHTS, reduction=reduction)
    assert ours.item() == pytest.approx(expected, rel=1e-5)


def test_weighted_cross_entropy_equals_torch():
    logits, targets, weights = random_batch()
    ours = weighted_cross_entropy(logits, targets, weights)
    torch.testing.assert_close(ours, F.cross_entropy(logits, targets, weights))


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        # (1 - .880797)^2 * .126928 = .0018036; (1/2)^2 * .693147 = .1732868.
        ("mean", (3 * 0.0018036 + 0.1732868) / 2),
        ("weight-normalised", (3 * 0.0018036 + 0.1732868) / 4),
    ],
)
def test_weighted_focal_loss_by_hand(reduction, expected):
    ours = weighted_focal_loss(LOGITS, TARGETS, WEIGHTS, reduction=reduction)
    assert ours.item() == pytest.approx(expected, rel=1e-4)


def test_weighted_focal_loss_broadcast_compat_weighs_the_batch_as_a_whole():
    # mean cost (.0018036 + .1732868) / 2 times mean weight 2.
    ours = weighted_focal_loss(LOGITS, TARGETS, WEIGHTS, broadcast_compat=True)
    assert ours.item() == pytest.approx(0.1750904, rel=1e-4)


def test_weighted_focal_loss_gamma_zero_is_cross_entropy():
    logits, targets, weights = random_batch()
    ours = weighted_focal_loss(logits, targets, weights, gamma=0.0, reduction="weight-normalised")
    torch.testing.assert_close(ours, F.cross_entropy(logits, targets, weights))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_weighted_focal_loss_certain_row_costs_nothing_and_has_a_finite_gradient(gamma):
    logits = tensor([[200.0, 0.0], [-200.0, 0.0]], requires_grad=True)
    loss = weighted_focal_loss(logits, tensor([0, 0]), gamma=gamma)
    loss.backward()
    # Row 0 is certain and right, row 1 certain and wrong: -log p = 200.
    assert loss.item() == pytest.approx(100.0)
    torch.testing.assert_close(logits.grad, tensor([[0.0, 0.0], [-0.5, 0.5]]))


def test_weighted_focal_loss_broadcast_compat_with_other_reduction_raises():
    with pytest.raises(BadValueError, match=r"reduction is 'weight-normalised'.*Pass reduction="):
        weighted_focal_loss(
            LOGITS, TARGETS, WEIGHTS, reduction="weight-normalised", broadcast_compat=True
        )


def test_vector_scaling_loss_by_hand():
    # Counts 30, 10 at gamma 1: scales 1, 1/3; shares 3/4, 1/4. Logits 3, 3 become 3 + log 3/4 and
    # 1 + log 1/4, so class 1 has odds e / (3 e^3) and costs log(1 + 3 e^2).
    ours = vector_scaling_loss(tensor([[3.0, 3.0]]), tensor([1]), tensor([30, 10]), gamma=1.0)
    assert ours.item() == pytest.approx(math.log(1 + 3 * math.exp(2)), rel=1e-6)


def test_vector_scaling_loss_gamma_and_tau_zero_is_cross_entropy():
    logits, targets, weights = random_batch()
    counts = torch.arange(1, 9)
    ours = vector_scaling_loss(logits, targets, counts, weights, gamma=0.0, tau=0.0)
    torch.testing.assert_close(ours, F.cross_entropy(logits, targets, weights))


@pytest.mark.parametrize(("tau", "expected"), [(1.0, math.log(4)), (2.0, math.log(10))])
def test_logit_adjustment_loss_by_hand(tau, expected):
    # Equal logits, shares 3/4 and 1/4: p(class 1) = 1/4; at tau 2 it is (1/16) / (9/16 + 1/16).
    ours = logit_adjustment_loss(tensor([[0.0, 0.0]]), tensor([1]), tensor([30, 10]), tau=tau)
    assert ours.item() == pytest.approx(expected, rel=1e-6)


def test_logit_adjustment_loss_is_content_with_equal_logits_where_only_the_prior_is_known():
    # Three rows of class 0 and one of class 1, nothing to tell them apart.
    shared = torch.zeros(2, requires_grad=True)
    targets, counts = tensor([0, 0, 0, 1]), tensor([3, 1])
    logit_adjustment_loss(shared.expand(4, 2), targets, counts).backward()
    torch.testing.assert_close(shared.grad, torch.zeros(2), atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        # Margins 1/4, 1/2. Class 1: 2 * (0 - 1/2) = -1 against 0.
        (1, math.log(1 + math.e)),
        # Class 0: 2 * (0 - 1/4) = -1/2 against 0.
        (0, math.log(1 + math.exp(0.5))),
    ],
)
def test_ldam_loss_by_hand(target, expected):
    ours = ldam_loss(tensor([[0.0, 0.0]]), tensor([target]), tensor([16, 1]), scale=2.0)
    assert ours.item() == pytest.approx(expected, rel=1e-6)


def test_soft_losses_by_hand():
    votes = tensor([[0.75, 0.25]])
    # p = q: cross-entropy is the entropy .75 log(4/3) + .25 log 4 = .562335, the divergence zero.
    fitting = tensor([[math.log(3), 0.0]])
    assert soft_cross_entropy(fitting, votes).item() == pytest.approx(0.562335, rel=1e-5)
    assert soft_kl_divergence(fitting, votes).item() == pytest.approx(0.0, abs=1e-6)
    # p = 1/2: log 2 = .693147, minus the entropy .130812.
    even = tensor([[0.0, 0.0]])
    assert soft_cross_entropy(even, votes).item() == pytest.approx(0.693147, rel=1e-5)
    assert soft_kl_divergence(even, votes).item() == pytest.approx(0.130812, rel=1e-5)


def test_soft_losses_equal_torch():
    logits, targets, weights = random_batch()
    votes = (F.one_hot(targets, 8) + F.one_hot((targets + 3) % 8, 8)) / 2
    theirs = F.cross_entropy(logits, votes, weights)
    torch.testing.assert_close(soft_cross_entropy(logits, votes, weights), theirs)
    theirs = F.kl_div(logits.log_softmax(1), votes, reduction="batchmean")
    torch.testing.assert_close(soft_kl_divergence(logits, votes), theirs)


@pytest.mark.parametrize("loss", [soft_cross_entropy, soft_kl_divergence])
@pytest.mark.parametrize("reduction", ["mean", "weight-normalised"])
def test_soft_losses_on_agreeing_votes_are_weighted_cross_entropy(loss, reduction):
    logits, targets, weights = random_batch()
    ours = loss(logits, F.one_hot(targets, 8).float(), weights, reduction=reduction)
    theirs = weighted_cross_entropy(logits, targets, weights, reduction=reduction)
    torch.testing.assert_close(ours, theirs)


def test_soft_losses_have_the_same_gradient():
    logits, _, weights = random_batch()
    votes = torch.rand(logits.shape, generator=torch.Generator().manual_seed(1)).softmax(dim=1)
    grads = []
    for loss in (soft_cross_entropy, soft_kl_divergence):
        z = logits.clone().requires_grad_()
        loss(z, votes, weights, class_counts=torch.arange(1, 9)).backward()
        grads.append(z.grad)
    torch.testing.assert_close(grads[0], grads[1])


def test_soft_cross_entropy_with_counts_reweights_the_votes_first():
    # Votes 1/2, 1/2 over counts 30, 10 become 1/4, 3/4; logits log 3, 0 give p = 3/4, 1/4:
    # .25 log(4/3) + .75 log 4 = .0719205 + 1.0397208.
    ours = soft_cross_entropy(
        tensor([[math.log(3), 0.0]]), tensor([[0.5, 0.5]]), class_counts=tensor([30, 10])
    )
    assert ours.item() == pytest.approx(1.1116413, rel=1e-5)


@pytest.mark.parametrize("bad", [-1, 2, -100])
def test_hard_losses_target_outside_the_classes_raises(bad):
    message = rf"targets is {bad} in row 1 of the batch \(1 such rows\).*0 to 1.*leave them out"
    targets, counts = tensor([0, bad]), tensor([1, 1])
    for run in (
        lambda: weighted_cross_entropy(LOGITS, targets),
        lambda: weighted_focal_loss(LOGITS, targets),
        lambda: vector_scaling_loss(LOGITS, targets, counts),
        lambda: logit_adjustment_loss(LOGITS, targets, counts),
        lambda: ldam_loss(LOGITS, targets, counts),
    ):
        with pytest.raises(BadValueError, match=message):
            run()


@pytest.mark.parametrize("loss", [vector_scaling_loss, logit_adjustment_loss, ldam_loss])
def test_losses_with_a_class_without_rows_raise_with_its_index(loss):
    with pytest.raises(BadValueError, match=r"class_counts is \[5, 0\].*class index 1.*at least"):
        loss(LOGITS, TARGETS, tensor([5, 0]))


@pytest.mark.parametrize("row", [[0.5, 0.4], [1.5, -0.5], [0.0, 0.0], [float("nan"), 1.0]], ids=str)
def test_soft_losses_row_that_is_no_distribution_raises(row):
    with pytest.raises(BadValueError, match=r"no distribution in row 1 .*sum to one.*Divide"):
        soft_cross_entropy(LOGITS, tensor([[1.0, 0.0], row]))


def test_losses_accept_distributions_stored_in_half_precision():
    votes = tensor([[1 / 3, 2 / 3], [0.1, 0.9]]).half()
    assert soft_kl_divergence(LOGITS, votes).isfinite()


def test_negative_gamma_raises():
    with pytest.raises(BadValueError, match=r"gamma is -0.5, expected 0 or more"):
        weighted_focal_loss(LOGITS, TARGETS, gamma=-0.5)
    with pytest.raises(BadValueError, match=r"gamma is -0.5, expected 0 or more"):
        vector_scaling_loss(LOGITS, TARGETS, tensor([1, 1]), gamma=-0.5)


def test_wrong_shapes_raise():
    votes = tensor([[0.5, 0.5], [1.0, 0.0]])
    with pytest.raises(BadShapeError, match=r"targets has shape \(2, 2\).*soft-cross-entropy"):
        weighted_cross_entropy(LOGITS, votes)
    with pytest.raises(BadShapeError, match=r"type torch.float32, expected 2 class indices"):
        weighted_cross_entropy(LOGITS, tensor([0.0, 1.0]))
    with pytest.raises(BadShapeError, match=r"targets has shape \(2,\).*distributions of shape"):
        soft_cross_entropy(LOGITS, TARGETS)
    with pytest.raises(BadShapeError, match=r"class_weights has shape \(3,\), expected \(2,\)"):
        weighted_focal_loss(LOGITS, TARGETS, torch.ones(3))
    with pytest.raises(BadShapeError, match=r"class_weights has shape \(3,\), expected \(2,\)"):
        soft_cross_entropy(LOGITS, votes, torch.ones(3))
    with pytest.raises(BadShapeError, match=r"class_counts has shape \(3,\), expected \(2,\)"):
        vector_scaling_loss(LOGITS, TARGETS, tensor([1, 1, 1]))
    with pytest.raises(BadShapeError, match=r"logits has shape \(0, 2\).*skip such a batch"):
        weighted_cross_entropy(LOGITS[:0], TARGETS[:0])


def test_unknown_reduction_raises():
    with pytest.raises(UnknownNameError, match=r"Unknown reduction 'sum'.*Known: mean, weight-"):
        weighted_cross_entropy(LOGITS, TARGETS, reduction="sum")
