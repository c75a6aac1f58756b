"""What one optimizer step does, however the batch is cut and whatever saves memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import TrainingArguments

from abhinaya.nn.build import build_classifier
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.registry import load_member

MakeConfig = Callable[..., ClassifierConfig]
Train = Callable[..., Path]

# Plain gradient descent, because Adam's first step hardly depends on the size of the gradient; no
# clipping, for the same reason.
ONE_STEP = (
    "training.max_steps=1",
    "training.optim=sgd",
    "training.learning_rate=0.1",
    "training.max_grad_norm=0",
    "data.validation=null",
    "head.dropout=0",
    "spec_augment=false",
)


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "best" / "model.safetensors")


def largest_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cross-entropy", "focal", "soft-cross-entropy"])
def test_step_is_the_same_however_the_batch_is_accumulated(
    trained: Train, wavlm_without_dropout: str, loss: str
) -> None:
    step = (*ONE_STEP, f"base={wavlm_without_dropout}", f"loss.name={loss}")
    whole = weights(trained(*step, "training.per_device_train_batch_size=8"))
    still = weights(trained(*step, "training.learning_rate=0"))
    # A gradient that is not divided by the number of cuts would be four times as large.
    assert largest_difference(whole, still) > 1e-3
    for per_device in (2, 1):
        cut = weights(trained(*step, f"training.per_device_train_batch_size={per_device}"))
        assert largest_difference(cut, whole) < 1e-6


def test_step_with_weights_in_the_mean_is_the_same_however_the_batch_is_accumulated(
    trained: Train, wavlm_without_dropout: str
) -> None:
    loss = ("loss.class_weights=inverse", "loss.reduction=mean")
    step = (*ONE_STEP, f"base={wavlm_without_dropout}", *loss)
    whole = weights(trained(*step, "training.per_device_train_batch_size=8"))
    cut = weights(trained(*step, "training.per_device_train_batch_size=2"))
    assert largest_difference(cut, whole) < 1e-6


@pytest.mark.slow
def test_last_partial_batch_is_the_same_however_it_is_accumulated(
    trained: Train, wavlm_without_dropout: str
) -> None:
    # 34 rows in batches of 8 leave 2: without care the fifth step would weigh its rows otherwise.
    epoch = (*ONE_STEP, f"base={wavlm_without_dropout}", "training.max_steps=5")
    whole = weights(trained(*epoch))
    cut = weights(trained(*epoch, "training.per_device_train_batch_size=4"))
    # Five steps of 0.1 let the rounding of the first ones grow a little.
    assert largest_difference(cut, whole) < 1e-5


@pytest.fixture
def gradients_of(
    make_config: MakeConfig, tmp_path: Path
) -> Callable[..., tuple[dict[str, Tensor], int]]:
    """A function that gives the gradients of a batch, and how often the last block was computed."""

    def compute(*overrides: str, checkpointing: bool) -> tuple[dict[str, Tensor], int]:
        config = make_config(tmp_path, *overrides)
        member: Any = load_member(config.member)
        torch.manual_seed(0)
        model = build_classifier(member, config, 8, [1] * 8)
        if checkpointing:
            model.activation_checkpointing_enable()
        calls: list[int] = []
        norms = [m for name, m in model.named_modules() if name.endswith("final_layer_norm")]
        norms[-1].register_forward_hook(lambda *_: calls.append(1))
        model.train()
        torch.manual_seed(2)  # dropout, the same in both
        model(noise(config.member), labels=torch.tensor([0, 3, 5])).loss.backward()
        found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        return found, len(calls)

    return compute


def noise(member: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    if member == "whisper-encoder":
        features = torch.randn(3, 80, 100, generator=generator)
        return {"input_features": features, "n_frames": torch.tensor([50, 50, 20])}
    waveforms = 0.1 * torch.randn(3, 4800, generator=generator)
    return {"waveforms": waveforms, "mask": torch.ones(3, 4800, dtype=torch.bool)}


@pytest.mark.parametrize("member", ["wavlm", "whisper-encoder"])
def test_gradient_checkpointing_changes_no_gradient(
    gradients_of: Callable[..., tuple[dict[str, Tensor], int]], whisper: str, member: str
) -> None:
    overrides = ["spec_augment=false", "freeze=nothing"]
    if member == "whisper-encoder":
        # The input of the adapted layers needs no gradient: the trap of re-entrant checkpointing.
        overrides = ["member=whisper-encoder", f"base={whisper}", "lora.rank=2", "pointwise=[]"]
    plain, n_plain = gradients_of(*overrides, checkpointing=False)
    saving, n_saving = gradients_of(*overrides, checkpointing=True)
    assert (n_plain, n_saving) == (1, 2)
    assert saving.keys() == plain.keys()
    assert any("encoder.layers" in name for name in plain)
    for name, gradient in plain.items():
        torch.testing.assert_close(saving[name], gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_train_with_gradient_checkpointing_gives_the_same_weights(
    trained: Train, wavlm_without_dropout: str
) -> None:
    step = (*ONE_STEP, f"base={wavlm_without_dropout}")
    plain = weights(trained(*step, "training.per_device_train_batch_size=8"))
    for key in ("activation_checkpointing", "gradient_checkpointing"):  # the new and the old name
        if key in TrainingArguments.__dataclass_fields__:
            saving = weights(trained(*step, f"training.{key}=true"))
            assert largest_difference(saving, plain) < 1e-6


def test_train_in_bfloat16_keeps_float32_weights(
    trained: Train, wavlm_without_dropout: str
) -> None:
    step = (*ONE_STEP, f"base={wavlm_without_dropout}")
    half = weights(trained(*step, "training.bf16=true"))
    full = weights(trained(*step, "training.per_device_train_batch_size=8"))
    assert {tensor.dtype for tensor in half.values()} == {torch.float32}
    # bfloat16 has 8 bits of mantissa: the step is another one, but only by about a hundredth.
    assert 1e-7 < largest_difference(half, full) < 0.02
