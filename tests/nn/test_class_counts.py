import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from abhinaya.errors import BadValueError
from abhinaya.nn.losses.class_counts import (
    class_balanced_weights,
    inverse_frequency_weights,
    ldam_margins,
    reweight_targets,
)


def test_inverse_frequency_weights_equal_scikit_learns_balanced_ones():
    labels = np.repeat([0, 1, 2], [7, 2, 11])
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(inverse_frequency_weights([7, 2, 11]).numpy(), theirs, rtol=1e-6)


def test_class_balanced_weights_by_hand():
    # Effective numbers at beta 1/2: 1 + 1/2 + 1/4 = 1.75 rows of 3, 1 of 1. Weights go as
    # 1/1.75 : 1 = 4 : 7, scaled to sum to 2.
    ours = class_balanced_weights([3, 1], beta=0.5)
    torch.testing.assert_close(ours, torch.tensor([8 / 11, 14 / 11]))


def test_class_balanced_weights_beta_zero_weighs_all_alike():
    assert class_balanced_weights([5, 500, 1], beta=0.0).tolist() == [1.0, 1.0, 1.0]


def test_class_balanced_weights_beta_near_one_go_as_inverse_counts():
    # 1/30 : 1/10 = 1 : 3, scaled to sum to 2.
    ours = class_balanced_weights([30, 10], beta=1 - 1e-9)
    torch.testing.assert_close(ours, torch.tensor([0.5, 1.5]))


@pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan")])
def test_class_balanced_weights_beta_out_of_range_raises(beta):
    with pytest.raises(BadValueError, match=rf"beta is {beta}.*\[0, 1\).*inverse_frequency"):
        class_balanced_weights([1, 2], beta=beta)


@pytest.mark.parametrize("function", [inverse_frequency_weights, class_balanced_weights])
def test_weights_of_a_class_without_rows_raise_with_its_index(function):
    with pytest.raises(BadValueError, match=r"\[4, 0, 9\], without a row of class index 1.*Set"):
        function([4, 0, 9])


def test_weights_without_classes_raise():
    with pytest.raises(BadValueError, match=r"class_counts is \[\], without a row of any class"):
        inverse_frequency_weights([])


def test_ldam_margins_fall_with_the_fourth_root():
    # 81 = 3^4 times the rarest class's 2 rows: a third of the margin.
    torch.testing.assert_close(
        ldam_margins(torch.tensor([2, 162]), max_margin=0.6), torch.tensor([0.6, 0.2])
    )


def test_reweight_targets_by_hand():
    targets = torch.tensor([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0]])
    # Row 0: .5/50 = .3/30 = .2/20. Row 1: all agree, nothing changes.
    ours = reweight_targets(targets, torch.tensor([50, 30, 20]))
    torch.testing.assert_close(ours, torch.tensor([[1 / 3, 1 / 3, 1 / 3], [0.0, 1.0, 0.0]]))
