"""Encodings, schedules and samplers of Gen-SER, against autograd, SciPy and numbers by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from abhinaya.errors import BadValueError
from members.gen_ser.transport import Bridge, sample, taxonomy

BRIDGE = Bridge(slope=10, sigma_max=0.5, t_min=0.03, t_max=0.97)
TIMES = torch.linspace(0.03, 0.97, 21, dtype=torch.float64)


@pytest.mark.parametrize(("n_classes", "n_features"), [(2, 5), (8, 17), (8, 1024), (7, 384)])
def test_encodings_are_orthogonal_and_of_norm_root_of_half_the_width(n_classes, n_features):
    codes = taxonomy(n_classes, n_features).double()
    expected = n_features / 2 * torch.eye(n_classes, dtype=torch.float64)
    torch.testing.assert_close(codes @ codes.T, expected, atol=1e-4, rtol=0)


def test_encoding_of_the_first_class_is_one_turn_of_the_sine():
    first, second = taxonomy(2, 8)
    half = math.sqrt(0.5)
    torch.testing.assert_close(first, torch.tensor([0, half, 1, half, 0, -half, -1, -half]))
    torch.testing.assert_close(second, torch.tensor([0.0, 1, 0, -1, 0, 1, 0, -1]))


def test_one_class_raises():
    with pytest.raises(BadValueError, match="n_classes=1, expected at least 2"):
        taxonomy(1, 64)


@pytest.mark.parametrize("n_features", [8, 15, 16])
def test_width_too_small_for_the_classes_raises(n_features):
    message = f"8 classes need encodings of at least 17 numbers, but .* have {n_features}"
    with pytest.raises(BadValueError, match=message):
        taxonomy(8, n_features)


def derivative(function: Callable[[Tensor], Tensor]) -> Tensor:
    times = TIMES.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(function(times).sum(), times)
    return slopes


def test_slopes_of_the_schedules_are_those_of_autograd():
    torch.testing.assert_close(BRIDGE.share_slope(TIMES), derivative(BRIDGE.share))
    logs = derivative(lambda t: BRIDGE.deviation(t).log())
    torch.testing.assert_close(BRIDGE.log_deviation_slope(TIMES), logs)


def test_schedules_by_hand():
    middle = torch.tensor(0.5)
    assert BRIDGE.share(middle) == 0.5
    assert BRIDGE.share_slope(middle) == 2.5  # k / 4
    assert BRIDGE.deviation(middle) == 0.25  # sigma_max / 2
    assert BRIDGE.log_deviation_slope(middle) == 0
    # 1 / (1 + e^4.7) of the other end is left at either end.
    ends = BRIDGE.share(torch.tensor([0.03, 0.97]))
    torch.testing.assert_close(ends, torch.tensor([0.009013, 0.990987]), atol=1e-6, rtol=0)


def test_velocity_is_how_a_point_moves_that_keeps_its_noise():
    code, features, noise = torch.randn(3, 4, 6, dtype=torch.float64)

    def path(t: Tensor) -> Tensor:
        return BRIDGE.mean(code, features, t) + BRIDGE.deviation(t) * noise

    time = torch.tensor(0.3, dtype=torch.float64)
    moved = torch.autograd.functional.jacobian(path, time)
    ours = BRIDGE.velocity(path(time), code, features, time)
    torch.testing.assert_close(ours, moved)


def travel(method: str, n_steps: int, noise: Tensor | None = None) -> tuple[Tensor, Tensor, int]:
    """Where the sampler ends for an estimate that stays, what it estimates, and how often."""
    rng = torch.Generator().manual_seed(0)
    code, features = torch.randn(2, 3, 5, generator=rng)
    points: list[Tensor] = []

    def estimate(x: Tensor, t: Tensor) -> Tensor:
        points.append(x)
        return code

    options: dict[str, Any] = {"n_steps": n_steps, "method": method, "noise": noise}
    assert sample(estimate, features, BRIDGE, **options) is code
    return points[-1], BRIDGE.mean(code, features, torch.tensor(0.03)), len(points)


def solution() -> Tensor:
    """The end of the same way, by SciPy."""
    rng = torch.Generator().manual_seed(0)
    code, features = torch.randn(2, 3, 5, generator=rng).double()

    def slope(time: float, x: Any) -> Any:
        place = torch.from_numpy(x).reshape(code.shape)
        return BRIDGE.velocity(place, code, features, torch.tensor(time).double()).flatten()

    solved = solve_ivp(slope, (0.97, 0.03), features.flatten(), rtol=1e-9, atol=1e-9)
    return torch.from_numpy(solved.y[:, -1]).reshape(code.shape)


@pytest.mark.parametrize("n_steps", [1, 2, 10])
def test_exact_step_solves_the_equation_in_one_or_many_steps(n_steps):
    ours, _, n_calls = travel("exact", n_steps)
    assert n_calls == n_steps + 1
    torch.testing.assert_close(ours.double(), solution(), atol=1e-5, rtol=0)


def test_euler_overshoots_with_one_step_and_comes_close_with_many():
    errors = []
    for n_steps in (1, 10, 1000):
        ours, _, n_calls = travel("euler", n_steps)
        assert n_calls == n_steps + 1
        errors.append(float((ours.double() - solution()).abs().max()))
    assert errors[0] > 0.3 > 0.1 > errors[1] > errors[2]
    assert errors[2] < 0.01


def test_exact_step_keeps_the_noise_of_a_noisy_start():
    noise = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    still, moved = travel("exact", 4)[0], travel("exact", 4, noise)[0]
    # The deviations of the two ends are equal, so what is added comes through.
    added = BRIDGE.deviation(torch.tensor(0.97)) * noise
    torch.testing.assert_close(moved - still, added, atol=1e-5, rtol=0)
    assert np.isclose(float(BRIDGE.deviation(torch.tensor(0.97))), 0.5 * math.sqrt(0.97 * 0.03))
