"""SALMONN as a backbone: sound and prompt go in, the language model's last hidden states come out.

Tang et al. 2024, arXiv:2310.13289; as a classifier: the Abhinaya system, arXiv:2505.18217.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from abhinaya.nn.backbone import Backbone, freeze
from abhinaya.nn.lora import save_lora
from members.salmonn.encoders import SpeechEncoders
from members.salmonn.qformer import SpeechAdapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["SalmonnBackbone", "assemble"]


class SalmonnBackbone(Backbone):
    """Last hidden states of a language model that was given a prompt with speech in it.

    The sequence is [BOS, prompt before the speech, speech tokens, prompt after it, text]; the text
    may hold the transcript. No head over the vocabulary is applied, and only the last hidden states
    are kept.

    Args:
        encoder: the frozen encoders.
        adapter: what turns their frames into speech tokens.
        llm: language model, frozen but for its low-rank adapters; for answers in words with its
            head over the vocabulary, else without.
        published: repeat the public code: clips are pooled with their padding, whose parts stay
            where they are, and BEATs hears the padding of the batch.
    """

    encoder: SpeechEncoders
    context = ("before", "before_mask", "after", "after_mask", "text", "text_mask")
    pretrained = ("encoder", "llm")
    pad_row: Tensor

    def __init__(
        self,
        encoder: SpeechEncoders,
        adapter: SpeechAdapter,
        llm: PreTrainedModel,
        *,
        published: bool = False,
    ) -> None:
        super().__init__()
        freeze(encoder)
        self.encoder = encoder
        self.adapter = adapter
        self.llm = llm
        self.published = published
        self.n_features = int(llm.config.hidden_size)
        self.norm = nn.LayerNorm(self.n_features)
        # The public code adds a [PAD] row of random numbers to the vocabulary at every start.
        self.register_buffer("pad_row", torch.zeros(self.n_features), persistent=False)

    @property
    def encode_settings(self) -> dict[str, Any]:
        """What weights do not tell of the encoders' computation."""
        return {
            "whisper_heads": self.encoder.whisper.config.encoder_attention_heads,
            "beats": asdict(self.encoder.beats.config),
            "window_frames": self.encoder.window_frames,
            "trim_padding": self.encoder.trim_padding,
        }

    def forward_pretrained(
        self,
        input_features: Tensor,
        fbank: Tensor,
        n_samples: Tensor,
        n_fbank_frames: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return both encoders' frames, shape (B, 1, T, D), and which go on, shape (B, T).

        Args:
            input_features: log-mel spectrograms, shape (B, n_mels, 2 T).
            fbank: filter banks, shape (B, F, 128).
            n_samples: samples of each clip, shape (B,).
            n_fbank_frames: real frames of `fbank`, shape (B,).
        """
        padded = int(n_samples.max()) if self.published else None
        with torch.no_grad():
            states, mask = self.encoder(input_features, fbank, n_samples, n_fbank_frames, padded)
        return states.unsqueeze(1), mask

    def forward_trained(
        self, states: Tensor, mask: Tensor, **context: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return normalised last hidden states (B, L, H) of all tokens, and their mask (B, L).

        Args:
            states: shape (B, 1, T, D).
            mask: shape (B, T).
            context: token ids of the three parts of the text, `before` (with BOS), `after` and
                `text`, each of shape (B, its length), and where they are real.
        """
        embeds, attention = self.embed(states, mask, context)
        output = self.language_model(
            inputs_embeds=embeds.to(self._embedding.weight.dtype),
            attention_mask=attention.long(),
            use_cache=False,
        )
        hidden = self.norm(output.last_hidden_state.to(self.norm.weight.dtype))
        return hidden, torch.ones_like(attention) if self.published else attention

    def embed(
        self,
        states: Tensor,
        mask: Tensor,
        context: Mapping[str, Tensor],
        *,
        pad: Literal["right", "left"] = "right",
    ) -> tuple[Tensor, Tensor]:
        """Return what the language model reads: embeddings (B, L, H) and mask (B, L)."""
        speech, speech_mask = self.adapter(states.squeeze(1), mask)
        parts = [
            (self._embed_tokens(context["before"], context["before_mask"]), context["before_mask"]),
            (speech, speech_mask),
            (self._embed_tokens(context["after"], context["after_mask"]), context["after_mask"]),
            (self._embed_tokens(context["text"], context["text_mask"]), context["text_mask"]),
        ]
        return assemble(parts, pad="kept" if self.published else pad)

    @property
    def language_model(self) -> PreTrainedModel:
        """The language model without a head over the vocabulary."""
        return cast("PreTrainedModel", self.llm.base_model)

    def _embed_tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        embeds = self._embedding(ids).float()
        return torch.where(mask[..., None], embeds, self.pad_row)

    @property
    def _embedding(self) -> nn.Embedding:
        embedding = self.llm.get_input_embeddings()
        assert isinstance(embedding, nn.Embedding)
        return embedding

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the language model's layers; the encoders have no gradient to save for."""
        # The first name replaces the second one in the course of transformers 5.
        names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
        enable: Any = next(getattr(self.llm, name) for name in names if hasattr(self.llm, name))
        enable({"use_reentrant": False})

    def save_adapter(self, folder: Path) -> bool:
        """Write the adapters so that PEFT loads them into the causal language model."""
        base = str(self.llm.config.name_or_path)
        return save_lora(self.language_model, folder, prefix="model.", base=base)


def assemble(
    parts: list[tuple[Tensor, Tensor]], *, pad: Literal["right", "left", "kept"] = "right"
) -> tuple[Tensor, Tensor]:
    """Return one sequence per row out of padded parts.

    Args:
        parts: pairs of embeddings (B, length, H) and mask (B, length).
        pad: where the padding goes: `right` of everything, so that a row's positions do not depend
            on its neighbours; `left` of it, for sequences that are to be continued; or `kept`
            behind each part.

    Returns:
        embeds: shape (B, L, H).
        mask: shape (B, L).
    """
    embeds = torch.cat([part for part, _ in parts], dim=1)
    mask = torch.cat([part_mask for _, part_mask in parts], dim=1)
    if pad != "kept" and not bool(mask.all()):
        longest = int(mask.sum(dim=1).max())
        order = mask.int().argsort(dim=1, descending=pad == "right", stable=True)
        order = order[:, :longest] if pad == "right" else order[:, -longest:]
        embeds = embeds.gather(1, order[..., None].expand(-1, -1, embeds.shape[2]))
        mask = mask.gather(1, order)
    return embeds, mask
