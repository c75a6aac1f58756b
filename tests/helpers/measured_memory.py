"""What a real step holds in memory on the CPU, by PyTorch's own account of what it allocates."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from abhinaya.data.audio import SAMPLE_RATE_HZ
from abhinaya.doctor.memory import is_checkpointed, rows_per_step
from abhinaya.member import Utterance
from abhinaya.nn.build import build_classifier
from abhinaya.registry import load_member

__all__ = ["peak_bytes"]


def peak_bytes(config: Any, *, trains: bool) -> int:
    """The most bytes of a step, or a batch of prediction, beside weights and gradients."""
    member: Any = load_member(config.member)
    model = build_classifier(member, config, 8, [1] * 8).train(trains)
    for module in model.modules():
        if getattr(getattr(module, "config", None), "layerdrop", 0):
            module.config.layerdrop = 0.0
    if trains and is_checkpointed(config.training):
        model.activation_checkpointing_enable()
    n_rows = rows_per_step(config.training) if trains else config.inference.batch_size
    inputs = member.build_inputs(config)
    rng = np.random.default_rng(0)
    waveform = rng.normal(size=round(config.audio.max_audio_s * SAMPLE_RATE_HZ))
    clip = Utterance("clip", waveform.astype("float32"), "so " * 4000)
    batch = inputs.collate([inputs.encode(clip)] * n_rows)
    for value in model.parameters():
        if value.requires_grad:
            value.grad = torch.zeros_like(value)  # counted with the optimizer

    def step() -> None:
        bf16 = config.training.arguments.get("bf16", False)
        with torch.set_grad_enabled(trains), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = model(batch, torch.zeros(n_rows, dtype=torch.long) if trains else None)
            if trains:
                output.loss.backward()

    step()  # what is made once and kept is no part of the next one
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step()
    kineto: Any = profile.profiler
    events = [one for one in kineto.kineto_results.events() if one.name() == "[memory]"]
    live = np.cumsum([one.nbytes() for one in sorted(events, key=lambda one: one.start_ns())])
    return int(live.max()) + sum(v.nbytes for v in batch.values() if isinstance(v, torch.Tensor))
