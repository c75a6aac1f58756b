import numpy as np
import pytest
import torch
from golden_set import golden
from torch import tensor

from abhinaya.errors import BadShapeError, BadValueError, UnknownNameError
from abhinaya.nn.pooling import AttentiveStatisticsPooling, MeanPooling, build_pooling

GOLDEN = golden("asp")


def lengths_to_mask(lengths, n_frames):
    return torch.arange(n_frames) < tensor(lengths).unsqueeze(1)


def random_pooling(n_features, seed=0):
    torch.manual_seed(seed)
    return AttentiveStatisticsPooling(n_features)


def published_loop(pooling, frames, lengths):
    """The published computation, literally: one utterance after the other, then stacked."""
    pooled = []
    for utterance, length in zip(frames, lengths, strict=True):
        x = utterance[:length].unsqueeze(0)
        h = torch.tanh(pooling.sap_linear(x))
        w = torch.matmul(h, pooling.attention).squeeze(dim=2)
        w = torch.softmax(w, dim=1).view(1, length, 1)
        mu = torch.sum(x * w, dim=1)
        rh = torch.sqrt((torch.sum((x**2) * w, dim=1) - mu**2).clamp(min=1e-5))
        pooled.append(torch.cat((mu, rh), 1).squeeze(0))
    return torch.stack(pooled)


def test_attentive_statistics_by_hand():
    # One feature, W = 0 and b = 0: all scores are equal. Frames 1, 3: mean 2, std 1.
    pooling = AttentiveStatisticsPooling(1)
    torch.nn.init.zeros_(pooling.sap_linear.weight)
    torch.nn.init.zeros_(pooling.sap_linear.bias)
    ours = pooling(tensor([[[1.0], [3.0], [99.0]]]), tensor([[True, True, False]]))
    torch.testing.assert_close(ours, tensor([[2.0, 1.0]]))


def test_attentive_statistics_weighs_frames_by_hand():
    # tanh saturates at +-1 for frames +-100, and v = log(3) / 2: odds 3 to 1 for frame 100.
    # Mean .75 * 100 - .25 * 100 = 50, variance .75 * 50^2 + .25 * 150^2 = 7500.
    pooling = AttentiveStatisticsPooling(1)
    with torch.no_grad():
        pooling.sap_linear.weight.fill_(1.0)
        pooling.sap_linear.bias.fill_(0.0)
        pooling.attention.fill_(np.log(3) / 2)
    ours = pooling(tensor([[[100.0], [-100.0]]]))
    torch.testing.assert_close(ours, tensor([[50.0, 7500**0.5]]))


def test_attention_is_the_mean_of_attentive_statistics():
    # As above: odds 3 to 1 for frame 100, so the mean is 50.
    pooling = build_pooling("attention", 1)
    with torch.no_grad():
        pooling.sap_linear.weight.fill_(1.0)
        pooling.sap_linear.bias.fill_(0.0)
        pooling.attention.fill_(np.log(3) / 2)
    torch.testing.assert_close(pooling(tensor([[[100.0], [-100.0]]])), tensor([[50.0]]))
    assert build_pooling("attention", 3).output_size == 3


@pytest.mark.parametrize("lengths", [[9, 4, 1, 6], [9, 9, 9, 9]])
def test_attentive_statistics_equal_the_published_loop_with_gradients(lengths):
    pooling = random_pooling(5)
    frames = torch.randn(4, 9, 5, requires_grad=True)
    upstream = torch.randn(4, 10)
    inputs = [frames, *pooling.parameters()]

    ours = pooling(frames, lengths_to_mask(lengths, 9))
    our_grads = torch.autograd.grad((ours * upstream).sum(), inputs)
    theirs = published_loop(pooling, frames, lengths)
    their_grads = torch.autograd.grad((theirs * upstream).sum(), inputs)

    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert len(our_grads) == 4  # frames, attention, weight, bias
    for our_grad, their_grad in zip(our_grads, their_grads, strict=True):
        torch.testing.assert_close(our_grad, their_grad, rtol=1e-4, atol=1e-5)


