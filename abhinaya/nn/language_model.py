"""Published causal language models and their tokenizers, in any precision, every key accounted for.

A model comes from a folder in Hugging Face's layout or from the hub, with or without its head over
the vocabulary, and frozen: what is trained are adapters put into it.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from abhinaya.errors import (
    AbhinayaError,
    CheckpointError,
    MissingFileError,
    MissingPackageError,
    list_some,
)
from abhinaya.nn.weight_files import (
    builds_skeletons,
    check_loading_report,
    read_model_config,
    read_shapes,
    unusable,
)
from abhinaya.processes import join_launch, splits_weights

__all__ = [
    "Weights",
    "empty_language_model",
    "hidden_size_of",
    "is_left_over",
    "language_model_shapes",
    "load_language_model",
    "load_tokenizer",
]

Weights = Literal["float32", "bf16", "fp16", "int8", "nf4"]
"""Number type of frozen weights; the last two are quantised by bitsandbytes."""

_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_STORED_BYTES = {
    # One byte, and a float32 scale per row, which is nothing.
    "int8": 1.0,
    # QLoRA: half a byte; an 8-bit scale per 64 weights, and a float32 one per 256 of these.
    "nf4": 0.5 + 1 / 64 + 4 / (64 * 256),
}
"""Bytes of a quantised weight."""

# Old files store the rates of the rotary embedding, which are computed.
_MAY_BE_LEFT_OVER = ("rotary_emb.inv_freq",)

# What the classes of transformers call the matrix, and its bias, that a bare model does not have.
_HEAD_PREFIXES = ("lm_head.", "embed_out.")

_HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")

_LFS_START = b"version https://git-lfs"

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")


def load_language_model(
    base: str,
    *,
    weights: Weights = "float32",
    head: bool = False,
    device: torch.device | None = None,
) -> PreTrainedModel:
    """Load a causal language model, frozen and in evaluation mode, with SDPA attention.

    "int8" is LLM.int8() (Dettmers et al. 2022, arXiv:2208.07339). It looks for large features in
    the whole batch, so a row's result depends a little on its neighbours. "nf4" is the 4-bit type
    of QLoRA with quantised scales (Dettmers et al. 2023, arXiv:2305.14314, section 3); rows stay
    independent. In both, embeddings, norms and head stay unquantised; they and the computation are
    float32 on a CPU, bfloat16 on accelerators that have it, else float16.

    Args:
        base: folder with config.json and weights, or hub id such as `lmsys/vicuna-7b-v1.5`.
        weights: see above and `Weights`; whatever type the files have.
        head: False for the bare model, which ends with the final norm, holds no head and keeps no
            cache of past keys; True for the model that predicts tokens.
        device: where the weights go. None leaves plain ones on the CPU and puts quantised ones on
            this process's own device: moving those is costly, and several processes must not share.
            Plain ones that are to be split over the processes stay on the CPU in any case.

    Raises:
        MissingFileError: if there is no such model, or a part of it is not there.
        CheckpointError: if it is no causal language model, is damaged, is quantised already, or
            its weights do not fit its config.
        MissingPackageError: if "int8" or "nf4" lacks bitsandbytes.
    """
    if builds_skeletons():
        return _skeleton(base, weights)
    if _is_path(base):
        # Opens every file, so that a damaged one is known by its name.
        language_model_shapes(base)
    config = _read_config(base)
    options: dict[str, Any]
    if weights in ("int8", "nf4"):
        device = device or join_launch().device
        options = _quantization(weights, device)
    else:
        options = {"dtype": _DTYPES[weights]}
    if device is not None and (weights in ("int8", "nf4") or not splits_weights()):
        options["device_map"] = {"": device}
    if not head:
        config.use_cache = False
    loader: Any = AutoModelForCausalLM if head else AutoModel
    try:
        model, report = loader.from_pretrained(
            base,
            config=config,
            attn_implementation="sdpa",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # Reported below, with the others.
            **options,
        )
    except OSError as err:
        raise _not_loaded(base, err) from err
    except (ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as err:  # a network of impossible sizes can fail in any way
        raise unusable(f"The model {base!r}", err) from err
    check_loading_report(
        report,
        model,
        base,
        may_be_left_over=lambda key: is_left_over(key, head=head),
        misshapen=_misshapen(model),
    )
    model.requires_grad_(False)
    return cast("PreTrainedModel", model.eval())


def is_left_over(key: str, *, head: bool) -> bool:
    """Tell whether a tensor may be in the files of a model, with a head or without, unused."""
    return key.endswith(_MAY_BE_LEFT_OVER) or (not head and key.startswith(_HEAD_PREFIXES))


def empty_language_model(base: str) -> PreTrainedModel:
    """Build the bare model of a config.json, with shapes only: it is on the meta device.

    Args:
        base: as for `load_language_model`; the weights are not needed.

    Raises:
        MissingFileError: if there is no such model.
        CheckpointError: if it is no causal language model, or is quantised already.
    """
    config = _read_config(base)
    make_model: Any = AutoModel  # its methods have no types
    with torch.device("meta"):
        model = cast("PreTrainedModel", make_model.from_config(config))
    model.config.name_or_path = base
    return model


def _skeleton(base: str, weights: Weights) -> PreTrainedModel:
    """Build the bare model as an accelerator would hold it, on the meta device."""
    model: Any = empty_language_model(base)
    model.config.use_cache = False
    model.to(_DTYPES.get(weights, torch.bfloat16)).requires_grad_(False)
    if weights in _STORED_BYTES:
        for name, layer in model.named_modules():
            # Those in one of the blocks; the rest stays as it is.
            if isinstance(layer, nn.Linear) and re.search(r"\.\d+\.", name):
                weight: Any = layer.weight
                weight.stored_bytes = int(weight.numel() * _STORED_BYTES[weights])
    return cast("PreTrainedModel", model.eval())


def hidden_size_of(base: str) -> int:
    """Return the width of a language model, from its config alone.

    Raises:
        MissingFileError: if there is no such model.
        CheckpointError: if it is no causal language model.
    """
    if _is_path(base):
        _require_folder(base)
    return int(_read_config(base).get_text_config().hidden_size)


def language_model_shapes(base: str) -> dict[str, tuple[int, ...]]:
    """Read the shape of every tensor of a folder, under its files' names; no weights are loaded.

    Args:
        base: folder with config.json and weights.

    Raises:
        MissingFileError: if there is no such folder, or a part of it is not there.
        CheckpointError: if a file is damaged.
    """
    folder = _require_folder(base)
    if not (folder / "config.json").is_file():
        raise MissingFileError(
            f"The folder {base!r} has no config.json, so it is no model in Hugging Face's layout. "
            "Correct base, or download the model again."
        )
    return read_shapes(folder)


def load_tokenizer(base: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a language model, also where there is nothing but `tokenizer.model`.

    Args:
        base: as for `load_language_model`; the weights are not needed.

    Raises:
        MissingFileError: if there is no such folder or hub id, or it has no tokenizer.
        MissingPackageError: if a `tokenizer.model` lacks the packages sentencepiece or protobuf.
        CheckpointError: if the files cannot be read as a tokenizer.
    """
    if _is_path(base):
        _check_tokenizer_files(_require_folder(base))
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(base)
    except OSError as err:
        raise _not_loaded(base, err) from err
    except Exception as err:  # The readers of the formats fail in any way.
        if not _is_path(base):
            _require_packages()
        raise CheckpointError(
            f"The tokenizer of {base!r} cannot be read: {_first_line(err)} Download it again."
        ) from err
    return cast("PreTrainedTokenizerBase", tokenizer)


