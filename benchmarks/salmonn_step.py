"""One training step of SALMONN as a classifier: as the original does it, and as ours does.

The original runs the causal language model with labels (head over the vocabulary, cross-entropy
that nothing uses), stacks all hidden states into one tensor, fills a key-value cache, computes
attention eagerly, and encodes the sound anew in every step. Ours leaves all that out. Both have the
same random weights and the same result, which is checked first; they run by turns in one process.

    python benchmarks/salmonn_step.py                a middle-sized model, on one CPU thread
    python benchmarks/salmonn_step.py --size 7b      SALMONN-7B in bfloat16, on an accelerator
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    Blip2QFormerConfig,
    LlamaConfig,
    LlamaForCausalLM,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from abhinaya.loading.features import collate_features
from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.nn.head import EmotionHead
from abhinaya.nn.lora import add_lora
from abhinaya.nn.losses import LossConfig, build_loss
from abhinaya.nn.pooling import build_pooling
from members.salmonn.beats.fbank import kaldi_fbank
from members.salmonn.beats.model import Beats, BeatsConfig
from members.salmonn.encoders import SpeechEncoders
from members.salmonn.model import SalmonnBackbone
from members.salmonn.qformer import SpeechAdapter

BATCH_SIZE, SECONDS, SAMPLE_RATE_HZ = 4, 5.0, 16_000
N_BEFORE, N_AFTER, N_TEXT = 7, 20, 9
"""Tokens of the golden set's prompt: before the speech, behind it, and the text."""

SIZES = {
    "middle": {
        "llm": (256, 4, 8, 688),
        "whisper": (128, 2, 4),
        "beats": (128, 2, 4, 64),
        "qformer": (256, 4),
    },
    "7b": {
        "llm": (4096, 32, 32, 11008),
        "whisper": (1280, 32, 20),
        "beats": (768, 12, 12, 512),
        "qformer": (768, 12),
    },
    "13b": {
        "llm": (5120, 40, 40, 13824),
        "whisper": (1280, 32, 20),
        "beats": (768, 12, 12, 512),
        "qformer": (768, 12),
    },
}
"""Widths, layers, heads and feed-forward widths of the parts."""

VOCABULARY = 32_001


def build(size: str, device: torch.device, *, trim_padding: bool = False) -> EmotionClassifier:
    """The classifier with random weights, the same in every call."""
    torch.manual_seed(0)
    sizes = SIZES[size]
    width, n_layers, n_heads = sizes["whisper"]
    whisper = WhisperEncoder(
        WhisperConfig(
            d_model=width,
            encoder_layers=n_layers,
            encoder_attention_heads=n_heads,
            encoder_ffn_dim=4 * width,
        )
    )
    beats_width, n_layers, n_heads, embed_dim = sizes["beats"]
    beats = Beats(
        BeatsConfig(
            encoder_layers=n_layers,
            encoder_embed_dim=beats_width,
            encoder_ffn_embed_dim=4 * beats_width,
            encoder_attention_heads=n_heads,
            embed_dim=embed_dim,
            conv_pos=128,
            conv_pos_groups=16,
            num_buckets=320,
            max_distance=800,
            conv_bias=False,
        )
    )
    llm = make_llm(size, device, "sdpa").model
    hidden, n_heads = sizes["qformer"]
    adapter = SpeechAdapter(
        Blip2QFormerConfig(
            hidden_size=hidden,
            num_hidden_layers=2,
            num_attention_heads=n_heads,
            intermediate_size=4 * hidden,
            encoder_hidden_size=width + beats_width,
            cross_attention_frequency=1,
            use_qformer_text_input=False,
        ),
        widths=(width, beats_width),
        n_queries=1,
        n_features=llm.config.hidden_size,
        window_frames=17,
        stride_frames=17,
    )
    nn.init.normal_(adapter.query_tokens)
    encoder = SpeechEncoders(whisper, beats, window_frames=17, trim_padding=trim_padding)
    backbone = SalmonnBackbone(encoder.eval(), adapter, llm)
    pooling = build_pooling("attentive-statistics", backbone.n_features)
    head = EmotionHead(pooling.output_size, 8, hidden=1024, norm="none")
    loss = build_loss(LossConfig(name="focal"), [1] * 8)
    # Without dropout, so that both ways can be compared; its cost is the same for both.
    return EmotionClassifier(backbone, pooling, head, loss).to(device).eval()


