"""WavLM, HuBERT or wav2vec 2.0 as a backbone whose result never depends on the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from abhinaya.errors import CheckpointError, MissingFileError, UnknownNameError
from abhinaya.export.graph import MaskedExtractor
from abhinaya.nn.backbone import Backbone, LayerMix
from abhinaya.nn.backbone import freeze as freeze_module
from abhinaya.nn.weight_files import (
    builds_skeletons,
    check_loading_report,
    read_model_config,
    read_shapes,
)

__all__ = ["Freeze", "WavLMBackbone", "load_encoder"]

Freeze = Literal["convolutions", "encoder", "nothing"]
"""What of the encoder is not trained."""

_MODEL_TYPES = ("hubert", "wav2vec2", "wavlm")

# Only SpecAugment reads it, and some published files lack it.
_MAY_BE_MISSING = {"masked_spec_embed"}

# Parts for pre-training or speech recognition that published files hold beside the encoder.
_MAY_BE_LEFT_OVER = ("adapter.", "lm_head.", "project_hid.", "project_q.", "quantizer.")


class WavLMBackbone(Backbone):
    """Frames of WavLM, one per 20 ms: its last hidden state, or a learned mix of all of them.

    Chen et al., "WavLM", 2022, arXiv:2110.13900. Encoders that normalise over the whole clip (group
    norm: WavLM-base, HuBERT-base, DistilHuBERT) hear every clip unpadded, because padding would
    change their output; the others (layer norm: the large models) get a mask instead.

    Args:
        encoder: WavLMModel, HubertModel or Wav2Vec2Model of transformers.
        freeze: what is not trained; the convolutions alone is the custom in fine-tuning.
        layer_weights: mix all hidden states (input of the first block, then every block) with
            learned weights; otherwise only the last hidden state is used.
        standardize: scale features by statistics of the training frames, see `LayerMix`.
        average_frames: make one frame of every clip, the mean over time.
        spec_augment: mask spans of frames in training, as much as the encoder's config says.

    Raises:
        UnknownNameError: if `freeze` is none of the three.
    """

    encoder: Any

    def __init__(
        self,
        encoder: Any,
        *,
        freeze: Freeze = "convolutions",
        layer_weights: bool = False,
        standardize: bool = False,
        average_frames: bool = False,
        spec_augment: bool = True,
    ) -> None:
        super().__init__()
        if freeze not in get_args(Freeze):
            raise UnknownNameError("part to freeze", freeze, get_args(Freeze))
        config = encoder.config
        self.encoder = encoder
        self.layer_weights = layer_weights
        self.average_frames = average_frames
        self.spec_augment = spec_augment
        self.n_features = config.hidden_size
        n_states = config.num_hidden_layers + 1 if layer_weights else 1
        self.layer_mix = LayerMix(n_states, config.hidden_size, standardize=standardize)
        if layer_weights:
            # A skipped layer would leave no state to mix.
            config.layerdrop = 0.0
        if freeze == "encoder":
            freeze_module(encoder)
        elif freeze == "convolutions":
            # Unlike `freeze`, it also stops gradients of the waveform; HuBERT has no public method.
            encoder.feature_extractor._freeze_parameters()
        if not spec_augment and hasattr(encoder, "masked_spec_embed"):
            # A parameter that never gets a gradient would stop distributed training.
            encoder.masked_spec_embed.requires_grad_(False)

    @classmethod
    def from_pretrained(
        cls, base: str, *, mask_time: float | None = None, **options: Any
    ) -> WavLMBackbone:
        """Return the backbone with published weights.

        Args:
            base: what `load_encoder` takes.
            mask_time: as `load_encoder` takes it.
            options: keyword arguments of the class.
        """
        return cls(load_encoder(base, mask_time=mask_time), **options)

    @property
    def encode_settings(self) -> dict[str, Any]:
        """The options that change what `forward_pretrained` returns."""
        return {"layer_weights": self.layer_weights, "average_frames": self.average_frames}

    @property
    def repeated_layers(self) -> list[str]:
        """None with group normalisation: clips run in groups, more or fewer in each process."""
        is_grouped = self.encoder.config.feat_extract_norm == "group"
        return [] if is_grouped else super().repeated_layers

    def forward_pretrained(self, waveforms: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden states and frame mask of waveforms.

        Args:
            waveforms: 16 kHz, padded at the end, shape (B, S); at least 400 samples each.
            mask: True where there is signal, shape (B, S).

        Returns:
            states: shape (B, N, T, D), or (B, N, 1, D) with `average_frames`.
            mask: True where a frame holds signal, shape (B, T) or (B, 1).
        """
        n_samples = mask.sum(dim=1)
        n_frames = self._count_frames(n_samples)
        # A graph that is exported knows no values, and hears the padding out.
        is_graph = torch.compiler.is_compiling()
        longest = self._count_frames(waveforms.shape[1]) if is_graph else int(n_frames.max())
        frame_mask = torch.arange(longest, device=mask.device) < n_frames[:, None]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            if isinstance(self.encoder.feature_extractor, MaskedExtractor):
                stacked = torch.stack([waveforms, mask.to(waveforms.dtype)], dim=1)
                states = self._hidden_states(stacked, mask.long())
            elif self.encoder.config.feat_extract_norm == "group":
                states = self._encode_unpadded(waveforms, n_samples)
            else:
                states = self._hidden_states(waveforms, mask.long())[:, :, : frame_mask.shape[1]]
        if not self.average_frames:
            return states, frame_mask
        total = (states * frame_mask[:, None, :, None]).sum(dim=2, keepdim=True)
        # (B, N, 1, D)
        return total / n_frames[:, None, None, None], torch.ones_like(frame_mask[:, :1])

    def forward_trained(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return mixed hidden states (B, T, D), and the mask as it came."""
        return self.layer_mix(states), mask

    def prepare_export(self) -> None:
        """Make group normalisation see the mask: a graph cannot take clips one by one."""
        if self.encoder.config.feat_extract_norm == "group":
            self.encoder.feature_extractor = MaskedExtractor(self.encoder.feature_extractor)

    def _encode_unpadded(self, waveforms: Tensor, n_samples: Tensor) -> Tensor:
        """Encode each group of equally long clips on its own, back in the batch's order."""
        rows_of_groups, groups = [], []
        for length in sorted(set(n_samples.tolist())):
            rows = (n_samples == length).nonzero().squeeze(1)
            rows_of_groups.append(rows)
            groups.append(self._hidden_states(waveforms[rows, :length], None))
        longest = groups[-1].shape[2]
        padded = [F.pad(states, (0, 0, 0, longest - states.shape[2])) for states in groups]
        return torch.cat(padded)[torch.cat(rows_of_groups).argsort()]

    def _hidden_states(self, waveforms: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Return states (B, N, T, D) straight from the encoder, of waveforms (B, S).

        For a `MaskedExtractor` these are stacked with their mask, shape (B, 2, S).
        """
        config = self.encoder.config
        # SpecAugment of transformers (5.23) fails on batches no longer than one span.
        n_frames = self._count_frames(waveforms.shape[-1])
        config.apply_spec_augment = (
            self.training and self.spec_augment and n_frames > config.mask_time_length
        )
        outputs = self.encoder(
            waveforms, attention_mask=attention_mask, output_hidden_states=self.layer_weights
        )
        if not self.layer_weights:
            return cast("Tensor", outputs.last_hidden_state.unsqueeze(1))
        # transformers 5 gives the last block's state without the final layer norm of large models.
        return torch.stack([*outputs.hidden_states[:-1], outputs.last_hidden_state], dim=1)

    def _count_frames(self, n_samples: Any) -> Any:
        """Count the frames that the convolutions make of samples, an integer or a tensor."""
        config = self.encoder.config
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            n_samples = (n_samples - kernel) // stride + 1
        return n_samples


def load_encoder(base: str, *, mask_time: float | None = None) -> PreTrainedModel:
    """Return a published speech encoder in float32, every key of its file accounted for.

    Args:
        base: folder with config.json and weights, or hub id such as `microsoft/wavlm-large`.
        mask_time: share of the frames that SpecAugment masks, above 0; by default the encoder's.

    Raises:
        MissingFileError: if there is no such model.
        CheckpointError: if it is another kind of model, or its weights do not fit.
    """
    try:
        config = read_model_config(base)
    except (OSError, ValueError) as err:
        raise _not_loaded(base, err) from err
    if config.model_type not in _MODEL_TYPES:
        raise CheckpointError(
            f"{base!r} holds a model of type {config.model_type!r}, expected one of "
            f"{', '.join(_MODEL_TYPES)}. Correct base."
        )
    # Its strided layers after the encoder are for speech recognition.
    config.add_adapter = False
    if mask_time is not None:
        config.mask_time_prob = mask_time  # before the vector that stands for masked frames is made
    if builds_skeletons():
        make_model: Any = AutoModel  # its methods have no types
        with torch.device("meta"):
            return cast("PreTrainedModel", make_model.from_config(config, dtype=torch.float32))
    try:
        encoder, report = AutoModel.from_pretrained(
            base,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # Reported below, with the others.
        )
    except OSError as err:
        raise _not_loaded(base, err) from err
    except Exception as err:  # a pickle that is damaged or holds code can fail in any way
        if Path(base).is_dir():
            read_shapes(Path(base))  # says which file, and why
        raise CheckpointError(
            f"base {base!r} cannot be loaded: {str(err).splitlines()[:1]}. Download it again."
        ) from err
    check_loading_report(
        report,
        encoder,
        base,
        may_be_missing=lambda key: key in _MAY_BE_MISSING,
        may_be_left_over=lambda key: key.startswith(_MAY_BE_LEFT_OVER),
    )
    return cast("PreTrainedModel", encoder)


def _not_loaded(base: str, reason: Exception) -> MissingFileError:
    return MissingFileError(
        f"base {base!r} cannot be loaded: {str(reason).splitlines()[0]} Give a folder with "
        "config.json and weights, or a hub id such as 'microsoft/wavlm-large'."
    )
