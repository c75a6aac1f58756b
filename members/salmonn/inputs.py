"""What SALMONN hears and reads of an utterance: spectrogram, filter banks, token ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from abhinaya.data.audio import SAMPLE_RATE_HZ
from abhinaya.errors import BadValueError
from abhinaya.member import Utterance
from members.salmonn.beats.fbank import kaldi_fbank
from members.salmonn.sequence import PromptTokens, collate_tokens

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import WhisperFeatureExtractor

__all__ = ["SalmonnInputs"]


class SalmonnInputs:
    """Model inputs of SALMONN.

    Args:
        extractor: of Whisper's log-mel spectrograms; its `n_samples` is the window.
        tokens: makes the token ids.
        needs_text: whether the prompt holds the transcript.
        published: compute the filter banks of clips padded to the longest of the batch, as the
            public code does.
    """

    needs_audio = True

    def __init__(
        self,
        extractor: WhisperFeatureExtractor,
        tokens: PromptTokens,
        *,
        needs_text: bool,
        published: bool = False,
    ) -> None:
        self.extractor = extractor
        self.tokens = tokens
        self.needs_text = needs_text
        self.published = published

    @property
    def window_s(self) -> float:
        """Seconds that the model hears at once."""
        return float(self.extractor.n_samples / SAMPLE_RATE_HZ)

    def encode(self, utterance: Utterance) -> dict[str, Any]:
        """Return `input_features` (n_mels, 2 T), `fbank` (F, 128) or `waveform` (S,), and ids.

        Raises:
            BadValueError: if the waveform is missing or longer than the window.
        """
        from abhinaya.nn.whisper import log_mel

        waveform = utterance.waveform
        if waveform is None:
            raise BadValueError(
                f"{utterance.name!r} comes without a waveform, which SALMONN needs. "
                "Read its audio first."
            )
        if len(waveform) > self.extractor.n_samples:
            raise BadValueError(
                f"{utterance.name!r} has {len(waveform) / SAMPLE_RATE_HZ:g} s, but the model hears "
                f"{self.window_s:g} s at once. Set audio.max_audio_s to {self.window_s:g} or less "
                "and the crops to anything but full."
            )
        encoded: dict[str, Any] = {
            "input_features": log_mel(self.extractor, waveform),
            "n_samples": len(waveform),
        }
        if self.published:
            encoded["waveform"] = waveform
        else:
            encoded["fbank"] = kaldi_fbank(waveform)
        return encoded | self.encode_context(utterance)

    def collate(self, encoded: list[dict[str, Any]]) -> dict[str, Any]:
        """Return tensors for `SalmonnBackbone.forward_pretrained` and `.forward_trained`."""
        import torch

        n_samples = [row["n_samples"] for row in encoded]
        if self.published:
            longest = max(n_samples)
            fbanks = [
                kaldi_fbank(np.pad(row["waveform"], (0, longest - row["n_samples"])))
                for row in encoded
            ]
        else:
            fbanks = [row["fbank"] for row in encoded]
        n_frames = [len(fbank) for fbank in fbanks]
        fbank = np.zeros((len(fbanks), max(n_frames), fbanks[0].shape[1]), dtype=np.float32)
        for idx, rows in enumerate(fbanks):
            fbank[idx, : len(rows)] = rows
        features = np.stack([row["input_features"] for row in encoded])
        return {
            "input_features": torch.from_numpy(features),
            "fbank": torch.from_numpy(fbank),
            "n_samples": torch.tensor(n_samples),
            "n_fbank_frames": torch.tensor(n_frames),
            **self.collate_context(encoded),
        }

    def encode_context(self, utterance: Utterance) -> dict[str, Any]:
        """Return token ids alone, which no stored features hold."""
        return dict(self.tokens.encode(utterance))

    def collate_context(self, encoded: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return ids and masks of the three parts, shape (B, length)."""
        return collate_tokens(encoded)
