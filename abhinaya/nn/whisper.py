"""Whisper encoders in the layouts in which they are published, every key accounted for.

Two layouts are read: a Hugging Face folder (config.json with safetensors or `pytorch_model.bin`
files, sharded or not), and the single file of openai-whisper (`dims` and `model_state_dict`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from abhinaya.data.audio import SAMPLE_RATE_HZ
from abhinaya.errors import CheckpointError, MissingFileError
from abhinaya.nn.weight_files import (
    builds_skeletons,
    check_fit,
    open_safetensors,
    read_model_config,
    read_pickle,
    read_shapes,
    read_tensors,
    unusable,
    weight_files,
)

__all__ = [
    "DIMS",
    "SAMPLES_PER_FRAME",
    "encoder_shapes",
    "hub_name",
    "load_encoder",
    "load_feature_extractor",
    "log_mel",
    "openai_name",
    "read_openai",
]

_HOP_SAMPLES = 160

SAMPLES_PER_FRAME = 2 * _HOP_SAMPLES
"""Samples per encoder frame, 20 ms: two mel frames make one in the second convolution."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

DIMS = {
    "n_mels": "num_mel_bins",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_vocab": "vocab_size",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
}
"""openai-whisper's sizes, and their keys in a config.json."""

# Names of tensors in transformers, and in openai-whisper.
_NAMES = (
    ("encoder.layer_norm.", "encoder.ln_post."),
    ("decoder.layer_norm.", "decoder.ln."),
    ("embed_positions.weight", "positional_embedding"),
    ("embed_tokens.", "token_embedding."),
    ("layers.", "blocks."),
    ("encoder_attn_layer_norm.", "cross_attn_ln."),
    ("self_attn_layer_norm.", "attn_ln."),
    ("final_layer_norm.", "mlp_ln."),
    ("encoder_attn.", "cross_attn."),
    ("self_attn.", "attn."),
    ("q_proj.", "query."),
    ("k_proj.", "key."),
    ("v_proj.", "value."),
    ("out_proj.", "out."),
    ("fc1.", "mlp.0."),
    ("fc2.", "mlp.2."),
)


def openai_name(name: str) -> str:
    """Return openai-whisper's name of a tensor of transformers' Whisper.

    Example:
        >>> openai_name("model.decoder.layers.3.encoder_attn.q_proj.weight")
        'decoder.blocks.3.cross_attn.query.weight'
        >>> openai_name("model.encoder.layer_norm.bias")
        'encoder.ln_post.bias'
    """
    name = name.removeprefix("model.")
    for theirs, openai in _NAMES:
        name = re.sub(rf"\b{re.escape(theirs)}", openai, name)
    return name


def hub_name(name: str) -> str:
    """Return the name in transformers' Whisper of a tensor of openai-whisper.

    Example:
        >>> hub_name("encoder.blocks.3.attn.query.weight")
        'encoder.layers.3.self_attn.q_proj.weight'
    """
    for theirs, openai in _NAMES:
        name = re.sub(rf"\b{re.escape(openai)}", theirs, name)
    return name


def load_encoder(base: str) -> WhisperEncoder:
    """Load the encoder of a Whisper model, float32, in evaluation mode; a decoder is not even read.

    Args:
        base: Hugging Face folder, `.pt` file of openai-whisper, or hub id such as
            `openai/whisper-large-v3`. The folder may hold the encoder alone.

    Raises:
        MissingFileError: if there is no such model, or a part of it is not there.
        CheckpointError: if it is no Whisper model, or its weights do not fit.
    """
    path = _locate(base)
    config = _read_config(path)
    config.name_or_path = base
    # Weights that are replaced at once need no memory and no random numbers.
    with torch.device("meta"):
        encoder: Any = WhisperEncoder(config)
    if builds_skeletons():
        return cast("WhisperEncoder", encoder.eval())
    tensors = _read_openai_tensors(path) if path.is_file() else _read_hub_tensors(path)
    check_fit(encoder.state_dict(), tensors, what="a Whisper encoder of its size", where=base)
    encoder.load_state_dict(tensors, assign=True)
    return cast("WhisperEncoder", encoder.eval())


