import pytest
import torch
from torch import tensor

from abhinaya.errors import BadValueError, UnknownNameError
from abhinaya.nn.head import EmotionHead


def test_layers_by_hand():
    # fc doubles and negates: (1, 3) -> (2, -6); no norm; relu: (2, 0); out sums plus 1 and minus 1.
    head = EmotionHead(2, 2, hidden=2, norm="none").eval()
    head.load_state_dict(
        {
            "fc.weight": tensor([[2.0, 0.0], [0.0, -2.0]]),
            "fc.bias": torch.zeros(2),
            "out.weight": torch.ones(2, 2),
            "out.bias": tensor([1.0, -1.0]),
        },
        strict=True,
    )
    logits, embedding = head(tensor([[1.0, 3.0]]))
    assert embedding.tolist() == [[2.0, 0.0]]
    assert logits.tolist() == [[3.0, 1.0]]


def test_norm_stands_before_the_activation():
    # LayerNorm of (2, -2) is (1, -1); relu after it leaves (1, 0). In the other order the norm of
    # (2, 0) would be (1, -1).
    head = EmotionHead(2, 2, hidden=2).eval()
    with torch.no_grad():
        head.fc.weight.copy_(tensor([[2.0, 0.0], [0.0, -2.0]]))
        head.fc.bias.zero_()
    _, embedding = head(tensor([[1.0, 1.0]]))
    torch.testing.assert_close(embedding, tensor([[1.0, 0.0]]))


def test_gelu_lets_a_little_through_below_zero():
    head = EmotionHead(1, 2, hidden=1, norm="none", activation="gelu").eval()
    with torch.no_grad():
        head.fc.weight.fill_(1.0)
        head.fc.bias.zero_()
    _, embedding = head(tensor([[-1.0]]))
    # -1 times the normal distribution function at -1, .158655.
    assert embedding.item() == pytest.approx(-0.158655, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({}, ["fc.weight", "fc.bias", "ln.weight", "ln.bias", "out.weight", "out.bias"]),
        ({"norm": "none"}, ["fc.weight", "fc.bias", "out.weight", "out.bias"]),
        ({"hidden": 0}, ["out.weight", "out.bias"]),
    ],
    ids=str,
)
def test_parameter_names_are_those_of_published_checkpoints(options, keys):
    assert list(EmotionHead(6, 8, **options).state_dict()) == keys


@pytest.mark.parametrize("hidden", [0, 5])
@pytest.mark.parametrize("norm", ["layer", "none"])
def test_logits_are_numpys_product_of_embedding_and_last_linear(hidden, norm):
    torch.manual_seed(0)
    head = EmotionHead(6, 8, hidden=hidden, norm=norm).eval()
    with torch.inference_mode():
        logits, embedding = head(torch.randn(4, 6))
    assert embedding.shape == (4, hidden or 6)
    weight, bias = (value.detach().numpy() for value in head.last_linear.parameters())
    ours = tensor(embedding.numpy() @ weight.T + bias)
    torch.testing.assert_close(ours, logits, rtol=1e-5, atol=1e-6)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    head = EmotionHead(6, 8, hidden=200, dropout=0.75)
    pooled = torch.randn(2, 6)
    n_zeros_training = (head.train()(pooled)[1] == 0).sum().item()
    n_zeros_eval = (head.eval()(pooled)[1] == 0).sum().item()
    # ReLU after a norm zeroes about half of 400; dropout three quarters of the rest: 350.
    assert 160 <= n_zeros_eval <= 240
    assert 320 <= n_zeros_training <= 380


def test_linear_probe_has_no_dropout():
    head = EmotionHead(3, 8, hidden=0).train()
    pooled = torch.randn(2, 3)
    assert torch.equal(head(pooled)[1], pooled)


def test_head_keeps_float32_under_autocast():
    torch.manual_seed(0)
    head, pooled = EmotionHead(6, 8, hidden=5).eval(), torch.randn(4, 6).bfloat16()
    expected = head(pooled.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = head(pooled)
    assert ours[0].dtype == ours[1].dtype == torch.float32
    assert torch.equal(ours[0], expected[0])
    assert torch.equal(ours[1], expected[1])


def test_head_in_half_precision_takes_float32_vectors():
    logits, _ = EmotionHead(6, 8, hidden=5).bfloat16()(torch.randn(4, 6))
    assert logits.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_inputs": 0}, r"n_inputs=0.*at least 1 input"),
        ({"n_classes": 1}, r"n_classes=1.*2 classes"),
        ({"hidden": -1}, r"hidden=-1.*0 hidden units"),
        ({"dropout": 1.0}, r"dropout is 1.0, expected a share in \[0, 1\)"),
        ({"dropout": -0.1}, r"dropout is -0.1"),
    ],
    ids=str,
)
def test_value_out_of_range_raises(options, message):
    with pytest.raises(BadValueError, match=message):
        EmotionHead(**{"n_inputs": 6, "n_classes": 8, **options})


def test_unknown_norm_or_activation_raises():
    with pytest.raises(UnknownNameError, match=r"Unknown norm 'batch'. Known: layer, none"):
        EmotionHead(6, 8, norm="batch")
    with pytest.raises(UnknownNameError, match=r"Unknown activation 'relo'.*'relu'.*gelu, relu"):
        EmotionHead(6, 8, activation="relo")