def _is_path(base: str) -> bool:
    """Tell whether `base` lies on this disk, or cannot be anything else."""
    return Path(base).exists() or not _HUB_ID.fullmatch(base)


def _require_folder(base: str) -> Path:
    """Return the folder, in which no file is the stand-in of a git checkout without git-lfs."""
    folder = Path(base)
    if not folder.is_dir():
        found = "is a file" if folder.is_file() else "is not there"
        raise MissingFileError(
            f"The folder {base!r} {found}. Give base as a folder in Hugging Face's layout, or as "
            "a hub id such as 'lmsys/vicuna-7b-v1.5'."
        )
    pointers = [file.name for file in sorted(folder.iterdir()) if _is_pointer(file)]
    if pointers:
        raise MissingFileError(
            f"{len(pointers)} files in {base!r} are pointers of git-lfs instead of what they stand "
            f"for: {list_some(pointers)}. Run git lfs pull there, or download the model again."
        )
    return folder


def _is_pointer(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(len(_LFS_START)) == _LFS_START


def _read_config(base: str) -> PreTrainedConfig:
    """Return the config, after a look whether it is one of a causal language model."""
    try:
        config: PreTrainedConfig = read_model_config(base)
    except (OSError, ValueError) as err:
        raise _not_loaded(base, err) from err
    if getattr(config, "quantization_config", None) is not None:
        raise CheckpointError(
            f"The weights of {base!r} are stored quantised, expected plain ones, which are "
            "quantised while they are loaded. Name the model that they were made from."
        )
    expected = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    classes = config.architectures or []
    if expected is None or (classes and expected not in classes):
        found = " and ".join(classes) or f"a model of type {config.model_type!r}"
        wanted = expected or "a class that predicts the next token, such as LlamaForCausalLM"
        raise CheckpointError(
            f"{base!r} holds {found}, which is no causal language model; expected {wanted}. "
            "Correct base."
        )
    return config


def _quantization(weights: Weights, device: torch.device) -> dict[str, Any]:
    """Return arguments of `from_pretrained` that quantise while loading."""
    try:
        importlib.import_module("bitsandbytes")
    except ImportError as err:
        raise MissingPackageError("bitsandbytes", f"weights: {weights}", "quant") from err
    if device.type == "cpu":
        dtype = torch.float32
    elif device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        dtype = torch.float16
    else:
        dtype = torch.bfloat16
    config_class: Any = BitsAndBytesConfig
    if weights == "int8":
        quantization = config_class(load_in_8bit=True)
    else:
        quantization = config_class(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return {"dtype": dtype, "quantization_config": quantization}


def _misshapen(model: PreTrainedModel) -> list[str]:
    """Return names of matrices of another shape than their layer's; nobody checks 4 bits."""
    return [
        f"{name}.weight"
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
        # 4-bit weights are stored flat; what they were is told beside them.
        and tuple(getattr(layer.weight, "quant_state", layer.weight).shape)
        != (layer.out_features, layer.in_features)
    ]


def _check_tokenizer_files(folder: Path) -> None:
    """Refuse what transformers would load as an empty tokenizer, or with other rules."""
    names = {file.name for file in folder.iterdir()}
    if not names & set(_TOKENIZER_FILES):
        raise MissingFileError(
            f"The folder {str(folder)!r} has no tokenizer, expected tokenizer.json or "
            "tokenizer.model. Download the model again."
        )
    if "tokenizer.model" in names and not names & {"tokenizer.json", "tokenizer_config.json"}:
        raise MissingFileError(
            f"The folder {str(folder)!r} has a tokenizer.model, but no tokenizer_config.json, "
            "which says how to use it. Download the model again."
        )
    if "tokenizer.model" in names and "tokenizer.json" not in names:
        _require_packages()


def _require_packages() -> None:
    """Refuse to go on without the readers of `tokenizer.model`.

    Without them transformers takes the file for one of another format and says so.
    """
    for module, package in (("sentencepiece", "sentencepiece"), ("google.protobuf", "protobuf")):
        try:
            importlib.import_module(module)
        except ImportError as err:
            raise MissingPackageError(package, "Reading tokenizer.model", "text") from err


def _not_loaded(base: str, reason: Exception) -> AbhinayaError:
    if Path(base).exists():
        return CheckpointError(
            f"{base!r} cannot be loaded: {_first_line(reason)} Download the model again."
        )
    return MissingFileError(
        f"There is no folder {base!r}, and as a hub id it cannot be fetched: "
        f"{_first_line(reason)} Correct base, or go online once."
    )


def _first_line(err: Exception) -> str:
    line = (str(err) or type(err).__name__).splitlines()[0].strip()
    return line if line.endswith(".") else f"{line}."
