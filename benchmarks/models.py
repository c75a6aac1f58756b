"""Members of published sizes with random weights, made where they compute, and their batches.

Nothing is read or downloaded: sizes stand here, weights are drawn on the device in the type that
they have there, so 13 billion of them need no memory of the host. "tiny" has the same parts.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    Blip2QFormerConfig,
    LlamaConfig,
    LlamaForCausalLM,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from abhinaya.data.audio import SAMPLE_RATE_HZ
from abhinaya.nn.backbone import freeze
from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.nn.lora import add_lora
from abhinaya.nn.whisper import SAMPLES_PER_FRAME, log_mel
from members.llama_lora.model import LanguageModelBackbone
from members.salmonn.beats.fbank import kaldi_fbank
from members.salmonn.beats.model import Beats, BeatsConfig
from members.salmonn.encoders import SpeechEncoders
from members.salmonn.model import SalmonnBackbone
from members.salmonn.qformer import SpeechAdapter
from members.wavlm.model import WavLMBackbone
from members.whisper_encoder.model import WhisperBackbone, upper_half

LLAMA = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    "middle": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8},
    "7b": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32},
    "13b": {"hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40},
    "8b": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
    },
}
"""config.json of lmsys/vicuna-7b-v1.5 and vicuna-13b-v1.1 (with one token more, as SALMONN has it),
and of meta-llama/Llama-3.1-8B."""

FEED_FORWARD = {"tiny": 128, "middle": 688, "7b": 11_008, "13b": 13_824, "8b": 14_336}

WHISPER = {"tiny": (32, 2, 4), "middle": (128, 2, 4), "large": (1280, 32, 20)}
"""Width, layers and heads of an encoder; `large` is openai/whisper-large-v2 and -v3."""

WAVLM = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
}
"""config.json of microsoft/wavlm-large."""

BEATS = {"tiny": (32, 2, 4, 16), "middle": (128, 2, 4, 64), "large": (768, 12, 12, 512)}
"""Width, layers, heads and patch width; `large` is BEATs_iter3+ (AS2M, cpt2)."""

QFORMER = {"tiny": (32, 4), "middle": (256, 4), "large": (768, 12)}
"""Width and heads; `large` is SALMONN's."""

N_BEFORE, N_AFTER, N_TEXT = 7, 20, 9
"""Tokens of the golden set's prompt: before the speech, behind it, and the text."""


