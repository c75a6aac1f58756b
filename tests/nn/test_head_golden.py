"""Heads alone, and behind norm and pooling, against published numbers (tests/golden/README.md)."""

import numpy as np
import pytest
import torch
from golden_set import CLASSES, CONFIG, classifier_of, golden
from torch import nn, tensor

from abhinaya.nn.head import EmotionHead
from abhinaya.nn.losses.build import LossConfig, build_loss
from abhinaya.nn.pooling import AttentiveStatisticsPooling

pytestmark = pytest.mark.parity

WEIGHTS, COUNTS = tuple(CONFIG["class_weights"]), CONFIG["class_counts"]


class NormPoolHead(nn.Module):
    """What stands on the language model of the published S2, ST1 and T2, under their names."""

    def __init__(self, checkpoint):
        """Take the checkpoint's keys outside the language model, every one of them used."""
        super().__init__()
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        state = {k: v for k, v in state.items() if not k.startswith(("llama.", "salmonn_model."))}
        renamed = {f"head.{k}" if k.startswith(("fc.", "out.")) else k: v for k, v in state.items()}
        assert len(renamed) == 9
        n_features, n_hidden = len(state["ln.weight"]), len(state["fc.bias"])
        self.ln = nn.LayerNorm(n_features)
        self.pool = AttentiveStatisticsPooling(n_features)
        self.head = EmotionHead(self.pool.output_size, len(CLASSES), hidden=n_hidden, norm="none")
        self.load_state_dict(renamed, strict=True)
        self.eval()


def test_s1_head_matches_published():
    arrays = golden("s1_head")
    n_hidden, n_features = arrays["fc_weight"].shape
    head = EmotionHead(n_features, len(arrays["out_bias"]), hidden=n_hidden).eval()
    state = {key: tensor(arrays[key.replace(".", "_")]) for key in head.state_dict()}
    assert len(state) == 6
    head.load_state_dict(state, strict=True)
    ours, _ = head(tensor(arrays["pooled"]))
    np.testing.assert_allclose(ours.detach().numpy(), arrays["logits"], rtol=1e-5, atol=1e-6)


def run(model, arrays, hidden, mask, loss_config):
    pooled = model.pool(model.ln(tensor(arrays[hidden])), mask)
    logits, _ = model.head(pooled)
    loss = build_loss(loss_config, COUNTS)(logits, tensor(arrays["labels_cls"]))
    loss.backward()
    return pooled.detach().numpy(), logits.detach().numpy(), loss.item()


def assert_gradients_match(model, arrays, prefix):
    """Gradients of all golden keys that stand above the language model; returns how many."""
    parameters = {k.removeprefix("head."): v for k, v in model.named_parameters()}
    keys = [k for k in arrays if k.startswith(prefix) and k.removeprefix(prefix) in parameters]
    for key in keys:
        ours = parameters[key.removeprefix(prefix)].grad.numpy()
        np.testing.assert_allclose(ours, arrays[key], rtol=1e-4, atol=1e-6)
    return len(keys)


def test_t2_from_hidden_states_to_loss_and_gradients_matches_published():
    arrays = golden("t2")
    model = NormPoolHead(classifier_of("t2"))
    mask = tensor(arrays["attention_mask"]).bool()
    config = LossConfig(name="vector-scaling", class_weights=WEIGHTS)
    pooled, logits, loss = run(model, arrays, "last_hidden", mask, config)
    np.testing.assert_allclose(pooled, arrays["pooled"], rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(logits, arrays["logits"], rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(loss, arrays["loss_vs"], rtol=1e-5)
    assert assert_gradients_match(model, arrays, "grad/") == 3


@pytest.mark.parametrize(
    ("broadcast_compat", "loss_key", "prefix"),
    [(True, "loss_published", "grad/"), (False, "loss_fixed", "grad_fixed/")],
)
def test_s2_from_hidden_states_to_loss_and_gradients_matches_published(
    broadcast_compat, loss_key, prefix
):
    arrays = golden("s2")
    model = NormPoolHead(classifier_of("s2"))
    config = LossConfig(name="focal", class_weights=WEIGHTS, broadcast_compat=broadcast_compat)
    # The published pooling counts padding too, so there is no mask.
    pooled, logits, loss = run(model, arrays, "batch_last_hidden", None, config)
    np.testing.assert_allclose(pooled, arrays["batch_pooled"], rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(logits, arrays["batch_logits"], rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(loss, arrays[loss_key], rtol=1e-5)
    assert assert_gradients_match(model, arrays, prefix) == 6