def golden_pooling():
    pooling = AttentiveStatisticsPooling(len(GOLDEN["attention"]))
    weights = {
        "attention": tensor(GOLDEN["attention"]),
        "sap_linear.weight": tensor(GOLDEN["sap_linear_weight"]),
        "sap_linear.bias": tensor(GOLDEN["sap_linear_bias"]),
    }
    pooling.load_state_dict(weights, strict=True)
    return pooling


@pytest.mark.parity
@pytest.mark.parametrize(
    ("case", "lengths"), [("s2_nomask", None), ("t2_masked", GOLDEN["lengths"].tolist())]
)
def test_attentive_statistics_match_published_with_gradient(case, lengths):
    frames = tensor(GOLDEN["x"], requires_grad=True)
    ours = golden_pooling()(
        frames, None if lengths is None else lengths_to_mask(lengths, frames.shape[1])
    )
    (ours * torch.linspace(-1, 1, ours.shape[1])).sum().backward()
    np.testing.assert_allclose(ours.detach().numpy(), GOLDEN[case], rtol=0, atol=1e-6)
    np.testing.assert_allclose(frames.grad.numpy(), GOLDEN[f"grad_{case}"], rtol=0, atol=1e-6)


@pytest.mark.parity
def test_attentive_statistics_of_a_single_frame_match_published():
    lengths = [*GOLDEN["lengths"].tolist()[:-1], 1]
    mask = lengths_to_mask(lengths, GOLDEN["x"].shape[1])
    ours = golden_pooling()(tensor(GOLDEN["x"]), mask).detach().numpy()
    np.testing.assert_allclose(ours, GOLDEN["t2_masked_len1"], rtol=0, atol=1e-6)
    # One frame is its own mean; its deviation is the floor, the root of 1e-5.
    mean, deviation = np.split(ours[-1], 2)
    np.testing.assert_array_equal(mean, GOLDEN["x"][-1, 0])
    np.testing.assert_allclose(deviation, 0.0031622776, rtol=1e-6)


@pytest.mark.parametrize("name", ["attention", "attentive-statistics", "mean"])
@pytest.mark.parametrize("garbage", [1e30, float("nan"), float("inf")])
def test_masked_frames_do_not_matter(name, garbage):
    torch.manual_seed(0)
    pooling = build_pooling(name, 4)
    mask = tensor([[True, True, False, True], [False, False, True, True]])  # holes too
    clean = torch.randn(2, 4, 4).masked_fill(~mask.unsqueeze(2), 0.0)
    dirty = clean.masked_fill(~mask.unsqueeze(2), garbage).requires_grad_()
    ours = pooling(dirty, mask)
    ours.square().sum().backward()
    torch.testing.assert_close(ours, pooling(clean, mask), rtol=0, atol=0)
    assert dirty.grad.isfinite().all()
    assert (dirty.grad[~mask] == 0).all()
    assert all(parameter.grad.isfinite().all() for parameter in pooling.parameters())


@pytest.mark.parametrize("name", ["attention", "attentive-statistics", "mean"])
def test_result_does_not_depend_on_neighbours_or_padding(name):
    torch.manual_seed(1)
    pooling = build_pooling(name, 6)
    frames = torch.randn(3, 20, 6)
    batched = pooling(frames, lengths_to_mask([20, 7, 3], 20))
    alone = pooling(frames[1:2, :7])
    torch.testing.assert_close(batched[1:2], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["attention", "attentive-statistics", "mean"])
def test_everything_is_computed_in_float32_under_autocast(name):
    torch.manual_seed(2)
    pooling = build_pooling(name, 8)
    frames, mask = torch.randn(2, 30, 8).bfloat16(), lengths_to_mask([30, 11], 30)
    expected = pooling(frames.float(), mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = pooling(frames, mask)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, expected)


