"""Mixed vectors and losses by hand, and only in training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.nn.head import EmotionHead
from abhinaya.nn.losses.build import LossConfig, build_loss
from abhinaya.nn.losses.manifold import Mix, draw_mix
from abhinaya.nn.recipe.mixing import ManifoldMixing


class _Through(nn.Module):
    """A backbone, or a pooling, that gives what it gets."""

    def forward(self, inputs, mask=None):
        return (inputs["vectors"], None) if isinstance(inputs, dict) else inputs


def test_vectors_and_losses_by_hand():
    mix = Mix(0.75, torch.tensor([1, 0, 2]))
    pooled = torch.tensor([[4.0, 0.0], [0.0, 8.0], [1.0, 1.0]])
    # .75 of the row, .25 of its partner; the last one is its own partner.
    assert mix.vectors(pooled).tolist() == [[3, 2], [1, 6], [1, 1]]
    heard = []

    def loss(logits, labels):
        heard.append(labels.tolist())
        return labels.float().mean() + logits.sum()

    # .75 * (0 + 4 + 5) / 3 + .25 * (4 + 0 + 5) / 3 = 3, and logits that sum to 0.
    assert mix.loss(loss, torch.zeros(3, 2), torch.tensor([0, 4, 5])).item() == 3
    assert heard == [[0, 4, 5], [4, 0, 5]]


@pytest.mark.parametrize("name", ["cross-entropy", "focal", "vector-scaling", "kl-divergence"])
def test_classifier_mixes_in_training_alone_with_every_loss(name):
    torch.manual_seed(0)
    loss = build_loss(LossConfig(name=name), [5, 3, 2])
    head, mixing = EmotionHead(4, 3, hidden=0), ManifoldMixing(probability=1)
    model = EmotionClassifier(_Through(), _Through(), head, loss, manifold=mixing)
    inputs = {"vectors": torch.randn(6, 4)}
    labels = torch.arange(6) % 3
    targets = torch.eye(3)[labels] if name == "kl-divergence" else labels
    torch.manual_seed(5)
    mixed = model(inputs, targets)
    torch.manual_seed(5)
    mix = draw_mix(mixing, 6)
    assert mix is not None
    logits, _ = head(mix.vectors(inputs["vectors"]))
    torch.testing.assert_close(mixed.logits, logits)
    torch.testing.assert_close(mixed.loss, mix.loss(loss, logits, targets))
    plain = EmotionClassifier(_Through(), _Through(), head, loss)(inputs, targets)
    assert not torch.equal(mixed.logits, plain.logits)
    before = torch.get_rng_state()
    torch.testing.assert_close(model.eval()(inputs, targets).loss, plain.loss)
    torch.testing.assert_close(model.train()(inputs).logits, plain.logits)
    assert torch.equal(torch.get_rng_state(), before)  # then nothing is drawn


def test_shares_are_those_of_beta_and_batches_as_frequent_as_wished():
    torch.manual_seed(0)
    drawn = [draw_mix(ManifoldMixing(), 4) for _ in range(3_000)]
    shares = torch.tensor([mix.share for mix in drawn if mix])
    assert len(shares) == pytest.approx(900, abs=100)  # four standard deviations
    # Beta(a, a) has the variance 1 / (4 (2 a + 1)) = .1786 at a = .2, and the mean .5.
    assert shares.mean().item() == pytest.approx(0.5, abs=0.06)
    assert shares.var().item() == pytest.approx(0.1786, abs=0.02)
    assert sorted(drawn[0].partners.tolist() if drawn[0] else range(4)) == [0, 1, 2, 3]
