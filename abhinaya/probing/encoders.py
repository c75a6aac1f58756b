"""Any speech encoder of transformers as clip vectors: each layer, averaged over real frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoFeatureExtractor, AutoModel

from abhinaya.data.audio import SAMPLE_RATE_HZ
from abhinaya.data.problems import Problem
from abhinaya.errors import BadValueError, CheckpointError, MissingFileError
from abhinaya.loading.clips import Clip, Cropping
from abhinaya.loading.features import FeatureStore
from abhinaya.member import Utterance
from abhinaya.nn.backbone import Backbone, freeze
from abhinaya.nn.classifier_config import CacheConfig
from abhinaya.nn.weight_files import check_loading_report, read_model_config, unusable
from abhinaya.nn.whisper import (
    SAMPLES_PER_FRAME,
    load_encoder,
    load_feature_extractor,
    log_mel,
)

if TYPE_CHECKING:
    from transformers import WhisperFeatureExtractor

__all__ = ["LayerAverages", "embed_layers", "load_layer_averages"]

# Of published files, parts beside the encoder, and what only masking in training reads.
_MAY_BE_LEFT_OVER = ("adapter.", "lm_head.", "project_hid.", "project_q.", "quantizer.")
_MAY_BE_MISSING = ("masked_spec_embed",)


class LayerAverages(Backbone):
    """Hidden states of an encoder, from its first block's input on, averaged over real frames.

    Clips share a pass only if they are equally long, so nothing is padded but Whisper's window,
    whose frames behind the clip are cut off.

    Args:
        encoder: a model of transformers that returns hidden states.
        extractor: makes its inputs of waveforms.
        label: how messages call it.
    """

    encoder: Any

    def __init__(self, encoder: Any, extractor: Any, label: str) -> None:
        super().__init__()
        self.encoder, self.extractor, self.label = encoder, extractor, label
        self.is_whisper = encoder.config.model_type == "whisper"
        # A skipped layer would leave no state.
        for key in ("layerdrop", "encoder_layerdrop"):
            if hasattr(encoder.config, key):
                setattr(encoder.config, key, 0.0)
        freeze(self)
        self.eval()

    @property
    def encode_settings(self) -> dict[str, Any]:
        """What makes the encoder's inputs, and how its states are averaged."""
        return {"layer_averages": 1, "extractor": self.extractor.to_dict()}

    def forward_pretrained(self, waveforms: Tensor, n_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return averages, shape (B, N, 1, D), and a mask of ones, shape (B, 1).

        Args:
            waveforms: 16 kHz, padded at the end, shape (B, S).
            n_samples: real samples of each, shape (B,).
        """
        averages: list[Tensor] = [waveforms] * len(waveforms)
        for length in sorted(set(n_samples.tolist())):
            rows = (n_samples == length).nonzero()[:, 0]
            heard = [waveforms[row, :length].cpu().numpy() for row in rows]
            for row, average in zip(rows.tolist(), self._average(heard), strict=True):
                averages[row] = average
        states = torch.stack(averages).unsqueeze(2)
        return states, torch.ones(len(states), 1, dtype=torch.bool, device=states.device)

    def forward_trained(
        self, states: Tensor, mask: Tensor, *args: Any, **context: Any
    ) -> tuple[Tensor, Tensor]:
        """Return states as they are: nothing here is trained."""
        del args, context
        return states, mask

    def _average(self, waveforms: Sequence[NDArray[np.float32]]) -> Tensor:
        """Return averages (B, N, D) of waveforms of one length."""
        device = next(self.encoder.parameters()).device
        if self.is_whisper:
            mels = np.stack([log_mel(self.extractor, waveform) for waveform in waveforms])
            outputs = self.encoder(torch.from_numpy(mels).to(device), output_hidden_states=True)
            # The last entry of `hidden_states` once lacked the final norm; this one has it.
            states = [*outputs.hidden_states[:-1], outputs.last_hidden_state]
            n_frames = max(1, -(-len(waveforms[0]) // SAMPLES_PER_FRAME))
            return torch.stack([layer[:, :n_frames].mean(1) for layer in states], dim=1)
        inputs = self.extractor(
            list(waveforms), sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt"
        ).to(device)
        outputs = self.encoder(**inputs, output_hidden_states=True)
        states = getattr(outputs, "hidden_states", None) or []
        shapes = sorted({tuple(layer.shape) for layer in states})
        if len(shapes) != 1 or len(shapes[0]) != 3:
            kind = type(self.encoder).__name__
            has = f"hidden states of the shapes {shapes}" if states else "no hidden states"
            raise BadValueError(
                f"The encoder {self.label!r}, a {kind}, has {has}; expected one shape (clips, "
                "frames, features) for all layers. Name another encoder, such as "
                "microsoft/wavlm-base or openai/whisper-base."
            )
        mask = inputs.get("attention_mask")
        stacked = torch.stack(list(states), dim=1)  # (B, N, T, D)
        if mask is None or mask.shape[1] != stacked.shape[2]:
            return stacked.mean(2)
        real: Tensor = mask[:, None, :, None].to(stacked.dtype)
        return (stacked * real).sum(2) / real.sum(2)


class WaveformInputs:
    """Waveforms as they are; what the model makes of them is done in its pass."""

    needs_audio = True
    needs_text = False

    def encode(self, utterance: Utterance) -> dict[str, Any]:
        """Return the waveform of an utterance."""
        assert utterance.waveform is not None
        return {"waveform": utterance.waveform}

    def collate(self, encoded: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad waveforms to one array, and count their samples."""
        waveforms = [torch.from_numpy(entry["waveform"]) for entry in encoded]
        n_samples = torch.tensor([len(waveform) for waveform in waveforms])
        return {
            "waveforms": nn.utils.rnn.pad_sequence(waveforms, batch_first=True),
            "n_samples": n_samples,
        }


def load_layer_averages(base: str, *, random_seed: int | None = None) -> LayerAverages:
    """Load an encoder with its published weights, or random ones in the same architecture.

    Args:
        base: folder in Hugging Face's layout, hub id, or openai-whisper's file.
        random_seed: of the weights of an untrained encoder, a control; None loads the published.

    Raises:
        MissingFileError: if there is no such model.
        CheckpointError: if it is no speech model at 16 kHz, or its weights do not fit.
    """
    if base.endswith(".pt"):
        return LayerAverages(*_load_whisper(base, random_seed), base)
    try:
        config = read_model_config(base)
        if config.model_type == "whisper":
            return LayerAverages(*_load_whisper(base, random_seed), base)
        extractor = cast("Any", AutoFeatureExtractor).from_pretrained(base)
    except (OSError, ValueError) as err:
        if isinstance(err, MissingFileError | CheckpointError):
            raise
        raise MissingFileError(
            f"The encoder {base!r} cannot be loaded: {str(err).splitlines()[0]} Give a folder with "
            "config.json, weights and preprocessor_config.json, or a hub id of a speech model such "
            "as 'microsoft/wavlm-base'."
        ) from err
    except Exception as err:  # of any kind, where its values are of a wrong type
        raise unusable(f"The preprocessor_config.json of {base!r}", err) from err
    if getattr(extractor, "sampling_rate", None) != SAMPLE_RATE_HZ:
        raise CheckpointError(
            f"{base!r} is no speech encoder at {SAMPLE_RATE_HZ} Hz: its preprocessor is a "
            f"{type(extractor).__name__}. Choose another model."
        )
    try:
        if random_seed is None:
            encoder, report = AutoModel.from_pretrained(
                base, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
            )
            prefix = f"{encoder.base_model_prefix}."
            check_loading_report(
                report,
                encoder,
                base,
                may_be_missing=lambda key: key.removeprefix(prefix).startswith(_MAY_BE_MISSING),
                may_be_left_over=lambda key: key.startswith(_MAY_BE_LEFT_OVER),
            )
        else:
            with _seeded(random_seed):
                encoder = cast("Any", AutoModel).from_config(config, dtype=torch.float32)
    except CheckpointError:
        raise
    except (OSError, ValueError, SafetensorError) as err:
        raise unusable(f"The model {base!r}", err) from err
    if getattr(encoder, "masked_spec_embed", None) is not None:
        nn.init.zeros_(encoder.masked_spec_embed)  # random where the file lacks it, and never used
    if encoder.config.is_encoder_decoder:
        encoder = encoder.get_encoder()
    return LayerAverages(encoder, extractor, base)


def embed_layers(
    backbone: LayerAverages,
    clips: Sequence[Clip],
    cache: CacheConfig,
    *,
    max_audio_s: float,
    batch_size: int = 8,
) -> tuple[NDArray[np.float32], list[Clip], list[Problem]]:
    """Return layer averages of clips; those in the cache are not computed again.

    Args:
        backbone: the encoder.
        clips: with audio.
        cache: where averages are kept, by weights, settings and the bytes of the sound file.
        max_audio_s: of a longer clip the middle is heard; of Whisper's at most its window.
        batch_size: clips per pass.

    Returns:
        features: shape (N, L + 1, D), float32.
        clips: those that could be used, in order.
        problems: of the others.
    """
    if backbone.is_whisper:
        max_audio_s = min(max_audio_s, backbone.extractor.n_samples / SAMPLE_RATE_HZ)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    backbone.to(device)
    store = FeatureStore(cache, backbone, WaveformInputs(), Cropping("centre", max_audio_s))
    problems = store.fill(clips, batch_size=batch_size, device=device)
    lost = {problem.utterance for problem in problems}
    used = [clip for clip in clips if clip.utterance not in lost]
    # (P, T, N, D) of one segment of one frame each.
    found = [np.asarray(store.load(clip)[0]["states"][0]) for clip in used]
    features = np.stack(found) if found else np.zeros((0, 0, 0), np.float32)
    return features.astype(np.float32), used, problems


def _load_whisper(base: str, random_seed: int | None) -> tuple[Any, WhisperFeatureExtractor]:
    encoder: Any = load_encoder(base)
    if random_seed is not None:
        with _seeded(random_seed):
            encoder = type(encoder)(encoder.config).eval()
    return encoder, load_feature_extractor(base)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw weights from a seed, and leave torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
