"""The network of Gen-SER: what the time does to it, and that it learns a transport."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from abhinaya.errors import BadValueError
from members.gen_ser.estimator import AdaptiveNorm, Estimator
from members.gen_ser.transport import Bridge, sample, taxonomy

WIDTH, DEVIATION = 16, 0.3


def test_norm_is_plain_at_first_and_then_scaled_by_the_time():
    norm = AdaptiveNorm(2)
    x, time = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]])
    plain = x / (12.5**0.5)  # the root of the mean square
    torch.testing.assert_close(norm(x, time), plain)
    norm.scale.weight.data[:, 0] = torch.tensor([1.0, -0.5])
    torch.testing.assert_close(norm(x, time), plain * torch.tensor([2.0, 0.5]))


def test_one_time_for_all_rows_is_that_time_for_each():
    torch.manual_seed(0)
    network = Estimator(WIDTH, n_layers=2, n_heads=4).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, condition = torch.randn(2, 3, WIDTH)
    together = network(x, condition, torch.tensor(0.4))
    torch.testing.assert_close(together, network(x, condition, torch.full((3, 1), 0.4)))
    others = [network(x, condition, torch.tensor(0.5)), network(x, -condition, torch.tensor(0.4))]
    for other in others:
        assert (other - together).abs().max() > 0.01


def test_heads_that_do_not_divide_the_width_raise():
    with pytest.raises(BadValueError, match=r"estimator.n_heads is 16, .* the width 24"):
        Estimator(24, n_layers=1, n_heads=16)


def draw_moons(n: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Points around two half circles that reach into each other, and whose they are."""
    truth = rng.integers(2, size=n)
    points = moons(rng.uniform(0, np.pi, n))[truth, np.arange(n)]
    return points + rng.normal(0, DEVIATION, points.shape), truth


def moons(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    upper = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.stack([upper, [1, 0.5] - upper])


def posterior(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability of each moon, the density of either being a sum over its half circle."""
    arcs = moons(np.linspace(0, np.pi, 400))
    squares = ((points[None, :, None] - arcs[:, None]) ** 2).sum(axis=3)
    densities = np.exp(-squares / (2 * DEVIATION**2)).mean(axis=2).T
    return densities / densities.sum(axis=1, keepdims=True)


@pytest.mark.slow
def test_estimator_reaches_the_class_optimum_on_two_moons():
    """Nobody can tell all points apart; the best possible rule is known and is nearly reached."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    plane = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0][:2] * (WIDTH / 2) ** 0.5

    def embed(points: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(points @ plane).float()

    codes, bridge = taxonomy(2, WIDTH), Bridge(slope=10, sigma_max=0.5, t_min=0.03, t_max=0.97)
    network = Estimator(WIDTH, n_layers=1, n_heads=16)
    n_steps, n_rows = 400, 128
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    for _ in range(n_steps):
        points, truth = draw_moons(n_rows, rng)
        features, targets = embed(points), codes[torch.from_numpy(truth)]
        t = bridge.t_min + (bridge.t_max - bridge.t_min) * torch.rand(n_rows, 1)
        noise = torch.randn(n_rows, WIDTH)
        x = bridge.mean(targets, features, t) + bridge.deviation(t) * noise
        optimizer.zero_grad()
        F.mse_loss(network(x, features, t), targets).backward()
        optimizer.step()
        schedule.step()

    points, truth = draw_moons(4000, rng)
    features, best = embed(points), posterior(points)
    optimum = (best.argmax(axis=1) == truth).mean()
    assert 0.88 < optimum < 0.94  # so there is something to miss
    with torch.no_grad():
        # Where it starts, nothing tells the class but the features: the mean of the encodings.
        first = network(features, features, torch.tensor(0.97))
        expected = torch.from_numpy(best).float() @ codes
        assert F.mse_loss(first, expected) < 0.02 * codes.square().mean()
        ways: list[tuple[Literal["exact", "euler"], int]]
        ways = [("exact", 1), ("exact", 4), ("exact", 20), ("euler", 4), ("euler", 20)]
        for method, steps in ways:
            found = sample(
                lambda x, t: network(x, features, t),
                features,
                bridge,
                n_steps=steps,
                method=method,
            )
            nearest = F.normalize(found, dim=1) @ F.normalize(codes, dim=1).T
            accuracy = (nearest.argmax(dim=1).numpy() == truth).mean()
            assert accuracy > optimum - 0.015, (method, steps)
