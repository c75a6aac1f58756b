"""The same numbers on an accelerator as on the CPU; skipped where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from abhinaya.nn.build import build_classifier
from abhinaya.nn.checkpoint import load_weights, read_info
from abhinaya.registry import load_member

pytestmark = pytest.mark.gpu


@pytest.fixture
def device() -> torch.device:
    if not torch.accelerator.is_available():
        pytest.skip("there is no accelerator")
    found = torch.accelerator.current_accelerator()
    assert found is not None
    return found


def logits(model: Any, device: torch.device) -> torch.Tensor:
    """Logits of two noises, the shorter one padded."""
    waveforms = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 8000, dtype=torch.bool)
    mask[1, 5000:] = False
    inputs = {"waveforms": waveforms * mask, "mask": mask}
    with torch.inference_mode():
        output = model.to(device).eval()({key: value.to(device) for key, value in inputs.items()})
    return output.logits.float().cpu()


def test_a_checkpoint_gives_the_logits_of_the_cpu_on_the_device(trained, make_config, device):
    best: Path = trained("training.max_steps=2") / "best"
    config = make_config(Path("unused"), "training.max_steps=2")
    model = build_classifier(load_member("wavlm"), config, len(read_info(best).emotions))
    load_weights(best, model)
    # Sums run in another order there, and its matrix units may round inputs to 10 bits.
    torch.testing.assert_close(
        logits(model, device), logits(model, torch.device("cpu")), atol=1e-2, rtol=0
    )
