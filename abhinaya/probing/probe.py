"""The weighted-sum probe of SUPERB, many runs trained together as one batched model.

Yang et al., "SUPERB: Speech processing Universal PERformance Benchmark", 2021, arXiv:2105.01051,
section 3. Hidden states are standardised per layer and feature with training statistics, summed
with softmax weights, and classified by one linear layer, or by linear, ReLU, linear.

Each run has its own rows, seed, initial weights and order of rows, all drawn from its seed alone,
so a run ends the same whatever it is trained together with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from abhinaya.config import Config
from abhinaya.errors import BadValueError

__all__ = ["Probe", "ProbeRun", "ProbeSettings", "predict", "train_probes"]

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

_MAX_VALUES = 2**28
"""Standardised numbers that runs trained together hold: 1 GiB."""


class ProbeSettings(Config):
    """How probes are trained."""

    hidden: Literal[0, 256] = 0
    """Width of a hidden layer with ReLU; 0 for one linear layer alone."""
    layers: Literal["weighted", "mean", "last"] = "weighted"
    """How layers become one: by softmax weights that are learned, their mean, or the last alone."""
    standardize: bool = True
    """Subtract mean and divide by deviation of the training rows, per layer and feature."""
    learning_rate: PositiveFloat = 1e-3
    """Of Adam."""
    weight_decay: NonNegativeFloat = 1e-4
    """Of Adam, on every parameter."""
    batch_size: PositiveInt = 128
    """Rows per step; the last batch of an epoch may be smaller."""
    epochs: PositiveInt = 200
    """Passes over the training rows; the last one's weights count."""


@dataclass(frozen=True, eq=False)
class Probe:
    """A trained probe, as numbers.

    Args:
        settings: how it was trained.
        mean: of the training rows, shape (L, D).
        scale: their standard deviation, 1 where a feature never moves, shape (L, D).
        weights: the parameters by name, without the axis of runs.
    """

    settings: ProbeSettings
    mean: FloatArray
    scale: FloatArray
    weights: dict[str, Tensor] = field(repr=False)

    @property
    def layer_weights(self) -> FloatArray:
        """Return the share of each layer, shape (L,)."""
        shares = _layer_weights(self.weights["layers"][None], self.settings)[0]
        return np.asarray(shares.numpy())

    def represent(self, features: FloatArray) -> FloatArray:
        """Return the standardised, summed layers (N, D) of features (N, L, D)."""
        return np.asarray(
            np.einsum("l,nld->nd", self.layer_weights, (features - self.mean) / self.scale),
            dtype=np.float32,
        )


@dataclass(frozen=True, eq=False)
class ProbeRun:
    """One probe to train.

    Args:
        features: of all rows, shape (N, L, D).
        labels: class index of each row, shape (N,).
        train: rows to train on.
        seed: of initial weights and of the order of rows.
        n_classes: K.
        start: a trained probe to go on from, with its statistics; None starts anew.
    """

    features: FloatArray
    labels: IntArray
    train: IntArray
    seed: int
    n_classes: int
    start: Probe | None = None


def train_probes(runs: Sequence[ProbeRun], settings: ProbeSettings) -> list[Probe]:
    """Train probes; those of equal shape and as many steps per epoch are one batched model.

    Args:
        runs: what to train.
        settings: how.

    Raises:
        BadValueError: if a run has a class without training rows, and does not go on from another.
    """
    for run in runs:
        absent = set(range(run.n_classes)) - set(run.labels[run.train].tolist())
        if run.start is None and absent:
            raise BadValueError(
                f"A probe cannot learn class {min(absent)}: none of its {len(run.train)} training "
                "rows has it. Leave the class out, or give more rows."
            )
    probes: list[Probe | None] = [None] * len(runs)
    order = sorted(range(len(runs)), key=lambda idx: _shape(runs[idx], settings))
    for _, group in groupby(order, key=lambda idx: _shape(runs[idx], settings)):
        for chunk in _chunks(list(group), runs):
            for idx, probe in zip(chunk, _train([runs[i] for i in chunk], settings), strict=True):
                probes[idx] = probe
    return [probe for probe in probes if probe is not None]


def predict(probe: Probe, features: FloatArray) -> IntArray:
    """Return the likeliest class of each row of features (N, L, D)."""
    with torch.inference_mode():
        mixed = torch.from_numpy(probe.represent(features))[None]
        logits = _head({name: value[None] for name, value in probe.weights.items()}, mixed)
    return np.asarray(logits[0].argmax(dim=1).numpy())


