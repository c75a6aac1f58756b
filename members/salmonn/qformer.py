"""The window-level Q-Former: a third of a second of sound becomes one token of the language model.

Tang et al. 2024, arXiv:2310.13289, section 3.1; the Q-Former itself is that of Li et al., "BLIP-2",
2023, arXiv:2301.12597.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerMultiHeadAttention

__all__ = ["SpeechAdapter"]


class SpeechAdapter(nn.Module):
    """Layer norms, Q-Former over windows, projection; all of it is trained.

    Args:
        config: of the Q-Former; `encoder_hidden_size` is Dw + Db.
        widths: (Dw, Db), features of Whisper and BEATs.
        n_queries: Q, tokens per window.
        n_features: H, width of the language model.
        window_frames: frames of a window.
        stride_frames: frames from one window to the next.
    """

    def __init__(
        self,
        config: Blip2QFormerConfig,
        *,
        widths: tuple[int, int],
        n_queries: int,
        n_features: int,
        window_frames: int,
        stride_frames: int,
    ) -> None:
        super().__init__()
        self.widths = widths
        self.window_frames = window_frames
        self.stride_frames = stride_frames
        self.ln_speech = nn.LayerNorm(widths[0])
        self.ln_audio = nn.LayerNorm(widths[1])
        self.query_tokens = nn.Parameter(torch.zeros(1, n_queries, config.hidden_size))
        self.qformer = Blip2QFormerModel(config)
        layers: Any = self.qformer.encoder.layer
        for layer in layers:
            layer.crossattention.attention = _make_folded(config, True)
        self.proj = nn.Linear(config.hidden_size, n_features)

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return speech tokens and which of them stand for sound.

        Args:
            features: what `SpeechEncoders` returns, shape (B, T, Dw + Db + 1).
            mask: frames that go on, shape (B, T).

        Returns:
            tokens: shape (B, W Q, H) for W windows; frames that fill no window are left out.
            mask: shape (B, W Q).
        """
        speech, audio, is_real = torch.split(features, [*self.widths, 1], dim=2)
        # Frames that BEATs does not have are zero behind the norm, whose bias would fill them.
        frames = torch.cat([self.ln_speech(speech), self.ln_audio(audio) * is_real], dim=2)
        windows = frames.unfold(1, self.window_frames, self.stride_frames)  # (B, W, D, frames)
        n_rows, n_windows = windows.shape[:2]
        windows = windows.permute(0, 1, 3, 2).flatten(0, 1)  # (B W, frames, D)
        queries = self.query_tokens.expand(len(windows), -1, -1)
        states = self.qformer(
            query_embeds=queries, encoder_hidden_states=windows
        ).last_hidden_state  # (B W, Q, hidden)
        tokens = self.proj(states).reshape(n_rows, n_windows * queries.shape[1], -1)
        token_mask = mask.unfold(1, self.window_frames, self.stride_frames).all(dim=2)  # (B, W)
        return tokens, token_mask.repeat_interleave(queries.shape[1], dim=1)


class _FoldedCrossAttention(Blip2QFormerMultiHeadAttention):
    """The same attention with the sums in another order, made for one query and many frames.

    A score q . (K x + b) is (K' q) . x + q . b, and a weighted sum of V x + b is V applied to the
    weighted sum of x: so the few queries are projected instead of the many frames.
    """

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """Return attended features (N, Q, hidden) of `encoder_hidden_states` (N, T, D)."""
        del attention_mask, encoder_attention_mask, kwargs  # windows are never padded
        assert encoder_hidden_states is not None
        frames = encoder_hidden_states
        heads = (self.num_attention_heads, self.attention_head_size)
        query = self.query(hidden_states)
        query = query.reshape(*query.shape[:2], *heads)  # (N, Q, heads, d)
        key, value = (layer.weight.reshape(*heads, -1) for layer in (self.key, self.value))
        folded = torch.einsum("nqhd,hdf->nhqf", query, key)
        # The same for all frames, so it changes nothing but lets the bias take part.
        shift = torch.einsum("nqhd,hd->nhq", query, self.key.bias.reshape(heads))
        scores = torch.einsum("nhqf,ntf->nhqt", folded, frames) + shift[..., None]
        weights = (self.scaling * scores).float().softmax(dim=3).to(frames.dtype)
        weights = F.dropout(weights, self.attention_dropout, self.training)
        attended = torch.einsum("nhqt,ntf->nhqf", weights, frames)
        result = torch.einsum("nhqf,hdf->nqhd", attended, value)
        total = weights.sum(dim=3).transpose(1, 2)[..., None]  # 1 without dropout, (N, Q, heads, 1)
        return (result + total * self.value.bias.reshape(heads)).flatten(2), None


# The constructor of transformers' class has no types.
_make_folded: Any = _FoldedCrossAttention
