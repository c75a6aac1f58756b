"""Whisper models that transcribe, in both published layouts, as openai-whisper's own class.

One class means one decoder: whatever the layout, `whisper.decode` does the work.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from abhinaya.errors import (
    BadValueError,
    CheckpointError,
    MissingFileError,
    MissingPackageError,
    UnknownNameError,
    list_some,
)
from abhinaya.files import read_json_object
from abhinaya.nn.weight_files import check_fit, open_safetensors, read_tensors, weight_files
from abhinaya.nn.whisper import DIMS, openai_name, read_openai

if TYPE_CHECKING:
    from whisper.model import Whisper

__all__ = [
    "find_whisper",
    "fingerprint",
    "halve_weights",
    "import_whisper",
    "load_whisper",
    "model_name",
]

_SIZES_OF_VOCABULARIES = (51864, 51865, 51866)
"""English; multilingual; multilingual with Cantonese (large-v3)."""


def import_whisper() -> Any:
    """Import the package openai-whisper.

    Raises:
        MissingPackageError: if it is not installed.
    """
    try:
        import whisper
    except ImportError as err:
        raise MissingPackageError("whisper", "Transcribing", "asr") from err
    return whisper


def model_name(base: str) -> str:
    """Name a model as transcript sources do: `large-v3`, or a file's stem.

    Example:
        >>> model_name("models/whisper-small/"), model_name("models/ours.v2.pt")
        ('whisper-small', 'ours.v2')
    """
    path = Path(base)
    if not path.exists() and (address := import_whisper()._MODELS.get(base)):
        return Path(address).stem  # Some names are second names: `large` is `large-v3`.
    return path.stem if path.suffix == ".pt" else path.resolve().name


def find_whisper(base: str, *, may_download: bool = False) -> Path:
    """Return the file or folder of a model; see `load_whisper`."""
    whisper = import_whisper()
    path = Path(base)
    if not path.exists():
        if base not in whisper.available_models():
            raise UnknownNameError(
                "file, folder or official model", base, whisper.available_models()
            )
        path = _find_official(base, may_download)
    return path


def load_whisper(base: str, device: torch.device, *, may_download: bool = False) -> Whisper:
    """Load a full Whisper model, float32, in evaluation mode, every key accounted for.

    Args:
        base: `.pt` file of openai-whisper, folder in Hugging Face's layout, or the name of an
            official model such as `large-v3`, which is looked up in openai-whisper's own cache.
        device: where it goes.
        may_download: fetch an official model that is not in the cache.

    Raises:
        MissingPackageError: if openai-whisper is not installed.
        UnknownNameError: if `base` is neither a file nor a folder nor an official model.
        MissingFileError: if an official model has not been downloaded or cannot be, or a folder
            lacks files.
        CheckpointError: if it is no Whisper model, has no decoder, or its weights do not fit.
    """
    path = find_whisper(base, may_download=may_download)
    dims, tensors = _read_hub(path) if path.is_dir() else _read_openai(path)
    return _build(dims, tensors, base, device).eval()


def halve_weights(model: Whisper) -> None:
    """Keep the weights of linear layers, convolutions and embeddings in half precision, in place.

    The official files hold half precision too, but openai-whisper makes float32 of it and converts
    every weight back at every step. Normalisation and positions stay in float32, as there.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Embedding):
            module.half()


def fingerprint(model: Whisper) -> str:
    """Return eight hexadecimal digits that tell one model's weights from another's.

    A thousand values of each tensor are hashed; layout, device and the fact that a file holds
    half-precision numbers make no difference. Take it before weights are halved.
    """
    hasher = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.flatten()
        sample = flat[:: max(1, len(flat) // 1000)].to("cpu", torch.float32)
        hasher.update(f"{name}{tuple(tensor.shape)}".encode())
        hasher.update(sample.numpy().tobytes())
    return hasher.hexdigest()[:8]


def _find_official(name: str, may_download: bool) -> Path:
    """Find an official model in openai-whisper's cache, fetched and checked if allowed."""
    whisper = import_whisper()
    address = whisper._MODELS[name]
    # The same place as in whisper.load_model, which does not say it.
    cache = Path(os.getenv("XDG_CACHE_HOME", Path.home() / ".cache")) / "whisper"
    file = cache / Path(address).name
    if may_download:
        try:
            whisper._download(address, str(cache), in_memory=False)
        except (OSError, RuntimeError) as err:
            raise MissingFileError(
                f"The official model {name!r} could not be fetched from {address!r}: {err}. Go "
                f"online once, or copy the file to {str(file)!r}."
            ) from err
    elif not file.is_file():
        raise MissingFileError(
            f"The official model {name!r} is not at {str(file)!r}. Add --download to fetch it, "
            "copy the file there, or give the path of another one."
        )
    return file


def _build(
    dims: dict[str, int], tensors: dict[str, Tensor], base: str, device: torch.device
) -> Whisper:
    """Build openai-whisper's model of these sizes with these weights."""
    from whisper.model import ModelDimensions, Whisper

    if not any(name.startswith("decoder.") for name in tensors):
        raise CheckpointError(
            f"{base!r} holds the encoder of a Whisper model alone; without its decoder it cannot "
            "transcribe. Give the full model."
        )
    if dims["n_vocab"] not in _SIZES_OF_VOCABULARIES:
        raise CheckpointError(
            f"{base!r} knows {dims['n_vocab']} tokens, but openai-whisper's tokenizers have "
            f"{', '.join(map(str, _SIZES_OF_VOCABULARIES))}. A model with other tokens cannot "
            "transcribe here; give one with Whisper's own."
        )
    with device:
        model = Whisper(ModelDimensions(**dims))
    check_fit(model.state_dict(), tensors, what="a Whisper model of its size", where=base)
    model.load_state_dict(tensors)
    return model


def _read_openai(file: Path) -> tuple[dict[str, int], dict[str, Tensor]]:
    content = read_openai(file)
    missing = sorted(DIMS.keys() - content["dims"].keys())
    if missing:
        raise CheckpointError(
            f"The 'dims' of {str(file)!r} lack {list_some(missing, len(missing))}. Download it "
            "again."
        )
    return content["dims"], content["model_state_dict"]


def _read_hub(folder: Path) -> tuple[dict[str, int], dict[str, Tensor]]:
    """Read sizes and tensors of a folder, under openai-whisper's names."""
    dims = _read_dims(folder)
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            with open_safetensors(file) as content:
                tensors |= {name: content.get_tensor(name) for name in content.keys()}
        else:
            tensors |= read_tensors(file)
    # The output layer is the embedding; some files hold it twice.
    tensors.pop("proj_out.weight", None)
    return dims, {openai_name(name): tensor for name, tensor in tensors.items()}


def _read_dims(folder: Path) -> dict[str, int]:
    file = folder / "config.json"
    if not file.is_file():
        raise MissingFileError(
            f"The folder {str(folder)!r} has no config.json, so it is no model in Hugging Face's "
            "layout. Correct the path, or download the model again."
        )
    try:
        config = read_json_object(file)
    except BadValueError as err:
        raise CheckpointError(f"{str(file)!r} is no JSON of a model: {err}") from err
    if config.get("model_type") != "whisper":
        raise CheckpointError(
            f"{str(folder)!r} holds a model of type {config.get('model_type')!r}, expected "
            "'whisper'. Correct the path."
        )
    missing = sorted({theirs for theirs in DIMS.values() if theirs not in config})
    if missing:
        raise CheckpointError(
            f"{str(file)!r} lacks {list_some(missing, len(missing))}. Download it again."
        )
    return {ours: config[theirs] for ours, theirs in DIMS.items()}
