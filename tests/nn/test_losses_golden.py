"""Our losses against numbers of the published training scripts; see tests/golden/README.md."""

import numpy as np
import pytest
import torch
from golden_set import golden

from abhinaya.nn.losses.build import LossConfig, build_loss

pytestmark = pytest.mark.parity

GOLDEN = golden("losses")
WEIGHTS = tuple(GOLDEN["class_weights"].tolist())
COUNTS = GOLDEN["class_counts"].tolist()
CASES = {
    "wce": {"name": "cross-entropy", "class_weights": WEIGHTS},
    "focal_unweighted": {"name": "focal"},
    "wfl_published": {"name": "focal", "class_weights": WEIGHTS, "broadcast_compat": True},
    "wfl_fixed_mean": {"name": "focal", "class_weights": WEIGHTS},
    "wfl_fixed_weightnorm": {
        "name": "focal",
        "class_weights": WEIGHTS,
        "reduction": "weight-normalised",
    },
    "vs_unweighted": {"name": "vector-scaling"},
    "vs_weighted": {"name": "vector-scaling", "class_weights": WEIGHTS},
}


def test_every_golden_loss_is_compared():
    assert set(CASES) == {key[5:] for key in GOLDEN if key.startswith("grad_")}


@pytest.mark.parametrize("case", sorted(CASES))
def test_loss_and_gradient_match_published(case):
    logits = torch.from_numpy(GOLDEN["logits"]).requires_grad_()
    ours = build_loss(LossConfig(**CASES[case]), COUNTS)(
        logits, torch.from_numpy(GOLDEN["targets"])
    )
    ours.backward()
    np.testing.assert_allclose(ours.item(), GOLDEN[case], rtol=1e-6)
    np.testing.assert_allclose(logits.grad.numpy(), GOLDEN[f"grad_{case}"], rtol=0, atol=1e-7)
