"""The two frozen encoders that hear the sound: Whisper's for speech, BEATs for everything else.

Tang et al., "SALMONN: Towards Generic Hearing Abilities for Large Language Models", 2024,
arXiv:2310.13289, section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abhinaya.nn.whisper import SAMPLES_PER_FRAME
from members.salmonn.beats.model import Beats, count_tokens, published_token_padding, token_padding

if TYPE_CHECKING:
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

__all__ = ["SpeechEncoders"]


class SpeechEncoders(nn.Module):
    """Whisper's and BEATs' features of the same sound, side by side, 50 frames per second.

    Args:
        whisper: encoder that hears a window of fixed length, 30 s in the published models.
        beats: encoder that hears the clip alone; its features fill the frames that it has, the
            others are zero.
        window_frames: frames that become one speech token; with `trim_padding` the frames of a clip
            are rounded up to whole windows.
        trim_padding: let Whisper hear only the windows that hold sound.
    """

    def __init__(
        self,
        whisper: WhisperEncoder,
        beats: Beats,
        *,
        window_frames: int,
        trim_padding: bool = False,
    ) -> None:
        super().__init__()
        self.whisper = whisper
        self.beats = beats
        self.window_frames = window_frames
        self.trim_padding = trim_padding

    @property
    def n_frames(self) -> int:
        """T, frames of the whole window."""
        return int(self.whisper.config.max_source_positions)

    @property
    def widths(self) -> tuple[int, int]:
        """Features per frame of Whisper and of BEATs."""
        return int(self.whisper.config.d_model), self.beats.config.encoder_embed_dim

    def forward(
        self,
        input_features: Tensor,
        fbank: Tensor,
        n_samples: Tensor,
        n_fbank_frames: Tensor,
        padded_samples: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return features of every frame, and which frames go on.

        Args:
            input_features: log-mel spectrograms of the whole window, shape (B, n_mels, 2 T).
            fbank: filter banks of the clips, shape (B, F, 128).
            n_samples: samples of each clip, shape (B,).
            n_fbank_frames: real frames of `fbank`, shape (B,).
            padded_samples: samples that every clip was padded to before `fbank` was computed; given
                only to repeat the published computation, in which BEATs hears that padding.

        Returns:
            features: shape (B, T', Dw + Db + 1): Whisper's, BEATs', and 1 where these are real.
            mask: True in the frames that go on, shape (B, T'): all of them, or with `trim_padding`
                those of whole windows that hold sound.
        """
        n_frames = self._count_frames(n_samples)
        longest = int(n_frames.max())
        mask = torch.arange(longest, device=n_frames.device) < n_frames[:, None]
        speech = self._encode_speech(input_features, mask).float()
        n_heard = count_tokens(fbank.shape[1])
        if padded_samples is None:
            padding = token_padding(n_fbank_frames, n_heard)
            is_real = ~padding
        else:
            padding = published_token_padding(n_samples, padded_samples, fbank.shape[1], n_heard)
            is_real = torch.ones_like(padding)
        sound = self.beats(fbank, padding) * is_real[..., None]
        sound = torch.cat([sound, is_real[..., None].to(sound)], dim=2)
        # As many frames as Whisper has; a clip within the window never has more.
        sound = F.pad(sound, (0, 0, 0, max(0, longest - n_heard)))[:, :longest]
        return torch.cat([speech, sound], dim=2), mask

    def _count_frames(self, n_samples: Tensor) -> Tensor:
        if not self.trim_padding:
            return torch.full_like(n_samples, self.n_frames)
        n_windows = (n_samples / (SAMPLES_PER_FRAME * self.window_frames)).ceil().long()
        return (n_windows.clamp_min(1) * self.window_frames).clamp_max(self.n_frames)

    def _encode_speech(self, input_features: Tensor, mask: Tensor) -> Tensor:
        input_features = input_features.to(self.whisper.conv1.weight.dtype)
        if not self.trim_padding:
            whole: Tensor = self.whisper(input_features).last_hidden_state
            return whole
        return _whisper_of_cut_clips(self.whisper, input_features, mask)


def _whisper_of_cut_clips(whisper: WhisperEncoder, input_features: Tensor, mask: Tensor) -> Tensor:
    """Return Whisper's last hidden state if each clip ended where its mask does, shape (B, T', D).

    transformers' own forward knows only the whole window. What lies behind a clip is set to zero
    where the convolutions pad with zeros, and hidden from attention, so that neighbours in the
    batch change nothing.
    """
    n_frames = mask.shape[1]
    mel_mask = mask.repeat_interleave(2, dim=1)[:, None]  # two mel frames make one frame
    states = F.gelu(whisper.conv1(input_features[:, :, : 2 * n_frames] * mel_mask)) * mel_mask
    states = F.gelu(whisper.conv2(states)).transpose(1, 2)
    states = states + whisper.embed_positions.weight[:n_frames]
    hidden = None
    if not bool(mask.all()):
        lowest = torch.finfo(states.dtype).min
        hidden = torch.zeros_like(mask, dtype=states.dtype).masked_fill(~mask, lowest)
        hidden = hidden[:, None, None, :]  # (B, 1, 1, T')
    for layer in whisper.layers:
        states = layer(states, hidden)
    normed: Tensor = whisper.layer_norm(states)
    return normed