def _shape(run: ProbeRun, settings: ProbeSettings) -> tuple[int, ...]:
    n_steps = -(-len(run.train) // settings.batch_size)
    return (*run.features.shape[1:], run.n_classes, n_steps, run.start is None)


def _chunks(group: list[int], runs: Sequence[ProbeRun]) -> list[list[int]]:
    """Cut a group so that the training rows of each piece fit into memory."""
    chunks: list[list[int]] = [[]]
    n_values = 0
    for idx in group:
        size = runs[idx].train.size * int(np.prod(runs[idx].features.shape[1:]))
        if chunks[-1] and n_values + size > _MAX_VALUES:
            chunks.append([])
            n_values = 0
        chunks[-1].append(idx)
        n_values += size
    return chunks


def _train(runs: Sequence[ProbeRun], settings: ProbeSettings) -> list[Probe]:
    """Train runs of one shape; axis 0 of everything is the run, S in the comments."""
    rows = [_standardize(run, settings) for run in runs]
    n_rows = np.array([len(run.train) for run in runs])
    longest, n_runs = int(n_rows.max()), len(runs)
    _, n_layers, n_features = rows[0][0].shape
    table = torch.zeros(n_runs, longest, n_layers, n_features)
    targets = torch.zeros(n_runs, longest, dtype=torch.long)
    for s, (run, (values, _, _)) in enumerate(zip(runs, rows, strict=True)):
        table[s, : len(values)] = torch.from_numpy(values)
        targets[s, : len(values)] = torch.from_numpy(run.labels[run.train])
    # One layer, or their mean, is mixed before training: nothing of that is learned.
    if settings.layers != "weighted":
        fixed = _layer_weights(torch.zeros(1, n_layers), settings)[0]
        table = torch.einsum("l,snld->snd", fixed, table).unsqueeze(2)
    generators = [torch.Generator().manual_seed(run.seed) for run in runs]
    weights = _initial(runs, generators, n_layers, n_features, settings)
    optimizer = torch.optim.Adam(
        weights.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    which = torch.arange(n_runs)[:, None]
    for _ in range(settings.epochs):
        order = torch.full((n_runs, longest), -1)
        for s, generator in enumerate(generators):
            order[s, : n_rows[s]] = torch.randperm(int(n_rows[s]), generator=generator)
        for batch in torch.split(order, settings.batch_size, dim=1):
            real = batch >= 0
            chosen = batch.clamp_min(0)
            states, truth = table[which, chosen], targets[which, chosen]  # (S, B, L, D), (S, B)
            logits = _head(weights, _mix(weights["layers"], states, settings))
            losses = F.cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="none")
            shares = real / real.sum(dim=1, keepdim=True)  # each run's own mean
            loss = (losses.view_as(truth) * shares).sum()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    return [
        Probe(settings, mean, scale, {name: w[s].detach().clone() for name, w in weights.items()})
        for s, (_, mean, scale) in enumerate(rows)
    ]


def _standardize(
    run: ProbeRun, settings: ProbeSettings
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return standardised training rows, and mean and scale (L, D)."""
    rows = run.features[run.train]
    mean, scale = np.zeros(rows.shape[1:]), np.ones(rows.shape[1:])
    if run.start is not None:
        return (rows - run.start.mean) / run.start.scale, run.start.mean, run.start.scale
    if settings.standardize:
        exact = rows.astype(np.float64)
        mean, deviation = exact.mean(0), exact.std(0)
        scale = np.where(deviation > 1e-8 * (1 + np.abs(mean)), deviation, 1.0)
    mean32, scale32 = mean.astype(np.float32), scale.astype(np.float32)
    return (rows - mean32) / scale32, mean32, scale32


def _initial(
    runs: Sequence[ProbeRun],
    generators: Sequence[torch.Generator],
    n_layers: int,
    n_features: int,
    settings: ProbeSettings,
) -> dict[str, Tensor]:
    """Return parameters: equal layers, and linear layers as torch draws them, from each seed."""
    widths = [n_features, *([settings.hidden] if settings.hidden else []), runs[0].n_classes]
    each: list[dict[str, Tensor]] = []
    for run, generator in zip(runs, generators, strict=True):
        own: dict[str, Tensor] = {"layers": torch.zeros(n_layers)}
        for depth, (n_in, n_out) in enumerate(pairwise(widths)):
            bound = n_in**-0.5
            for name, shape in (("weight", (n_in, n_out)), ("bias", (n_out,))):
                drawn = torch.empty(shape).uniform_(-bound, bound, generator=generator)
                own[f"{name}{depth}"] = drawn
        each.append(own if run.start is None else run.start.weights)
    return {name: torch.stack([own[name] for own in each]).requires_grad_() for name in each[0]}


def _layer_weights(logits: Tensor, settings: ProbeSettings) -> Tensor:
    """Return the share of each layer, shape (S, L)."""
    if settings.layers == "weighted":
        return logits.softmax(dim=1)
    if settings.layers == "mean":
        return torch.full_like(logits, 1 / logits.shape[1])
    return F.one_hot(torch.full(logits.shape[:1], logits.shape[1] - 1), logits.shape[1]).float()


def _mix(logits: Tensor, states: Tensor, settings: ProbeSettings) -> Tensor:
    """Sum the layers of states (S, B, L, D), shape (S, B, D)."""
    if states.shape[2] == 1:
        return states[:, :, 0]
    n_runs, n_rows, n_layers, _ = states.shape
    shares = _layer_weights(logits, settings)[:, None, None].expand(n_runs, n_rows, 1, n_layers)
    return (shares @ states).squeeze(2)


def _head(weights: dict[str, Any], mixed: Tensor) -> Tensor:
    """Return logits (S, B, K) of mixed layers (S, B, D)."""
    logits = torch.baddbmm(weights["bias0"][:, None], mixed, weights["weight0"])
    if "weight1" in weights:
        logits = torch.baddbmm(weights["bias1"][:, None], logits.relu(), weights["weight1"])
    return logits