def encoder_shapes(base: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter of an encoder, after a look whether the files hold it.

    Of a folder no weights are loaded; the single file of openai-whisper is loaded as a whole.

    Args:
        base: see `load_encoder`.

    Raises:
        MissingFileError: see `load_encoder`.
        CheckpointError: see there.
    """
    path = _locate(base)
    if path.is_file():
        encoder: Any = load_encoder(str(path))
    else:
        with torch.device("meta"):
            encoder = WhisperEncoder(_read_config(path))
    expected = {name: tuple(value.shape) for name, value in encoder.named_parameters()}
    if path.is_dir():
        stored = read_shapes(path)
        got = {_short_name(key): stored[key] for key in _encoder_keys(stored)}
        check_fit(expected, got, what="a Whisper encoder of its size", where=base)
    return expected


def load_feature_extractor(base: str) -> WhisperFeatureExtractor:
    """Load what makes a Whisper model's log-mel spectrograms; its `n_samples` is the window.

    Args:
        base: as for `load_encoder`. Without preprocessor_config.json the model's own sizes decide.

    Raises:
        MissingFileError: if there is no such model.
        CheckpointError: if its preprocessor_config.json contradicts its config.json.
    """
    path = _locate(base)
    config = _read_config(path)
    if (path / "preprocessor_config.json").is_file():
        try:
            extractor = WhisperFeatureExtractor.from_pretrained(path)
        except Exception as err:  # of any kind, where its values are of a wrong type
            raise unusable(f"The preprocessor_config.json of {base!r}", err) from err
    else:
        extractor = cast("Any", WhisperFeatureExtractor)(feature_size=config.num_mel_bins)
    got = (extractor.feature_size, extractor.hop_length, extractor.sampling_rate)
    expected = (config.num_mel_bins, _HOP_SAMPLES, SAMPLE_RATE_HZ)
    if got != expected:
        raise CheckpointError(
            f"The preprocessor_config.json of {base!r} makes {got[0]} mel bins with a hop of "
            f"{got[1]} samples at {got[2]} Hz, expected {expected[0]}, {expected[1]} and "
            f"{expected[2]} Hz. Take the file of the same model."
        )
    # Cropped models (SAILER's hears 15 s) often come with the file of the full one.
    extractor.n_samples = config.max_source_positions * SAMPLES_PER_FRAME
    return extractor


def log_mel(extractor: WhisperFeatureExtractor, waveform: NDArray[np.float32]) -> NDArray[Any]:
    """Return the log-mel spectrogram of a waveform in the model's window, shape (n_mels, F).

    Only frames that hear the waveform are computed. Those of the silence behind it are all alike,
    and the lowest of all, so they change none of the others.

    Args:
        extractor: from `load_feature_extractor`; its `n_samples` is the window.
        waveform: 16 kHz samples, shape (S,), S at most the window.
    """
    n_frames = extractor.n_samples // extractor.hop_length
    # Half a transform reaches back to the last sample. Two frames more: the last one is silent, and
    # so is what is mirrored at the end for it.
    n_heard = -(-(len(waveform) + extractor.n_fft // 2) // extractor.hop_length) + 2
    found = extractor(
        waveform,
        sampling_rate=SAMPLE_RATE_HZ,
        max_length=min(n_heard, n_frames) * extractor.hop_length,
        return_tensors="np",
    )["input_features"][0]
    return np.pad(found, ((0, 0), (0, n_frames - found.shape[1])), mode="edge")


def _locate(base: str) -> Path:
    """Find the file or folder of a model, fetched from the hub if `base` is a hub id."""
    path = Path(base)
    if path.exists():
        return path
    if not _HUB_ID.fullmatch(base):
        raise MissingFileError(
            f"There is no {base!r}. Give a Hugging Face folder, a .pt file of "
            "openai-whisper, or a hub id such as 'openai/whisper-large-v3'."
        )
    import huggingface_hub

    try:
        for weights in (["model.safetensors", "model-*.safetensors"], ["pytorch_model*.bin"]):
            patterns = ["*config.json", "*.index.json", *weights]
            path = Path(huggingface_hub.snapshot_download(base, allow_patterns=patterns))
            if any(file for pattern in weights for file in path.glob(pattern)):
                break
    except (OSError, ValueError) as err:
        raise MissingFileError(
            f"There is no file or folder {base!r}, and as a hub id it cannot be fetched: "
            f"{str(err).splitlines()[0]} Correct the path, or go online once."
        ) from err
    return path


def _read_config(path: Path) -> WhisperConfig:
    if path.is_file():
        dims = read_openai(path)["dims"]
        return WhisperConfig(
            num_mel_bins=dims["n_mels"],
            max_source_positions=dims["n_audio_ctx"],
            d_model=dims["n_audio_state"],
            encoder_attention_heads=dims["n_audio_head"],
            encoder_layers=dims["n_audio_layer"],
            encoder_ffn_dim=4 * dims["n_audio_state"],
        )
    if not (path / "config.json").is_file():
        raise MissingFileError(
            f"The folder {str(path)!r} has no config.json, so it is no model in Hugging Face's "
            "layout. Correct the path, or download the model again."
        )
    try:
        config = read_model_config(path)
    except OSError as err:
        raise unusable(f"The config.json of {str(path)!r}", err) from err
    if not isinstance(config, WhisperConfig):
        raise CheckpointError(
            f"{str(path)!r} holds a model of type {config.model_type!r}, expected 'whisper'. "
            "Correct the path."
        )
    return config


def _read_hub_tensors(folder: Path) -> dict[str, Tensor]:
    """Read a Hugging Face folder's encoder tensors, float32, under the names of WhisperEncoder."""
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            with open_safetensors(file) as content:
                for key in _encoder_keys(content.keys()):
                    tensors[_short_name(key)] = content.get_tensor(key).to(torch.float32)
        else:
            weights = read_tensors(file)
            for key in _encoder_keys(weights):
                # A copy, because the file's own tensors are mapped from disk.
                tensors[_short_name(key)] = weights[key].to(torch.float32, copy=True)
    return tensors


def _encoder_keys(keys: Iterable[str]) -> list[str]:
    decoder = ("model.decoder.", "decoder.", "proj_out.")
    return [key for key in keys if not key.startswith(decoder)]


def _short_name(key: str) -> str:
    return key.removeprefix("model.").removeprefix("encoder.")


def _read_openai_tensors(file: Path) -> dict[str, Tensor]:
    """Read an openai-whisper file's encoder tensors, float32, under the names of WhisperEncoder."""
    weights = read_openai(file)["model_state_dict"]
    return {
        _short_name(hub_name(key)): weights[key].to(torch.float32, copy=True)
        for key in _encoder_keys(weights)
    }


def read_openai(file: Path) -> dict[str, Any]:
    """Read a file of openai-whisper: its `dims` and its `model_state_dict`.

    Raises:
        CheckpointError: if it is none.
    """
    content = read_pickle(file)
    if not isinstance(content, dict) or not {"dims", "model_state_dict"} <= content.keys():
        raise CheckpointError(
            f"{str(file)!r} has no 'dims' and 'model_state_dict', expected a file of "
            "openai-whisper. For other layouts give the folder with config.json."
        )
    return content
