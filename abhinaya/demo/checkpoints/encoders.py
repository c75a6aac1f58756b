"""Tiny random models in the layouts in which the real ones are published.

What reads the published weights reads these; so the whole chain runs without a download. The same
seed gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from transformers import WavLMConfig, WhisperForConditionalGeneration

__all__ = [
    "build_whisper",
    "seeded",
    "write_distilhubert",
    "write_wavlm",
    "write_whisper",
    "write_whisper_openai",
    "write_xvector",
]

_SAMPLES_PER_FRAME = 320
_SAMPLE_RATE_HZ = 16_000

Norm = Literal["layer", "group"]


def write_wavlm(folder: Path, *, seed: int = 0, norm: Norm = "layer", **size: int) -> None:
    """Write a tiny WavLM in Hugging Face's layout, with the frame rate of the real ones.

    Args:
        folder: gets config.json, model.safetensors and preprocessor_config.json.
        seed: of the weights.
        norm: "layer" like WavLM-large, "group" like WavLM-base.
        size: `n_layers` (3), `n_features` (64) and `n_conv_features` (32) as in `write_xvector`.
    """
    from transformers import WavLMModel

    config = _wavlm_config(norm, **{"n_layers": 3, "n_features": 64, "n_conv_features": 32} | size)
    with seeded(seed):
        WavLMModel(config).save_pretrained(folder)
    _write_extractor(folder, norm == "layer")


def write_distilhubert(
    folder: Path, *, seed: int = 0, n_features: int = 64, n_conv_features: int = 32
) -> None:
    """Write a tiny DistilHuBERT in the layout of `ntu-spml/distilhubert`: two blocks, group norm.

    Args:
        folder: gets config.json, model.safetensors and preprocessor_config.json.
        seed: of the weights.
        n_features: D, width of the blocks; a multiple of 16. Published: 768.
        n_conv_features: width of the seven convolutions. Published: 512.
    """
    from transformers import HubertConfig, HubertModel

    config = HubertConfig(
        apply_spec_augment=False,
        conv_dim=(n_conv_features,) * 7,
        feat_proj_dropout=0.0,
        feat_proj_layer_norm=False,
        hidden_size=n_features,
        intermediate_size=4 * n_features,
        layerdrop=0.0,
        num_attention_heads=max(4, n_features // 64),
        num_hidden_layers=2,
    )
    with seeded(seed):
        HubertModel(config).save_pretrained(folder)
    _write_extractor(folder, False)


def write_xvector(
    folder: Path,
    *,
    seed: int = 0,
    norm: Norm = "group",
    n_layers: int = 2,
    n_features: int = 32,
    n_conv_features: int = 16,
    xvector_size: int = 16,
    init_std: float = 0.1,
) -> None:
    """Write a tiny WavLM with an x-vector head, in the layout of `microsoft/wavlm-base-plus-sv`.

    Args:
        folder: gets config.json, model.safetensors and preprocessor_config.json.
        seed: of the weights.
        norm: "group" like the published model, "layer" like the large WavLM.
        n_layers: transformer blocks.
        n_features: D, their width; a multiple of 16.
        n_conv_features: width of the seven convolutions.
        xvector_size: width of the embedding of a clip.
        init_std: standard deviation of the weights. With the usual 0.02 so narrow a network would
            shrink every embedding to nothing.
    """
    from transformers import WavLMForXVector

    config = _wavlm_config(
        norm,
        n_layers=n_layers,
        n_features=n_features,
        n_conv_features=n_conv_features,
        use_weighted_layer_sum=True,
        tdnn_dim=(n_features,) * 4 + (2 * n_features,),  # kernels and dilations as published
        xvector_output_dim=xvector_size,
        initializer_range=init_std,
        num_labels=8,  # speakers of its training; that part is not used
    )
    with seeded(seed):
        WavLMForXVector(config).save_pretrained(folder)
    _write_extractor(folder, False)


def _wavlm_config(
    norm: Norm, *, n_layers: int, n_features: int, n_conv_features: int, **further: Any
) -> WavLMConfig:
    from transformers import WavLMConfig

    return WavLMConfig(
        do_stable_layer_norm=norm == "layer",
        feat_extract_norm=norm,
        conv_dim=(n_conv_features,) * 7,
        hidden_size=n_features,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        intermediate_size=2 * n_features,
        **further,
    )


def _write_extractor(folder: Path, normalize: bool) -> None:
    from transformers import Wav2Vec2FeatureExtractor

    extractor: Any = Wav2Vec2FeatureExtractor
    extractor(do_normalize=normalize, return_attention_mask=normalize).save_pretrained(folder)


def write_whisper(folder: Path, **options: Any) -> None:
    """Write a tiny full Whisper in Hugging Face's layout.

    Args:
        folder: gets config.json, generation_config.json, model.safetensors and
            preprocessor_config.json.
        options: those of `build_whisper`.
    """
    from transformers import WhisperFeatureExtractor

    model = build_whisper(**options)
    model.save_pretrained(folder)
    window_s = model.config.max_source_positions * _SAMPLES_PER_FRAME // _SAMPLE_RATE_HZ
    extractor = cast("Any", WhisperFeatureExtractor)(
        feature_size=model.config.num_mel_bins, chunk_length=window_s
    )
    extractor.save_pretrained(folder)


def write_whisper_openai(file: Path, **options: Any) -> None:
    """Write the weights of `write_whisper` with the same options, as one file of openai-whisper.

    Args:
        file: the `.pt` file to write.
        options: those of `build_whisper`.
    """
    import torch

    from abhinaya.nn.whisper import DIMS, openai_name

    model = build_whisper(**options)
    dims = {key: getattr(model.config, name) for key, name in DIMS.items()}
    weights = {openai_name(key): value for key, value in model.model.state_dict().items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    # The name inside the archive would otherwise be that of the file.
    with file.open("wb") as stream:
        torch.save({"dims": dims, "model_state_dict": weights}, stream)


def build_whisper(
    *,
    seed: int = 0,
    chunk_s: int = 30,
    n_mels: int = 80,
    n_layers: int = 4,
    n_features: int = 64,
    init_std: float = 0.02,
    n_tokens: int = 64,
    n_positions: int = 32,
    n_decoder_layers: int = 1,
) -> WhisperForConditionalGeneration:
    """Build a tiny full Whisper with random weights.

    Args:
        seed: of the weights.
        chunk_s: length in seconds of the window that the encoder hears.
        n_mels: bins of the spectrogram.
        n_layers: blocks of the encoder.
        n_features: D, width of both; a multiple of 4.
        init_std: standard deviation of the weights. Whisper's own suits its 384 features and more;
            with a tenth of them the sound drowns in the position code, unless it is about 0.1.
        n_tokens: size of the vocabulary. So few suit an encoder's file; a model that transcribes
            needs those of openai-whisper's tokenizers: 51864 (English), 51865 or 51866.
        n_positions: most tokens that the decoder sees; a text has half as many at most.
        n_decoder_layers: blocks of the decoder.
    """
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=n_tokens,
        num_mel_bins=n_mels,
        d_model=n_features,
        encoder_layers=n_layers,
        encoder_attention_heads=4,
        encoder_ffn_dim=4 * n_features,  # openai-whisper knows no other width.
        decoder_layers=n_decoder_layers,
        decoder_attention_heads=4,
        decoder_ffn_dim=4 * n_features,
        max_source_positions=chunk_s * _SAMPLE_RATE_HZ // _SAMPLES_PER_FRAME,
        max_target_positions=n_positions,
        init_std=init_std,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        decoder_start_token_id=3,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    with seeded(seed):
        return WhisperForConditionalGeneration(config)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw torch's random numbers from `seed`, and put them back as they were afterwards."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
