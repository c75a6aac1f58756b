"""Heads alone, and behind norm and pooling, against published numbers (tests/golden/README.md)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn, tensor

from abhinaya.nn.head import EmotionHead
from abhinaya.nn.losses import LossConfig, build_loss
from abhinaya.nn.pooling import AttentiveStatisticsPooling

pytestmark = pytest.mark.parity

GOLDEN = Path(__file__).parents[1] / "golden"
LOSSES = np.load(GOLDEN / "losses.npz")
WEIGHTS = tuple(LOSSES["class_weights"].tolist())
COUNTS = LOSSES["class_counts"].tolist()


class NormPoolHead(nn.Module):
    """What stands on the language model of the published S2, ST1 and T2, under their names."""

    def __init__(self):
        super().__init__()
        self.ln = nn.LayerNorm(64)
        self.pool = AttentiveStatisticsPooling(64)
        self.head = EmotionHead(self.pool.output_size, 8, hidden=32, norm="none")

    def load(self, checkpoint):
        """The checkpoint's keys outside the language model, every one of them used."""
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        state = {k: v for k, v in state.items() if not k.startswith(("llama.", "salmonn_model."))}
        renamed = {f"head.{k}" if k.startswith(("fc.", "out.")) else k: v for k, v in state.items()}
        assert len(renamed) == 9
        self.load_state_dict(renamed, strict=True)
        return self.eval()


def test_s1_head_matches_published():
    golden = np.load(GOLDEN / "s1_head.npz")
    head = EmotionHead(24, 8, hidden=24).eval()
    state = {key: tensor(golden[key.replace(".", "_")]) for key in head.state_dict()}
    assert len(state) == 6
    head.load_state_dict(state, strict=True)
    ours, _ = head(tensor(golden["pooled"]))
    np.testing.assert_allclose(ours.detach().numpy(), golden["logits"], rtol=1e-5, atol=1e-6)


def run(model, golden, hidden, mask, loss_config):
    pooled = model.pool(model.ln(tensor(golden[hidden])), mask)
    logits, _ = model.head(pooled)
    loss = build_loss(loss_config, COUNTS)(logits, tensor(golden["labels_cls"]))
    loss.backward()
    return pooled.detach().numpy(), logits.detach().numpy(), loss.item()


def assert_gradients_match(model, golden, prefix):
    """Gradients of all golden keys that stand above the language model; returns how many."""
    parameters = {k.removeprefix("head."): v for k, v in model.named_parameters()}
    keys = [k for k in golden if k.startswith(prefix) and k.removeprefix(prefix) in parameters]
    for key in keys:
        ours = parameters[key.removeprefix(prefix)].grad.numpy()
        np.testing.assert_allclose(ours, golden[key], rtol=1e-4, atol=1e-6)
    return len(keys)


def test_t2_from_hidden_states_to_loss_and_gradients_matches_published():
    golden = np.load(GOLDEN / "t2.npz")
    model = NormPoolHead().load(GOLDEN / "t2" / "t2_classifier.pth")
    mask = tensor(golden["attention_mask"]).bool()
    config = LossConfig(name="vector-scaling", class_weights=WEIGHTS)
    pooled, logits, loss = run(model, golden, "last_hidden", mask, config)
    np.testing.assert_allclose(pooled, golden["pooled"], rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(logits, golden["logits"], rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(loss, golden["loss_vs"], rtol=1e-5)
    assert assert_gradients_match(model, golden, "grad/") == 3


@pytest.mark.parametrize(
    ("broadcast_compat", "loss_key", "prefix"),
    [(True, "loss_published", "grad/"), (False, "loss_fixed", "grad_fixed/")],
)
def test_s2_from_hidden_states_to_loss_and_gradients_matches_published(
    broadcast_compat, loss_key, prefix
):
    golden = np.load(GOLDEN / "s2.npz")
    model = NormPoolHead().load(GOLDEN / "s2" / "s2_classifier.pth")
    config = LossConfig(name="focal", class_weights=WEIGHTS, broadcast_compat=broadcast_compat)
    # The published pooling counts padding too, so there is no mask.
    pooled, logits, loss = run(model, golden, "batch_last_hidden", None, config)
    np.testing.assert_allclose(pooled, golden["batch_pooled"], rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(logits, golden["batch_logits"], rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(loss, golden[loss_key], rtol=1e-5)
    assert assert_gradients_match(model, golden, prefix) == 6