def number_type(device: torch.device) -> torch.dtype:
    """Type of frozen weights: float32 on a CPU, bfloat16 elsewhere."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def make_causal_lm(
    size: str, device: torch.device, *, nf4: bool = False, dropout: float = 0.0
) -> LlamaForCausalLM:
    """The causal language model with adapters, everything else frozen; the same in every call."""
    config = LlamaConfig(
        **{"vocab_size": 32_001, "intermediate_size": FEED_FORWARD[size], **LLAMA[size]},
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(1)
        causal = LlamaForCausalLM._from_config(config, dtype=number_type(device))
        causal.requires_grad_(False)
        if nf4:
            quantize(causal.model)
        targets = ["q_proj", "v_proj"]
        add_lora(causal.model, rank=8, alpha=32, dropout=dropout, target_modules=targets)
    causal.model.config.use_cache = False
    return causal


def quantize(model: nn.Module) -> None:
    """Make NF4 with quantised scales of every linear layer, one after the other, in place."""
    import bitsandbytes as bnb

    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear):
                weight = layer.weight.data
                options = {"compress_statistics": True, "quant_type": "nf4"}
                quantized = bnb.nn.Linear4bit(
                    *(layer.in_features, layer.out_features),
                    bias=False,
                    compute_dtype=weight.dtype,
                    device="meta",
                    **options,
                )
                stored = bnb.nn.Params4bit(weight, requires_grad=False, **options)
                quantized.weight = stored.to(weight.device)
                setattr(parent, name, quantized)
    model.is_loaded_in_4bit = True  # which PEFT looks at


def salmonn(
    size: str, device: torch.device, *, trim_padding: bool = False, **options: Any
) -> tuple[SalmonnBackbone, LlamaForCausalLM]:
    """SALMONN without its head over the vocabulary, and the causal model that shares its weights.

    Args:
        size: tiny, middle, 7b or 13b.
        device: where it is made.
        trim_padding: see `SpeechEncoders`.
        options: of `make_causal_lm`.
    """
    parts = size if size in WHISPER else "large"
    beats_width, n_layers, n_heads, patch_width = BEATS[parts]
    causal = make_causal_lm(size, device, **options)
    with torch.device(device):
        torch.manual_seed(0)
        whisper = make_whisper(parts, n_mels=80)
        beats = Beats(
            BeatsConfig(
                encoder_layers=n_layers,
                encoder_embed_dim=beats_width,
                encoder_ffn_embed_dim=4 * beats_width,
                encoder_attention_heads=n_heads,
                embed_dim=patch_width,
                conv_pos=128,
                conv_pos_groups=16,
                num_buckets=320,
                max_distance=800,
                conv_bias=False,
            )
        )
        hidden, n_heads = QFORMER[parts]
        adapter = SpeechAdapter(
            Blip2QFormerConfig(
                hidden_size=hidden,
                num_hidden_layers=2,
                num_attention_heads=n_heads,
                intermediate_size=4 * hidden,
                encoder_hidden_size=whisper.config.d_model + beats_width,
                cross_attention_frequency=1,
                use_qformer_text_input=False,
            ),
            widths=(whisper.config.d_model, beats_width),
            n_queries=1,
            n_features=causal.config.hidden_size,
            window_frames=17,
            stride_frames=17,
        )
        nn.init.normal_(adapter.query_tokens)
        encoder = SpeechEncoders(whisper, beats, window_frames=17, trim_padding=trim_padding)
        backbone = SalmonnBackbone(encoder.eval(), adapter, causal.model)
    return backbone, causal


def llama(
    size: str, device: torch.device, **options: Any
) -> tuple[LanguageModelBackbone, LlamaForCausalLM]:
    """A language model that reads, and the causal model that shares its weights."""
    causal = make_causal_lm(size, device, **options)
    with torch.device(device):
        return LanguageModelBackbone(causal.model), causal


def wavlm(size: str, device: torch.device) -> WavLMBackbone:
    """WavLM whose convolutions are frozen."""
    config = WavLMConfig(
        **WAVLM[size],
        intermediate_size=4 * WAVLM[size]["hidden_size"],
        conv_dim=(32 if size == "tiny" else 512,) * 7,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        layerdrop=0.0,
    )
    with torch.device(device):
        return WavLMBackbone(WavLMModel(config))


def make_whisper(size: str, n_mels: int) -> WhisperEncoder:
    """Whisper's encoder with its window of 30 s."""
    width, n_layers, n_heads = WHISPER[size]
    config = WhisperConfig(
        num_mel_bins=n_mels,
        d_model=width,
        encoder_layers=n_layers,
        encoder_attention_heads=n_heads,
        encoder_ffn_dim=4 * width,
    )
    return WhisperEncoder(config)


def whisper_encoder(size: str, device: torch.device) -> WhisperBackbone:
    """Whisper's encoder, frozen, with adapters on the upper half of its feed-forward layers."""
    with torch.device(device):
        encoder = make_whisper(size, n_mels=128)
        freeze(encoder)
        targets = upper_half(encoder)
        add_lora(encoder, rank=16, alpha=32, dropout=0.0, target_modules=targets)
        return WhisperBackbone(encoder)


def noises(n_clips: int, seconds: float) -> list[np.ndarray]:
    """Clips of noise."""
    rng = np.random.default_rng(0)
    n_samples = round(seconds * SAMPLE_RATE_HZ)
    return [rng.normal(0, 0.1, n_samples).astype(np.float32) for _ in range(n_clips)]


def waveform_batch(n_clips: int, seconds: float) -> dict[str, Tensor]:
    """What `wavlm` hears."""
    waveforms = torch.from_numpy(np.stack(noises(n_clips, seconds)))
    return {"waveforms": waveforms, "mask": torch.ones_like(waveforms, dtype=torch.bool)}