def test_weights_in_half_precision_still_give_float32():
    frames = torch.randn(2, 5, 8)
    ours = random_pooling(8).bfloat16()(frames.bfloat16())
    assert ours.dtype == torch.float32


def test_deviation_keeps_its_digits_where_the_mean_is_large():
    pooling = random_pooling(1)
    torch.nn.init.zeros_(pooling.attention)  # all frames weigh alike
    # 4096 +- 0.5: the mean of squares, near 2^24, has no digits left for a variance of 1/4.
    ours = pooling(tensor([[[4096.5], [4095.5]]]))
    torch.testing.assert_close(ours, tensor([[4096.0, 0.5]]))


def test_mean_pooling_by_hand():
    # Row 0: (1 + 3) / 2, (2 + 6) / 2; row 1: its only frame.
    frames = tensor([[[1.0, 2.0], [3.0, 6.0]], [[7.0, 8.0], [0.5, 0.5]]])
    ours = MeanPooling(2)(frames, tensor([[True, True], [True, False]]))
    torch.testing.assert_close(ours, tensor([[2.0, 4.0], [7.0, 8.0]]))
    torch.testing.assert_close(MeanPooling(2)(frames)[1], tensor([3.75, 4.25]))


def test_parameter_names_and_widths_are_those_of_published_checkpoints():
    pooling = build_pooling("attentive-statistics", 3)
    assert {name: tuple(value.shape) for name, value in pooling.state_dict().items()} == {
        "attention": (3, 1),
        "sap_linear.weight": (3, 3),
        "sap_linear.bias": (3,),
    }
    assert pooling.output_size == pooling(torch.zeros(1, 2, 3)).shape[1] == 6
    assert build_pooling("mean", 3).output_size == 3


@pytest.mark.slow
def test_pooling_can_be_exported_with_a_free_number_of_frames():
    pooling, n_frames = random_pooling(4).eval(), torch.export.Dim("n_frames")
    example = torch.randn(2, 6, 4), torch.ones(2, 6, dtype=torch.bool)
    exported = torch.export.export(
        pooling, example, dynamic_shapes=({1: n_frames}, {1: n_frames})
    ).run_decompositions()
    frames, mask = torch.randn(2, 9, 4), lengths_to_mask([9, 5], 9)
    torch.testing.assert_close(exported.module()(frames, mask), pooling(frames, mask))


@pytest.mark.parametrize("name", ["attention", "attentive-statistics", "mean"])
def test_utterance_without_a_frame_raises(name):
    mask = tensor([[True, True], [False, False], [False, False]])
    with pytest.raises(BadValueError, match=r"no True frame in row 1 .*\(2 such rows\).*too short"):
        build_pooling(name, 4)(torch.zeros(3, 2, 4), mask)


@pytest.mark.parametrize("name", ["attention", "attentive-statistics", "mean"])
def test_wrong_shapes_and_types_raise(name):
    pooling = build_pooling(name, 4)
    with pytest.raises(BadShapeError, match=r"frames has shape \(2, 3, 5\), expected \(B, T, 4\)"):
        pooling(torch.zeros(2, 3, 5))
    with pytest.raises(BadShapeError, match=r"frames has shape \(2, 0, 4\).*at least one frame"):
        pooling(torch.zeros(2, 0, 4))
    with pytest.raises(BadShapeError, match=r"mask has shape \(2, 48\).*over samples"):
        pooling(torch.zeros(2, 3, 4), torch.ones(2, 48, dtype=torch.bool))
    with pytest.raises(BadValueError, match=r"mask has type torch.int64.*Pass mask.bool\(\)"):
        pooling(torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.int64))


def test_build_pooling_unknown_name_raises():
    with pytest.raises(UnknownNameError, match=r"'maen'. Did you mean 'mean'\? Known: attention, "):
        build_pooling("maen", 4)
