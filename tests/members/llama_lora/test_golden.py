"""T2 against the published code's numbers (tests/golden/README.md), within its tolerances."""

from __future__ import annotations

import llama_golden as G
import numpy as np
import pytest
import torch

from members.llama_lora.weights import read_classifier

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return G.make_config(tmp_path_factory.mktemp("t2"))


@pytest.fixture(scope="module")
def model(config):
    return G.load_classifier(config)


@pytest.fixture(scope="module")
def numbers():
    return G.golden()


def test_token_ids_match_published(config, numbers):
    assert len(G.TOKENS["ids"]) == len(G.TOKENS["texts"]) == len(numbers["logits"])
    assert G.TOKENS["suffix"] == config.suffix
    for row, (text, expected) in enumerate(zip(G.TOKENS["texts"], G.TOKENS["ids"], strict=True)):
        alone = G.batch_of(config, text)
        assert alone["input_ids"].tolist() == [expected]
        np.testing.assert_array_equal(alone["input_ids"], numbers[f"single{row}_ids"])
        assert alone["mask"].all()


def test_padded_batch_matches_published(config, numbers):
    batch = G.batch_of(config, *G.TOKENS["texts"])
    np.testing.assert_array_equal(batch["input_ids"], numbers["input_ids"])
    np.testing.assert_array_equal(batch["mask"].long(), numbers["attention_mask"])


@torch.no_grad()
def test_hidden_states_pooled_and_logits_match_published(config, model, numbers):
    batch = G.batch_of(config, *G.TOKENS["texts"])
    states, mask = model.backbone.forward_pretrained(**batch)
    normed, _ = model.backbone(batch)
    pooled = model.pooling(normed, mask)
    logits = model.head(pooled)[0]
    hidden = states.squeeze(1).numpy()
    # Padded positions too: they are hidden as keys, so nothing else can have come in.
    np.testing.assert_allclose(hidden, numbers["last_hidden"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(pooled.numpy(), numbers["pooled"], atol=5e-4, rtol=0)
    np.testing.assert_allclose(logits.numpy(), numbers["logits"], atol=2e-5, rtol=0)
    # Without the adapters it is another model: the comparison would notice.
    assert np.ptp(numbers["logits"], axis=0).max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("row", range(len(G.TOKENS["texts"])))
def test_single_texts_match_published(config, model, numbers, row):
    logits = model(G.batch_of(config, G.TOKENS["texts"][row])).logits
    np.testing.assert_allclose(logits.numpy(), numbers[f"single{row}_logits"], atol=2e-5, rtol=0)


def test_loss_and_gradients_match_published(config, model, numbers):
    """The published loss divides by the weights of the rows."""
    assert config.loss.reduction == "weight-normalised"
    model.zero_grad()
    labels = torch.from_numpy(numbers["labels_cls"])
    output = model(G.batch_of(config, *G.TOKENS["texts"]), labels)
    output.loss.backward()
    assert output.loss.item() == pytest.approx(float(numbers["loss_vs"]), rel=1e-5)
    # Through the file's own names, so that the mapping is proven as well.
    theirs = torch.load(G.CLASSIFIER, weights_only=True)
    names = dict(zip(theirs, read_classifier(G.CLASSIFIER), strict=True))
    ours = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert set(names.values()) == set(ours)
    keys = [key.removeprefix("grad/") for key in numbers if key.startswith("grad/")]
    assert len(keys) >= 5
    for key in keys:
        gradient = ours[names[key]].numpy()
        np.testing.assert_allclose(
            gradient, numbers[f"grad/{key}"], rtol=2e-3, atol=2e-6, err_msg=key
        )
    # Nothing of the language model but its adapters moves, and they all do.
    trained = {n: p.grad for n, p in model.backbone.encoder.named_parameters() if p.requires_grad}
    assert len(trained) == G.N_ADAPTERS
    assert all("lora_" in name and grad.abs().max() > 0 for name, grad in trained.items())
    model.zero_grad()