def mel_batch(n_clips: int, seconds: float) -> dict[str, Tensor]:
    """What `whisper-encoder` hears."""
    extractor = WhisperFeatureExtractor(feature_size=128)
    clips = noises(n_clips, seconds)
    return {
        "input_features": torch.from_numpy(np.stack([log_mel(extractor, clip) for clip in clips])),
        "n_frames": torch.full((n_clips,), -(-len(clips[0]) // SAMPLES_PER_FRAME)),
    }


def token_batch(n_clips: int, n_tokens: int, vocabulary: int) -> dict[str, Tensor]:
    """What `llama-8b-lora` reads."""
    ids = torch.randint(3, vocabulary - 1, (n_clips, n_tokens))
    return {"input_ids": ids, "mask": torch.ones_like(ids, dtype=torch.bool)}


def salmonn_batch(n_clips: int, seconds: float, vocabulary: int) -> dict[str, Tensor]:
    """What SALMONN hears and reads, as `SalmonnInputs.collate` would give it."""
    clips = noises(n_clips, seconds)
    extractor = WhisperFeatureExtractor(feature_size=80)
    fbank = torch.from_numpy(np.stack([kaldi_fbank(clip) for clip in clips]))
    batch = {
        "input_features": torch.from_numpy(np.stack([log_mel(extractor, clip) for clip in clips])),
        "fbank": fbank,
        "n_samples": torch.full((n_clips,), len(clips[0])),
        "n_fbank_frames": torch.full((n_clips,), fbank.shape[1]),
    }
    rng = np.random.default_rng(0)
    for name, length in (("before", N_BEFORE), ("after", N_AFTER), ("text", N_TEXT)):
        ids = rng.integers(3, vocabulary - 1, (n_clips, length))
        batch[name] = torch.from_numpy(ids)
        batch[f"{name}_mask"] = torch.ones(n_clips, length, dtype=torch.bool)
    return batch


def our_step(model: EmotionClassifier, batch: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Loss and gradients our way."""
    llm = getattr(model.backbone, "language_model", model.backbone.encoder)
    if hasattr(llm, "set_attn_implementation") and llm.config.model_type == "llama":
        llm.set_attn_implementation("sdpa")
    loss: Tensor = model(batch, labels).loss
    loss.backward()
    return loss


def original_step(
    model: EmotionClassifier, causal: LlamaForCausalLM, batch: Mapping[str, Tensor], labels: Tensor
) -> Tensor:
    """Loss and gradients as the public code of the Abhinaya system comes to them.

    The causal model gets labels (head over the vocabulary, cross-entropy that nothing uses), all
    hidden states are stacked into one tensor, a key-value cache is filled, attention is eager.
    """
    backbone: Any = model.backbone
    causal.set_attn_implementation("eager")
    given: dict[str, Tensor]
    if "input_ids" in batch:
        given, attention = {"input_ids": batch["input_ids"]}, batch["mask"]
        targets = batch["input_ids"]
    else:
        context = {name: batch[name] for name in backbone.context}
        rest = {name: value for name, value in batch.items() if name not in context}
        embeds, attention = backbone.embed(*backbone.forward_pretrained(**rest), context)
        given = {"inputs_embeds": embeds.to(causal.dtype)}
        targets = torch.full(attention.shape, -100, device=attention.device)
        targets[:, -N_TEXT:] = batch["text"]
    output = causal(
        **given,
        attention_mask=attention.long(),
        labels=targets,
        output_hidden_states=True,
        use_cache=True,
    )
    hidden = torch.stack(output.hidden_states)[-1]
    hidden = backbone.norm(hidden.to(backbone.norm.weight.dtype))
    logits, _ = model.head(model.pooling(hidden, attention))
    assert model.loss is not None
    loss: Tensor = model.loss(logits, labels)
    loss.backward()
    return loss


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def timed(clock: Callable[[], float], step: Callable[[], object], device: torch.device) -> float:
    """Time of one step by a clock."""
    synchronize(device)
    start = clock()
    step()
    synchronize(device)
    return clock() - start


def start_peak(device: torch.device) -> None:
    """Forget the peak so far."""
    if device.type == "cpu":
        # What was freed but not given back would be used again, and not counted.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    else:
        torch.cuda.reset_peak_memory_stats(device)


def peak_mib(device: torch.device) -> float:
    """Peak in MiB since `start_peak`: of the process on a CPU (Linux), of torch elsewhere."""
    if device.type == "cpu":
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    return float(torch.cuda.max_memory_allocated(device)) / 2**20
