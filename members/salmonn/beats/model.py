"""BEATs, the audio encoder beside Whisper in SALMONN: from a spectrogram to patch features.

A patch is 16 frames x 16 mel bins, so 160 ms give 8 tokens, low frequencies first. The tokens pass
a convolution that tells their position and transformer layers with DeepNorm, in which gated biases
depend on the distance between tokens.

Source: Chen et al., "BEATs: Audio Pre-Training with Acoustic Tokenizers", 2022, arXiv:2212.09058;
the layers are those of Chen et al., "WavLM", 2021, arXiv:2110.13900, section IV-A.

The dropouts and the gradient scaling of its training are left out. In half precision BEATs is known
to overflow: everything is computed in float32, also under autocast, and the weights must be too.
Whether a GPU may round products to TF32 stays the choice of the process; cuDNN's default is yes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abhinaya.errors import BadShapeError, BadValueError, CheckpointError
from members.salmonn.beats.fbank import N_MELS

__all__ = ["Beats", "BeatsConfig", "count_tokens", "published_token_padding", "token_padding"]

_PATCH = 16
_TOKENS_PER_PATCH_ROW = N_MELS // _PATCH

# What all published checkpoints have, and all that this module computes.
_SUPPORTED = {
    "input_patch_size": _PATCH,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "deep_norm": True,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
}


@dataclass(frozen=True)
class BeatsConfig:
    """Sizes of a BEATs encoder; the names are those of the published files.

    Args:
        encoder_layers: number of transformer layers.
        encoder_embed_dim: D, their width and that of the output.
        encoder_ffn_embed_dim: width inside their feed-forward parts.
        encoder_attention_heads: number of heads; must divide D.
        embed_dim: width of a patch before it is projected to D.
        conv_pos: kernel of the position convolution, in tokens.
        conv_pos_groups: its groups; must divide D.
        num_buckets: number of position biases per head; even.
        max_distance: distance in tokens from which all share one bias.
        conv_bias: whether the patch convolution has a bias.
        finetuned_model: whether the file holds a classifier (`predictor`) too.
    """

    encoder_layers: int
    encoder_embed_dim: int
    encoder_ffn_embed_dim: int
    encoder_attention_heads: int
    embed_dim: int
    conv_pos: int
    conv_pos_groups: int
    num_buckets: int
    max_distance: int
    conv_bias: bool
    finetuned_model: bool = False

    @classmethod
    def from_dict(cls, cfg: Mapping[str, Any]) -> Self:
        """Return the sizes that a published file states under `cfg`; its other keys are ignored.

        Raises:
            CheckpointError: if keys are missing, sizes are impossible, or the file asks for a
                variant of the model that is not computed here; all problems at once.
        """
        problems = [
            f"{key} is {cfg[key]!r}, expected {value!r}" if key in cfg else f"{key} is missing"
            for key, value in _SUPPORTED.items()
            if key not in cfg or cfg[key] != value
        ]
        values: dict[str, Any] = {}
        for field in fields(cls):
            value = cfg.get(field.name, False if field.name == "finetuned_model" else None)
            values[field.name] = value
            if value is None:
                problems.append(f"{field.name} is missing")
            elif field.type == "bool" and not isinstance(value, bool):
                problems.append(f"{field.name} is {value!r}, expected True or False")
            elif field.type == "int" and (type(value) is not int or value < 1):
                problems.append(f"{field.name} is {value!r}, expected a whole number above 0")
        if not problems:
            problems = _impossible_sizes(cls(**values))
        if problems:
            raise CheckpointError(
                "The cfg of the checkpoint does not describe a BEATs encoder as published: "
                f"{'; '.join(problems)}. Take a published BEATs checkpoint."
            )
        return cls(**values)


def _impossible_sizes(config: BeatsConfig) -> list[str]:
    width = config.encoder_embed_dim
    problems = [
        f"{key} is {getattr(config, key)}, which does not divide encoder_embed_dim {width}"
        for key in ("encoder_attention_heads", "conv_pos_groups")
        if width % getattr(config, key) != 0
    ]
    if config.num_buckets % 4 != 0:
        problems.append(f"num_buckets is {config.num_buckets}, expected a multiple of 4")
    elif config.max_distance <= config.num_buckets // 4:
        problems.append(
            f"max_distance is {config.max_distance}, expected above num_buckets / 4 = "
            f"{config.num_buckets // 4}"
        )
    return problems


class Beats(nn.Module):
    """The encoder; `load_beats` makes one from a published file.

    Parameters are named as there, but the weight norm of the position convolution is folded into
    its weight, and the position biases, which all layers share, stand once in `encoder`.

    Args:
        config: the sizes, kept as the attribute `config`.
    """

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.config = config
        width = config.encoder_embed_dim
        self.patch_embedding = nn.Conv2d(
            1, config.embed_dim, kernel_size=_PATCH, stride=_PATCH, bias=config.conv_bias
        )
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        # As published, there is a projection only where it is needed.
        self.post_extract_proj = (
            nn.Linear(config.embed_dim, width) if config.embed_dim != width else nn.Identity()
        )
        self.encoder = _Encoder(config)

    def forward(self, fbank: Tensor, token_padding: Tensor | None = None) -> Tensor:
        """Return features of every patch.

        Padding cannot reach the other tokens: before the position convolution it becomes zero, and
        nobody attends to it. Its own features are whatever comes out, not zero.

        Args:
            fbank: from `kaldi_fbank`, shape (B, F, 128), any floating type. Frames beyond a
                multiple of 16 are dropped.
            token_padding: True where a token is padding, shape (B, T); None if there is none.
                Without any other token an utterance gets NaN.

        Returns:
            Shape (B, T, D), float32, T = 8 * (F // 16): time by time, low frequencies first.

        Raises:
            BadShapeError: if a shape does not fit, or there are fewer than 16 frames.
            BadValueError: if the weights are no longer float32.
        """
        self._check(fbank, token_padding)
        with torch.autocast(fbank.device.type, enabled=False):
            patches = self.patch_embedding(fbank.float().unsqueeze(1))  # (B, embed, F / 16, 8)
            tokens = self.layer_norm(patches.flatten(2).transpose(1, 2))  # (B, T, embed)
            encoded: Tensor = self.encoder(self.post_extract_proj(tokens), token_padding)
            return encoded

    def _check(self, fbank: Tensor, token_padding: Tensor | None) -> None:
        if fbank.ndim != 3 or fbank.shape[1] < _PATCH or fbank.shape[2] != N_MELS:
            raise BadShapeError(
                f"fbank has shape {tuple(fbank.shape)}, expected (B, F, {N_MELS}) with at least "
                f"{_PATCH} frames. Make it with kaldi_fbank, which pads short clips."
            )
        expected = (fbank.shape[0], _TOKENS_PER_PATCH_ROW * (fbank.shape[1] // _PATCH))
        if token_padding is not None and token_padding.shape != expected:
            raise BadShapeError(
                f"token_padding has shape {tuple(token_padding.shape)}, expected {expected} for "
                f"{fbank.shape[1]} frames. Make it with token_padding()."
            )
        dtype = self.layer_norm.weight.dtype
        if dtype != torch.float32:
            raise BadValueError(
                f"The weights of BEATs are {dtype}, expected torch.float32: in half precision it "
                "overflows. Convert only the other parts of the model, and load BEATs again."
            )


class _Encoder(nn.Module):
    """Position convolution and transformer layers, with the biases that these share."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        width = config.encoder_embed_dim
        self.max_distance = config.max_distance
        self.pos_conv = nn.Conv1d(
            width,
            width,
            kernel_size=config.conv_pos,
            padding=config.conv_pos // 2,
            groups=config.conv_pos_groups,
        )
        self.layer_norm = nn.LayerNorm(width)
        self.relative_attention_bias = nn.Embedding(
            config.num_buckets, config.encoder_attention_heads
        )
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.encoder_layers))

    def forward(self, tokens: Tensor, padding: Tensor | None) -> Tensor:
        n_tokens = tokens.shape[1]
        key_bias = tokens.new_zeros(1, 1, 1, n_tokens)
        if padding is not None:
            tokens = tokens.masked_fill(padding.unsqueeze(2), 0.0)
            key_bias = key_bias.masked_fill(padding[:, None, None], -torch.inf)  # (B, 1, 1, T)
        # An even kernel makes one token too many, at the end.
        position = self.pos_conv(tokens.transpose(1, 2))[..., :n_tokens].transpose(1, 2)
        tokens = self.layer_norm(tokens + F.gelu(position))
        position_bias = self._position_bias(n_tokens)
        for layer in self.layers:
            tokens = layer(tokens, position_bias, key_bias)
        return tokens

    def _position_bias(self, n_tokens: int) -> Tensor:
        """Return what each head adds for the distance of query and key, shape (heads, T, T)."""
        table = self.relative_attention_bias.weight
        distances = torch.arange(1 - n_tokens, n_tokens)  # (2 T - 1,), key minus query
        # Found on the CPU: on other devices a logarithm may round into the next bucket.
        buckets = _bucket(distances, table.shape[0], self.max_distance).to(table.device)
        by_distance = table[buckets].T  # (heads, 2 T - 1)
        # Row q of the result starts at distance -q, which is column T - 1 - q.
        return by_distance.unfold(1, n_tokens, 1).flip(1)  # (heads, T, T)


