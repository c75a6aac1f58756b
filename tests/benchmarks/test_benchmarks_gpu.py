"""The table of `benchmarks/gpu.py`: whole at a tiny size here, one test per member on a device."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

KINDS = {
    # whether there is an original's way beside ours
    "salmonn-13b": True,
    "salmonn-13b-nf4": True,
    "llama-8b-lora": True,
    "wavlm": False,
    "whisper-encoder": False,
    "salmonn-7b-speech-text": True,
    "transcribe": True,
}


def table(*args: str, timeout_s: float = 175) -> dict[str, list[str]]:
    """Cells of each line behind the batch, by member."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu.py"), *args],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split()[:2] == ["member", "batch"]
    return {row.split()[0]: row[40:].split() for row in rows}


@pytest.mark.slow
def test_every_line_of_the_table_is_measured_at_a_tiny_size() -> None:
    rows = table("--size", "tiny", "--device", "cpu", "--rounds", "1", timeout_s=600)
    assert list(rows) == list(KINDS)
    for kind, (seconds, peak, speed, *_, time_ratio, memory_ratio) in rows.items():
        assert float(seconds) > 0, kind
        assert float(peak) > 0, kind
        assert float(speed) > 0, kind
        assert (time_ratio != "-", memory_ratio != "-") == (KINDS[kind],) * 2, kind


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_published_size_fits_and_beats_the_original(kind: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    _, peak, *_, time_ratio, memory_ratio = table("--only", kind, "--rounds", "3")[kind]
    assert float(peak) < 80
    if KINDS[kind]:
        assert float(time_ratio) < 1
    if KINDS[kind] and kind != "transcribe":  # a batch of clips needs more than one clip
        assert float(memory_ratio) <= 1


@pytest.fixture(scope="module")
def models() -> Any:
    spec = importlib.util.spec_from_file_location("models", BENCHMARKS / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def millions(module: torch.nn.Module) -> float:
    """Parameters without adapters."""
    found = [p.numel() for name, p in module.named_parameters() if "lora_" not in name]
    return sum(found) / 1e6


@pytest.mark.slow
def test_published_sizes_are_those_of_the_published_models(models: Any) -> None:
    """Nothing is made here: shapes only, as on any device."""
    meta = torch.device("meta")
    backbone, causal = models.salmonn("13b", meta)
    # Vicuna-13B has 13,015.9 million, and one token more in embedding and head.
    assert millions(causal) == pytest.approx(13_015.86 + 2 * 5120 / 1e6, abs=0.01)
    # Whisper-large-v2's encoder, positions included.
    assert millions(backbone.encoder.whisper) == pytest.approx(636.78, abs=0.01)
    assert millions(backbone.encoder.beats) == pytest.approx(90.3, abs=0.1)
    assert {parameter.device.type for parameter in backbone.parameters()} == {"meta"}
    assert millions(models.salmonn("7b", meta)[1]) == pytest.approx(6738.42, abs=0.01)
    assert millions(models.llama("8b", meta)[1]) == pytest.approx(8030.26, abs=0.01)
    assert millions(models.wavlm("large", meta)) == pytest.approx(315.45, abs=0.01)
    assert millions(models.whisper_encoder("large", meta).encoder) == pytest.approx(636.97, abs=0.3)


@pytest.mark.slow
def test_quantised_layers_are_four_bits_under_float32_adapters(models: Any) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    causal = models.make_causal_lm("tiny", torch.device("cpu"), nf4=True)
    layers = [m for m in causal.model.modules() if isinstance(m, bnb.nn.Linear4bit)]
    # seven matrices in each of two layers
    assert len(layers) == 14
    assert {layer.weight.dtype for layer in layers} == {torch.uint8}
    # PEFT's own layer for four bits would be a plain one, were the model not known as quantised.
    adapted = causal.model.layers[0].self_attn.q_proj
    assert type(adapted).__module__ == "peft.tuners.lora.bnb"
    trained = [p for p in causal.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
