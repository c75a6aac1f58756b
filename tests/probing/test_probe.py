"""Probes on synthetic features with known answers, and one by one against many at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from abhinaya.errors import BadValueError
from abhinaya.probing.probe import ProbeRun, ProbeSettings, predict, train_probes

N_LAYERS, WIDTH, N_CLASSES = 4, 6, 3


def planted(layer: int, *, n_rows: int = 150, seed: int = 0):
    """Features of noise, but that the class stands in one layer."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n_rows) % N_CLASSES)
    values = rng.standard_normal((n_rows, N_LAYERS, WIDTH)).astype(np.float32)
    values[:, layer, :N_CLASSES] += 2 * np.eye(N_CLASSES, dtype=np.float32)[labels]
    return 50 + 10 * values, labels


def run_of(values, labels, n_train: int, seed: int) -> ProbeRun:
    rows = np.random.default_rng(seed).permutation(len(labels))[:n_train]
    return ProbeRun(values, labels, np.sort(rows), seed, N_CLASSES)


def test_the_planted_layer_gets_the_weight():
    for layer in (1, 3):
        values, labels = planted(layer)
        run = run_of(values, labels, 100, seed=1)
        (probe,) = train_probes([run], ProbeSettings(epochs=150, batch_size=50, learning_rate=0.01))
        assert probe.layer_weights.argmax() == layer
        assert probe.layer_weights[layer] > 0.6
        test = np.setdiff1d(np.arange(150), run.train)
        assert (predict(probe, values[test]) == labels[test]).mean() > 0.8


@pytest.mark.parametrize("hidden", [0, 256])
def test_many_runs_end_as_each_alone(hidden):
    """Other rows, numbers of rows, seeds and features in one batch change nothing."""
    settings = ProbeSettings(hidden=hidden, epochs=5, batch_size=32)
    runs = [run_of(*planted(s % 4, seed=s), n_train=90 + s, seed=s) for s in range(5)]
    runs.append(run_of(*planted(0), n_train=40, seed=9))  # fewer steps: another group
    together = train_probes(runs, settings)
    for run, ours in zip(runs, together, strict=True):
        (alone,) = train_probes([run], settings)
        for name, weight in alone.weights.items():
            torch.testing.assert_close(ours.weights[name], weight, atol=1e-6, rtol=1e-5)
        np.testing.assert_array_equal(predict(ours, run.features), predict(alone, run.features))


def test_a_run_is_a_plain_torch_training():
    """Linear layer, softmax of layers, Adam and batches, written out with torch's own modules."""
    values, labels = planted(2)
    run = run_of(values, labels, 70, seed=3)
    settings = ProbeSettings(epochs=4, batch_size=32)
    (ours,) = train_probes([run], settings)

    rows = torch.from_numpy(values[run.train])
    rows = (rows - rows.mean(0)) / rows.std(0, correction=0)
    truth = torch.from_numpy(labels[run.train])
    generator = torch.Generator().manual_seed(3)
    layers, head = nn.Parameter(torch.zeros(N_LAYERS)), nn.Linear(WIDTH, N_CLASSES)
    with torch.no_grad():
        weight = torch.empty(WIDTH, N_CLASSES).uniform_(
            -(WIDTH**-0.5), WIDTH**-0.5, generator=generator
        )
        head.weight.copy_(weight.T)
        head.bias.uniform_(-(WIDTH**-0.5), WIDTH**-0.5, generator=generator)
    optimizer = torch.optim.Adam([layers, *head.parameters()], lr=1e-3, weight_decay=1e-4)
    for _ in range(4):
        for batch in torch.randperm(70, generator=generator).split(32):
            mixed = (layers.softmax(0)[None, :, None] * rows[batch]).sum(1)
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(mixed), truth[batch]).backward()
            optimizer.step()
    theirs = {"layers": layers, "weight0": head.weight.T, "bias0": head.bias}
    for name, weight in theirs.items():
        torch.testing.assert_close(ours.weights[name], weight.detach(), atol=1e-5, rtol=1e-4)


def test_a_probe_goes_on_from_another_with_its_statistics():
    values, labels = planted(1)
    (source,) = train_probes([run_of(values, labels, 100, seed=0)], ProbeSettings(epochs=2))
    few = ProbeRun(values + 5, labels, np.arange(2), 0, N_CLASSES, start=source)
    (further,) = train_probes([few], ProbeSettings(epochs=1))
    np.testing.assert_array_equal(further.mean, source.mean)
    moved = (further.weights["weight0"] - source.weights["weight0"]).abs().max()
    assert 0 < moved < 2e-3  # one step of Adam


@pytest.mark.parametrize(("layers", "expected"), [("mean", [0.25] * 4), ("last", [0, 0, 0, 1])])
def test_layers_can_be_averaged_or_the_last_one_taken(layers, expected):
    values, labels = planted(3)
    settings = ProbeSettings(layers=layers, epochs=100, learning_rate=0.01)
    (probe,) = train_probes([run_of(values, labels, 100, seed=0)], settings)
    np.testing.assert_allclose(probe.layer_weights, expected)
    assert (predict(probe, values) == labels).mean() > 0.45


def test_a_feature_that_never_moves_divides_by_nothing():
    values, labels = planted(0)
    values[:, 2] = 7
    (probe,) = train_probes([run_of(values, labels, 50, seed=0)], ProbeSettings(epochs=1))
    assert (probe.scale[2] == 1).all()
    assert np.isfinite(probe.represent(values)).all()


def test_a_class_without_training_rows_is_refused():
    values, labels = planted(0)
    rows = np.flatnonzero(labels != 1)
    with pytest.raises(BadValueError, match=r"cannot learn class 1: none of its 100 training rows"):
        train_probes([ProbeRun(values, labels, rows, 0, N_CLASSES)], ProbeSettings())
