"""Whisper's encoder as a backbone: frames of a fixed window, cut to the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abhinaya.nn.backbone import Backbone, LayerMix
from abhinaya.nn.lora import save_lora

if TYPE_CHECKING:
    from transformers import WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

__all__ = ["LogMelFrontEnd", "WhisperBackbone", "upper_half"]


class WhisperBackbone(Backbone):
    """Frames of Whisper's encoder, one per 20 ms: its last hidden state, or a learned mix of all.

    Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022,
    arXiv:2212.04356. The encoder always hears its whole window (30 s in the published models),
    padded with silence, as it was trained to; the frames of the padding are cut off behind it.

    Args:
        encoder: Whisper's encoder; what of it is frozen or has adapters is settled before.
        layer_weights: mix all hidden states (input of the first block, every block, the last one
            after the final layer norm) with learned weights; otherwise only the last one is used.
        standardize: scale features by statistics of the training frames, see `LayerMix`.
        average_frames: make one frame of every clip, the mean over time.
        pointwise: widths of linear layers on each frame (convolutions of kernel 1), with ReLU and
            dropout between them; empty for none.
        pointwise_dropout: that dropout.
    """

    encoder: WhisperEncoder

    def __init__(
        self,
        encoder: WhisperEncoder,
        *,
        layer_weights: bool = False,
        standardize: bool = False,
        average_frames: bool = False,
        pointwise: Sequence[int] = (256, 256, 256),
        pointwise_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        config = encoder.config
        self.encoder = encoder
        self.layer_weights = layer_weights
        self.average_frames = average_frames
        n_states = config.encoder_layers + 1 if layer_weights else 1
        self.layer_mix = LayerMix(n_states, config.d_model, standardize=standardize)
        widths = [config.d_model, *pointwise]
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            if layers:
                layers += [nn.ReLU(), nn.Dropout(pointwise_dropout)]
            layers.append(nn.Linear(n_in, n_out))
        self.pointwise = nn.Sequential(*layers)
        self.n_features = widths[-1]
        if layer_weights:
            # A skipped layer would leave no state to mix.
            encoder.layerdrop = 0.0

    @property
    def encode_settings(self) -> dict[str, Any]:
        """The options that change what `forward_pretrained` returns."""
        return {"layer_weights": self.layer_weights, "average_frames": self.average_frames}

    def forward_pretrained(self, input_features: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden states and frame mask of log-mel spectrograms.

        Args:
            input_features: shape (B, n_mels, F), F the mel frames of the whole window.
            n_frames: real encoder frames of each clip, shape (B,), at least 1.

        Returns:
            states: shape (B, N, T, D) with T the largest of `n_frames`, or (B, N, 1, D) with
                `average_frames`.
            mask: True where a frame holds signal, shape (B, T) or (B, 1).
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            outputs = self.encoder(input_features, output_hidden_states=self.layer_weights)
            if self.layer_weights:
                # The last entry of `hidden_states` once lacked the final norm; this one has it.
                states = torch.stack(
                    [*outputs.hidden_states[:-1], outputs.last_hidden_state], dim=1
                )
            else:
                states = outputs.last_hidden_state.unsqueeze(1)
        # A graph that is exported knows no values: it keeps the whole window.
        longest = states.shape[2] if torch.compiler.is_compiling() else int(n_frames.max())
        mask = torch.arange(longest, device=n_frames.device) < n_frames[:, None]
        states = states[:, :, :longest]
        if not self.average_frames:
            return states, mask
        total = (states * mask[:, None, :, None]).sum(dim=2, keepdim=True)
        # (B, N, 1, D)
        return total / n_frames[:, None, None, None], torch.ones_like(mask[:, :1])

    def forward_trained(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return mixed and projected hidden states (B, T, D'), and the mask as it came."""
        return self.pointwise(self.layer_mix(states)), mask

    def save_adapter(self, folder: Path) -> bool:
        """Write the adapters, if there are any, so that PEFT loads them into the full Whisper."""
        base = str(self.encoder.config.name_or_path)
        return save_lora(self.encoder, folder, prefix="model.encoder.", base=base)


class LogMelFrontEnd(nn.Module):
    """Log-mel spectrograms of the model's whole window inside a graph, as `LogMelInputs` does it.

    Args:
        extractor: from `load_feature_extractor`; its `n_samples` is the window.
    """

    basis: Tensor
    filters: Tensor

    def __init__(self, extractor: WhisperFeatureExtractor) -> None:
        super().__init__()
        size = extractor.n_fft
        self.max_samples: int = extractor.n_samples
        self.hop = extractor.hop_length
        # Cosines, then sines, of a Hann window; in float64, as large angles lose digits.
        angles = torch.outer(torch.arange(size // 2 + 1), torch.arange(size)).double()
        angles *= 2 * torch.pi / size
        window = torch.hann_window(size, dtype=torch.float64)
        basis = torch.cat([angles.cos(), angles.sin()]) * window
        self.register_buffer("basis", basis.float().T.contiguous())
        self.register_buffer("filters", torch.from_numpy(extractor.mel_filters).float())

    def forward(self, waveforms: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Return `input_features`, shape (B, n_mels, F), and `n_frames`, shape (B,)."""
        half = self.basis.shape[0] // 2
        waveforms = F.pad(waveforms, (0, self.max_samples - waveforms.shape[1]))
        waveforms = F.pad(waveforms.unsqueeze(1), (half, half), mode="reflect").squeeze(1)
        # One frame more than fits into the window is dropped, as published.
        frames = waveforms.unfold(1, 2 * half, self.hop)[:, :-1]  # (B, F, n_fft)
        cosines, sines = (frames @ self.basis).chunk(2, dim=2)
        power = cosines.square() + sines.square()  # (B, F, n_fft / 2 + 1)
        log_mel = (power @ self.filters).clamp_min(1e-10).log10()  # (B, F, n_mels)
        loudest = log_mel.amax(dim=(1, 2), keepdim=True)
        features = (torch.maximum(log_mel, loudest - 8.0) + 4.0) / 4.0
        n_frames = (mask.sum(dim=1) + 2 * self.hop - 1) // (2 * self.hop)
        return {"input_features": features.transpose(1, 2), "n_frames": n_frames.clamp_min(1)}


def upper_half(encoder: WhisperEncoder) -> str:
    """Return regular expression for the feed-forward layers of an encoder's upper half.

    It fits the encoder on its own as well as inside the full model, and never the decoder. Of an
    odd number of layers the middle one belongs to the upper half.
    """
    n_layers = encoder.config.encoder_layers
    numbers = "|".join(str(idx) for idx in range(n_layers // 2, n_layers))
    return rf"(model\.encoder\.)?layers\.({numbers})\.fc[12]"