def _bucket(distances: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Return index of the bias of each distance.

    The upper half of the buckets is for keys behind the query. In each half one bucket per distance
    comes first, up to half of them; the rest widen with the logarithm, up to `max_distance`.

    Source: Raffel et al., "Exploring the Limits of Transfer Learning" (T5), 2019,
    arXiv:1910.10683, section 2.1.
    """
    n_per_side = num_buckets // 2
    n_exact = n_per_side // 2
    size = distances.abs()
    octaves = torch.log(size.clamp(min=1).float() / n_exact) / math.log(max_distance / n_exact)
    wide = (n_exact + (octaves * (n_per_side - n_exact)).long()).clamp(max=n_per_side - 1)
    return torch.where(size < n_exact, size, wide) + n_per_side * (distances > 0)


class _Layer(nn.Module):
    """Attention, then the feed-forward part, each with DeepNorm's heavier residual.

    Source of the factor (2 n_layers) ** 0.25: Wang et al., "DeepNet", 2022, arXiv:2203.00555.
    """

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        width = config.encoder_embed_dim
        self.residual_weight = (2 * config.encoder_layers) ** 0.25
        self.self_attn = _GatedAttention(width, config.encoder_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.encoder_ffn_embed_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_embed_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, position_bias: Tensor, key_bias: Tensor) -> Tensor:
        attended = self.self_attn(tokens, position_bias, key_bias)
        tokens = self.self_attn_layer_norm(torch.add(attended, tokens, alpha=self.residual_weight))
        changed = self.fc2(F.gelu(self.fc1(tokens)))
        normed: Tensor = self.final_layer_norm(
            torch.add(changed, tokens, alpha=self.residual_weight)
        )
        return normed


class _GatedAttention(nn.Module):
    """Self-attention whose position biases are scaled, query by query, by a gate."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.grep_linear = nn.Linear(width // n_heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, n_heads, 1, 1))

    def forward(self, tokens: Tensor, position_bias: Tensor, key_bias: Tensor) -> Tensor:
        query, key, value = (
            projection(tokens).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )  # (B, heads, T, D / heads) each
        bias = torch.addcmul(key_bias, self._gate(query), position_bias)  # (B, heads, T, T)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        output: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return output

    def _gate(self, query: Tensor) -> Tensor:
        """Return 2 + u (a r - 1) with two sigmoids u, r of the query, shape (B, heads, T, 1)."""
        update, reset = self.grep_linear(query).unflatten(3, (2, 4)).sum(4).sigmoid().chunk(2, 3)
        gate: Tensor = 2.0 + update * (self.grep_a * reset - 1.0)
        return gate


def count_tokens(n_frames: int) -> int:
    """Return tokens that the encoder makes of `n_frames` frames of a spectrogram.

    Example:
        >>> count_tokens(998)
        496
    """
    return _TOKENS_PER_PATCH_ROW * (n_frames // _PATCH)


def token_padding(n_frames: Tensor, n_tokens: int) -> Tensor:
    """Return which tokens of a batch are padding, so that no clip depends on the others.

    A clip of n frames has 8 * (n // 16) tokens, as it has alone; with this mask they get the
    features that they get alone.

    Args:
        n_frames: frames of each clip, see `n_fbank_frames`, shape (B,), int.
        n_tokens: T, tokens of the longest clip.

    Returns:
        True where a token is padding, shape (B, T), bool.

    Example:
        >>> token_padding(torch.tensor([16, 47]), 16).sum(dim=1).tolist()
        [8, 0]
    """
    n_real = _TOKENS_PER_PATCH_ROW * (n_frames // _PATCH)
    return torch.arange(n_tokens, device=n_frames.device) >= n_real.unsqueeze(1)


def published_token_padding(
    n_samples: Tensor, max_samples: int, n_frames: int, n_tokens: int
) -> Tensor:
    """Return which tokens the published code takes for padding.

    There the samples are cut into as many groups as there are frames, the frames into as many as
    there are tokens, and what is left over at the end is dropped; a group is padding if all of it
    is. The rounding shifts the boundary: the last real patches may keep only their low frequencies,
    or some of the padding stays. So features depend on the longest clip of the batch.

    Args:
        n_samples: samples of each clip, shape (B,), int.
        max_samples: samples of the longest.
        n_frames: F, its frames.
        n_tokens: T, its tokens.

    Returns:
        True where a token is padding, shape (B, T), bool.

    Example:
        >>> published_token_padding(torch.tensor([4000, 8000]), 8000, 48, 24).sum(dim=1).tolist()
        [11, 0]
    """
    # A group is padding if its first sample is.
    samples_per_token = (n_frames // n_tokens) * (max_samples // n_frames)
    first_sample = samples_per_token * torch.arange(n_tokens, device=n_samples.device)
    return first_sample >= n_samples.unsqueeze(1)
