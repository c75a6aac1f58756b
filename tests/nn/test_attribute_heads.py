"""What is learned beside the class: losses by hand, what is unknown, and the model around them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from abhinaya.data.attributes import SECONDARY
from abhinaya.errors import ProblemsError
from abhinaya.member_config import check_member_config
from abhinaya.nn.attribute_heads import AttributeHeads
from abhinaya.nn.losses.attributes import ccc_loss, share_loss, squared_error
from abhinaya.nn.recipe.attributes import AttributesConfig

NAN = float("nan")


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, requires_grad=True)


def test_ccc_loss_by_hand() -> None:
    # p 1 2 3, t 2 3 4: cov 2/3, variances 2/3, means 1 apart: 1 - 2 * 2/3 / (4/3 + 1) = 3/7.
    assert ccc_loss(numbers(1, 2, 3), numbers(2, 3, 4)).item() == pytest.approx(3 / 7, abs=1e-6)
    # p 1 3, t 3 1: cov -1, variances 1: 1 + 1.
    assert ccc_loss(numbers(1, 3), numbers(3, 1)).item() == pytest.approx(2, abs=1e-6)
    assert ccc_loss(numbers(1, 5, 2), numbers(1, 5, 2)).item() == pytest.approx(0, abs=1e-6)


def test_ccc_loss_equals_one_minus_the_score_of_evaluation() -> None:
    from abhinaya.evaluation.concordance import ccc

    rng = np.random.default_rng(0)
    p, t = rng.uniform(1, 7, (2, 50)).astype(np.float32)
    t[::7] = NAN
    ours = ccc_loss(torch.from_numpy(p), torch.from_numpy(t)).item()
    assert ours == pytest.approx(1 - ccc(p, t), abs=1e-6)


def test_ccc_loss_pulls_each_number_towards_its_truth() -> None:
    # Of the right shape but too high: down with all of them.
    predicted = numbers(3, 4, 5)
    ccc_loss(predicted, torch.tensor([2.0, 3.0, 4.0])).backward()
    assert (predicted.grad > 0).all()
    # Of the right mean but too close: the low one down, the high one up.
    predicted = numbers(3, 3.5, 4)
    ccc_loss(predicted, torch.tensor([2.0, 3.5, 5.0])).backward()
    assert predicted.grad[0] > 0 > predicted.grad[2]


def test_losses_do_not_count_what_is_unknown() -> None:
    predicted = numbers(1, 9, 2, 3)
    loss = ccc_loss(predicted, torch.tensor([2, NAN, 3, 4]))
    assert loss.item() == pytest.approx(3 / 7, abs=1e-6)
    loss.backward()
    assert predicted.grad[1] == 0
    assert predicted.grad.isfinite().all()
    # (1 + 4) / 3 rows: a known row counts as much whatever stands beside it.
    predicted = numbers(1, 9, 2)
    loss = squared_error(predicted, torch.tensor([2, NAN, 4]))
    assert loss.item() == pytest.approx(5 / 3)
    loss.backward()
    assert predicted.grad.tolist() == pytest.approx([-2 / 3, 0, -4 / 3])
    # log 2 for the known cell of four.
    logits = torch.zeros(2, 2, requires_grad=True)
    loss = share_loss(logits, torch.tensor([[1, NAN], [NAN, NAN]]))
    assert loss.item() == pytest.approx(np.log(2) / 4)
    loss.backward()
    assert logits.grad.tolist() == [[-0.125, 0], [0, 0]]


@pytest.mark.parametrize("truth", [[NAN, NAN], [NAN, 3.0], [4.0, 4.0]], ids=["none", "one", "same"])
def test_ccc_loss_teaches_nothing_where_there_is_no_concordance(truth: list[float]) -> None:
    """None of the three may stop a run with NaN, or leave a parameter without a gradient."""
    predicted = numbers(2, 5)
    loss = ccc_loss(predicted, torch.tensor(truth))
    assert loss.item() == (1 if truth[0] == 4 else 0)
    loss.backward()
    assert predicted.grad.tolist() == pytest.approx([0, 0], abs=1e-6)


def test_losses_of_a_batch_of_one_are_finite() -> None:
    heads = AttributeHeads(3, AttributesConfig(arousal=1, gender=1, secondary=1))
    outputs = heads(torch.ones(1, 3))
    targets = torch.tensor([[4.0, 1.0, *[0.5] * len(SECONDARY)]])
    heads.loss(outputs, targets).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in heads.parameters())


def test_heads_give_values_from_1_to_7_then_logits() -> None:
    config = AttributesConfig(valence=0.5, dominance=1, gender=2)
    heads = AttributeHeads(2, config)
    assert list(heads.out) == ["valence", "dominance", "gender"]
    with torch.no_grad():
        for layer in heads.out.values():
            layer.weight.copy_(torch.tensor([[1.0, 0.0]]))
            layer.bias.zero_()
    outputs = heads(torch.tensor([[0.0, 5.0], [-100.0, 0.0], [100.0, 0.0]]))
    assert outputs.tolist() == [[4, 4, 0], [1, 1, -100], [7, 7, 100]]
    # Squared errors (1 + 9) / 2 and 0; log 2 of the first row, nothing of the second one.
    heads = AttributeHeads(2, config.model_copy(update={"loss": "mse"}))
    told = heads.loss(
        torch.tensor([[3.0, 2, 0], [5, 7, 100]]), torch.tensor([[4, 2, 1], [2, 7, 1.0]])
    )
    assert told.item() == pytest.approx(0.5 * 5 + 2 * np.log(2) / 2, abs=1e-6)


def test_heads_compute_in_float32_under_autocast() -> None:
    heads = AttributeHeads(4, AttributesConfig(arousal=1))
    embeddings = torch.randn(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(heads(embeddings), heads(embeddings.clone()))
        assert heads(embeddings).dtype == torch.float32


def config_of(**attributes: object) -> object:
    content = {
        "member": "wavlm",
        "name": "x",
        "run_dir": "run",
        "data": {"manifest": "m.parquet"},
        "base": "base",
        "training": {"global_batch_size": 4},
    }
    return check_member_config(content | attributes, "the test")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"arousel": 0.3}, r"attributes\.arousel is unknown, did you mean attributes\.arousal\?"),
        (
            {"arousal": -1},
            r"attributes\.arousal is -1, expected greater than or equal to 0|expected",
        ),
        ({"loss": "mae", "arousal": 1}, r"attributes\.loss is 'mae', expected 'ccc' or 'mse'"),
        ({}, "attributes: no task has a weight above 0; give one to arousal"),
    ],
)
def test_attributes_config_that_cannot_be_is_refused(given: object, message: str) -> None:
    with pytest.raises(ProblemsError, match=message):
        config_of(attributes=given)


def test_gen_ser_refuses_attributes() -> None:
    with pytest.raises(ProblemsError, match="attributes: gen-ser estimates class encodings alone"):
        config_of(member="gen-ser", temperature=0.2, attributes={"arousal": 1})