def make_llm(size: str, device: torch.device, attention: str) -> LlamaForCausalLM:
    """The causal language model with adapters, everything else frozen; the same in every call."""
    hidden, n_layers, n_heads, intermediate = SIZES[size]["llm"]
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        attn_implementation=attention,
    )
    dtype = torch.bfloat16 if device.type != "cpu" else torch.float32
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(1)
        llm = LlamaForCausalLM._from_config(config, dtype=dtype)
        llm.requires_grad_(False)
        add_lora(llm.model, rank=8, alpha=32, dropout=0.0, target_modules=["q_proj", "v_proj"])
    return llm


def make_batch(device: torch.device) -> dict[str, Tensor]:
    """Noise of five seconds and made-up tokens, as `SalmonnInputs.collate` would give them."""
    rng = np.random.default_rng(0)
    waveforms = rng.normal(0, 0.1, (BATCH_SIZE, round(SECONDS * SAMPLE_RATE_HZ)))
    waveforms = waveforms.astype(np.float32)
    extractor = WhisperFeatureExtractor(feature_size=80)
    mels = extractor(list(waveforms), sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
    fbank = torch.from_numpy(np.stack([kaldi_fbank(waveform) for waveform in waveforms]))
    batch = {
        "input_features": mels["input_features"],
        "fbank": fbank,
        "n_samples": torch.full((BATCH_SIZE,), waveforms.shape[1]),
        "n_fbank_frames": torch.full((BATCH_SIZE,), fbank.shape[1]),
    }
    for name, length in (("before", N_BEFORE), ("after", N_AFTER), ("text", N_TEXT)):
        ids = rng.integers(3, VOCABULARY - 1, (BATCH_SIZE, length))
        batch[name] = torch.from_numpy(ids)
        batch[f"{name}_mask"] = torch.ones(BATCH_SIZE, length, dtype=torch.bool)
    return {name: value.to(device) for name, value in batch.items()}


def original_step(
    model: EmotionClassifier, llm: LlamaForCausalLM, batch: dict[str, Tensor], labels: Tensor
) -> Tensor:
    """Loss and gradients the original way; `llm` holds the weights of the model's own."""
    backbone = model.backbone
    context = {name: batch[name] for name in backbone.context}
    rest = {name: value for name, value in batch.items() if name not in context}
    states, mask = backbone.forward_pretrained(**rest)
    embeds, attention = backbone.embed(states, mask, context)
    targets = torch.full(attention.shape, -100, device=attention.device)
    targets[:, -N_TEXT:] = batch["text"]
    output = llm(
        inputs_embeds=embeds.to(llm.dtype),
        attention_mask=attention.long(),
        labels=targets,
        output_hidden_states=True,
        use_cache=True,
    )
    hidden = torch.stack(output.hidden_states)[-1]
    hidden = backbone.norm(hidden.to(backbone.norm.weight.dtype))
    logits, _ = model.head(model.pooling(hidden, attention))
    loss: Tensor = model.loss(logits, labels)
    loss.backward()
    return loss


def our_step(model: EmotionClassifier, batch: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Loss and gradients our way."""
    loss = model(batch, labels).loss
    loss.backward()
    return loss


def check_same(
    model: EmotionClassifier, llm: LlamaForCausalLM, batch: dict[str, Tensor], labels: Tensor
) -> None:
    """Both ways give the same loss and the same gradients."""
    tolerance = 1e-4 if batch["fbank"].device.type == "cpu" else 5e-2
    theirs = original_step(model, llm, batch, labels)
    adapters = [p for p in llm.parameters() if p.requires_grad]
    rest = [p for n, p in model.named_parameters() if p.requires_grad and "llm." not in n]
    expected = [p.grad.clone() for p in (*rest, *adapters)]
    model.zero_grad()
    llm.zero_grad()
    ours = our_step(model, batch, labels)
    own = [p for n, p in model.named_parameters() if p.requires_grad and "llm." in n]
    assert abs(ours.item() - theirs.item()) < tolerance
    for parameter, gradient in zip((*rest, *own), expected, strict=True):
        difference = (parameter.grad - gradient).norm()
        assert difference <= tolerance * gradient.norm() + 1e-7
    model.zero_grad()


def stored_batch(
    model: EmotionClassifier, batch: dict[str, Tensor], folder: Path
) -> Callable[[], dict[str, Tensor]]:
    """Reads the encoders' output from disk as the feature store does, once per step."""
    backbone = model.backbone
    context = {name: batch[name] for name in backbone.context}
    rest = {name: value for name, value in batch.items() if name not in context}
    states, _ = backbone.forward_pretrained(**rest)
    for idx, clip in enumerate(states):
        np.save(folder / f"{idx}.npy", clip.transpose(0, 1).cpu().numpy())

    def load() -> dict[str, Tensor]:
        files = [folder / f"{idx}.npy" for idx in range(BATCH_SIZE)]
        stored = collate_features([{"states": np.load(f, mmap_mode="r")} for f in files])
        device = batch["fbank"].device
        return {name: value.to(device) for name, value in stored.items()} | context

    return load


def seconds_of(step: Callable[[], object], device: torch.device) -> float:
    """Time of one step."""
    start = time.perf_counter()
    step()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def peak_memory(way: str, size: str, device: torch.device) -> float:
    """Largest memory in MiB beyond the weights while two steps run; alone in this process."""
    model = build(size, device)
    batch, labels = make_batch(device), torch.arange(BATCH_SIZE, device=device)
    llm = None
    if way == "original":
        llm = make_llm(size, device, "eager")
    start_peak(device)
    before = memory(device)
    for _ in range(2):
        if llm is not None:
            original_step(model, llm, batch, labels)
        else:
            our_step(model, batch, labels)
    return memory(device) - before


def start_peak(device: torch.device) -> None:
    """Forget the peak so far."""
    if device.type == "cpu":
        Path("/proc/self/clear_refs").write_text("5")
    else:
        torch.cuda.reset_peak_memory_stats(device)


def memory(device: torch.device) -> float:
    """Peak in MiB since `start_peak`: of the process on a CPU (Linux), of torch elsewhere."""
    if device.type == "cpu":
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    return float(torch.cuda.max_memory_allocated(device)) / 2**20


def main() -> None:
    """Print ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(SIZES), default="middle")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--memory", choices=("original", "ours"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    if args.size == "middle":
        device = torch.device("cpu")
    if args.memory:
        print(peak_memory(args.memory, args.size, device))
        return
    model, trimmed = build(args.size, device), build(args.size, device, trim_padding=True)
    llm = make_llm(args.size, device, "eager")
    batch, labels = make_batch(device), torch.arange(BATCH_SIZE, device=device)
    check_same(model, llm, batch, labels)
    with tempfile.TemporaryDirectory() as folder:
        load = stored_batch(model, batch, Path(folder))
        steps: dict[str, Callable[[], object]] = {
            "original": lambda: original_step(model, llm, batch, labels),
            "ours": lambda: our_step(model, batch, labels),
            "ours, encoders cached": lambda: our_step(model, load(), labels),
            "ours, trim_padding": lambda: our_step(trimmed, batch, labels),
        }
        for step in steps.values():
            seconds_of(step, device)
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(args.rounds):
            for name, step in steps.items():
                times[name].append(seconds_of(step, device))
    print(
        f"batch of {BATCH_SIZE} x {SECONDS:g} s, size {args.size}, {device.type}; "
        "min / median / max"
    )
    for name in list(steps)[1:]:
        ratios = [
            mine / theirs for mine, theirs in zip(times[name], times["original"], strict=True)
        ]
        print(
            f"time, {name} over original: {min(ratios):.2f} / {statistics.median(ratios):.2f} / "
            f"{max(ratios):.2f}"
        )
    peaks = {
        way: float(
            subprocess.run(
                [sys.executable, __file__, "--size", args.size, "--memory", way],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for way in ("original", "ours")
    }
    print(
        f"peak memory beyond the weights, ours over original: {peaks['ours']:.0f} MiB / "
        f"{peaks['original']:.0f} MiB = {peaks['ours'] / peaks['original']:.2f}"
    )


if __name__ == "__main__":
    main()
