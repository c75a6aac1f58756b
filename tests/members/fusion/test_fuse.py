"""The small transformers and how they meet, against plain loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from members.fusion.fuse import CrossFusion, DeepFusion

N_INPUTS = (6, 3)
SIZES = {"width": 4, "n_layers": 2, "n_heads": 1, "feed_forward": 5, "dropout": 0.0}
LENGTHS = ((5, 2, 7), (3, 9, 1))
"""Frames of three utterances for each of two legs."""


@pytest.fixture(params=[DeepFusion, CrossFusion])
def fusion(request: pytest.FixtureRequest) -> Any:
    return make(request.param)


def make(kind: Any, **changes: Any) -> Any:
    torch.manual_seed(0)
    return kind(N_INPUTS, **SIZES | changes).eval()


def clips() -> list[list[Tensor]]:
    """The frames of each utterance, leg by leg."""
    generator = torch.Generator().manual_seed(1)
    return [
        [torch.randn(n, width, generator=generator) for n in lengths]
        for width, lengths in zip(N_INPUTS, LENGTHS, strict=True)
    ]


def batch(legs: list[list[Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """Padded frames and masks of each leg; the padding is absurd."""
    frames = [nn.utils.rnn.pad_sequence(leg, batch_first=True, padding_value=1e6) for leg in legs]
    masks = [
        torch.arange(max(map(len, leg))) < torch.tensor([[len(clip)] for clip in leg])
        for leg in legs
    ]
    return frames, masks


def attend(module: nn.MultiheadAttention, queries: Tensor, keys: Tensor) -> Tensor:
    """One head, frame by frame: softmax(q . k / sqrt(D)) v."""
    w_q, w_k, w_v = module.in_proj_weight.chunk(3)
    b_q, b_k, b_v = module.in_proj_bias.chunk(3)
    rows = []
    for query in queries:
        q = w_q @ query + b_q
        scores = torch.stack([q @ (w_k @ key + b_k) / math.sqrt(len(q)) for key in keys])
        values = torch.stack([w_v @ key + b_v for key in keys])
        rows.append(module.out_proj(scores.softmax(0) @ values))
    return torch.stack(rows)


def feed(layer: Any, x: Tensor) -> Tensor:
    return layer.linear2(F.gelu(layer.linear1(x)))


def test_deep_fusion_is_what_its_formula_says() -> None:
    ours, legs = make(DeepFusion), clips()
    fused = ours(*batch(legs))
    for row in range(3):
        hidden = [ours.projections[leg](legs[leg][row]) for leg in range(2)]
        f = ours.joins[0](torch.cat([h.mean(0) for h in hidden]))
        for depth in range(2):
            for leg in range(2):
                layer, x = ours.legs[leg][depth], hidden[leg]
                x = x + attend(layer.self_attn, layer.norm1(x), layer.norm1(x))
                hidden[leg] = x + feed(layer, layer.norm2(x))
            f = ours.joins[depth + 1](torch.cat([f, *(h.mean(0) for h in hidden)]))
        torch.testing.assert_close(fused[row], f, atol=1e-5, rtol=1e-5)


def test_cross_fusion_attends_to_the_frames_of_the_other_leg() -> None:
    ours, legs = make(CrossFusion), clips()
    fused = ours(*batch(legs))
    for row in range(3):
        hidden = [ours.projections[leg](legs[leg][row]) for leg in range(2)]
        for depth in range(2):
            before = list(hidden)
            for leg in range(2):
                layer, x = ours.legs[leg][depth], before[leg]
                x = x + attend(layer.self_attn, layer.norm1(x), layer.norm1(x))
                x = x + attend(layer.multihead_attn, layer.norm2(x), before[1 - leg])
                hidden[leg] = x + feed(layer, layer.norm3(x))
        theirs = torch.cat([h.mean(0) for h in hidden])
        torch.testing.assert_close(fused[row], theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_heads", [1, 2])
def test_utterance_alone_has_the_vector_that_it_has_in_a_batch(fusion: Any, n_heads: int) -> None:
    """With an even number of heads torch takes another way through a layer in evaluation."""
    ours, legs = make(type(fusion), n_heads=n_heads), clips()
    with torch.no_grad():
        together = ours(*batch(legs))
        for row in range(3):
            alone = ours(*batch([[leg[row]] for leg in legs]))
            torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)


def test_every_parameter_of_every_leg_learns(fusion: Any) -> None:
    fusion(*batch(clips())).square().sum().backward()
    without = [n for n, p in fusion.named_parameters() if p.grad is None or not p.grad.any()]
    # The keys' bias moves all scores of a query alike, which softmax cancels: its third is noise.
    assert without == []


def test_widths_of_the_results() -> None:
    frames, masks = batch(clips())
    for kind, width in ((DeepFusion, 4), (CrossFusion, 8)):
        ours = make(kind)
        assert ours.n_features == width
        assert ours(frames, masks).shape == (3, width)
