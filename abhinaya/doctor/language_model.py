"""What `abhinaya doctor` looks at in members with a language model; no weights are loaded."""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

from abhinaya.config import DataConfig
from abhinaya.doctor.checks import Findings, find_model
from abhinaya.errors import MissingPackageError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "check_language_model",
    "check_quantisation",
    "check_tokenizer",
    "check_transcripts",
    "shapes_of",
]

_PLAIN_NAMES = ("llama", "mistral", "qwen2", "qwen3")
"""Types of models whose files have the names of transformers' classes, without a conversion."""

_COMPUTED = ("rotary_emb.inv_freq",)
"""Ends of the names of tensors that old files store although they are computed."""


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by its name."""
    return {name: tuple(value.shape) for name, value in module.named_parameters()}


def check_language_model(base: str, findings: Findings) -> PreTrainedModel | None:
    """The bare model of a folder's config.json, without memory for its weights.

    Of LLaMA and its nearest relatives names and shapes in the files are compared with it; other
    families are compared when they are loaded.

    Args:
        base: folder or hub id.
        findings: get its sizes, or what is wrong with it.

    Returns:
        Null if it cannot be used, or is not on this disk.
    """
    from abhinaya.nn.language_model import language_model_shapes
    from abhinaya.nn.weight_files import weight_files

    found = findings.attempt("base", base, lambda: (find_model(base),))
    if found is None:
        return None
    path = found[0]
    if path is None:
        findings.add(
            "base", base, "note", "not on this disk; it is fetched when it is first used, unchecked"
        )
        return None
    stored = findings.attempt("base", base, lambda: language_model_shapes(str(path)))
    if stored is None:
        # What hides behind the first mistake.
        findings.attempt("base", base, lambda: weight_files(path))
        return None
    model = findings.attempt("base", base, lambda: _empty_model(path, stored))
    if model is not None:
        config: Any = model.config
        known = "is whole" if config.model_type in _PLAIN_NAMES else "has all its files"
        findings.add(
            *("base", base, "ok"),
            f"the language model {known}: {config.num_hidden_layers} layers of "
            f"{config.hidden_size} features, {config.vocab_size} pieces",
        )
    return model


def _empty_model(folder: Path, stored: dict[str, tuple[int, ...]]) -> PreTrainedModel:
    """The model of config.json, after a look whether the files fit it."""
    from abhinaya.nn.language_model import empty_language_model
    from abhinaya.nn.weight_files import check_fit

    model = empty_language_model(str(folder))
    if model.config.model_type in _PLAIN_NAMES:
        prefix = f"{model.base_model_prefix}."
        got = {
            key.removeprefix(prefix): shape
            for key, shape in stored.items()
            if not key.startswith("lm_head.") and not key.endswith(_COMPUTED)
        }
        what = f"the {type(model).__name__} of its config.json"
        check_fit(shapes_of(model), got, what=what, where=str(folder))
    return model


def check_tokenizer(
    base: str, findings: Findings, n_rows: int | None
) -> PreTrainedTokenizerBase | None:
    """The language model's tokenizer; null if it cannot be used, or is not on this disk.

    Args:
        base: folder or hub id.
        findings: get its size, or what is wrong with it.
        n_rows: pieces that the language model knows; null if that is not known.
    """
    from abhinaya.nn.language_model import load_tokenizer

    try:
        path = find_model(base)
    except Exception:  # it is reported with the model
        return None
    if path is None:
        return None
    tokenizer = findings.attempt("tokenizer", base, lambda: load_tokenizer(str(path)))
    if tokenizer is None:
        return None
    findings.add(
        *("tokenizer", base, "ok"),
        f"{len(tokenizer)} pieces, begins with {tokenizer.bos_token!r}, ends with "
        f"{tokenizer.eos_token!r}",
    )
    if n_rows is not None and len(tokenizer) > n_rows:
        findings.add(
            *("tokenizer", base, "note"),
            f"has {len(tokenizer)} pieces, but the language model knows {n_rows}. Texts must not "
            "hold the others, which were added as special pieces.",
        )
    return tokenizer


def check_quantisation(key: str, weights: str, findings: Findings) -> None:
    """Whether bitsandbytes is there, if the number type needs it.

    Args:
        key: the key of the config.
        weights: its value.
        findings: get the result.
    """
    if weights not in ("int8", "nf4"):
        return

    def look() -> None:
        try:
            importlib.import_module("bitsandbytes")
        except ImportError as err:
            raise MissingPackageError("bitsandbytes", f"{key}: {weights}", "quant") from err

    findings.attempt(key, weights, look, "bitsandbytes is there")


def check_transcripts(data: DataConfig, findings: Findings) -> None:
    """Whether both sources of transcripts are named and, once there is a manifest, there.

    Args:
        data: names them.
        findings: get how many texts each has, or what is wrong.
    """
    from abhinaya.data.transcripts import read_transcripts, transcripts_path

    sources = data.transcripts
    if sources is None:
        findings.add(
            *("data.transcripts", "", "problem"),
            "is missing, but this member reads transcripts. Set data.transcripts.train and "
            ".predict to sources such as 'human'.",
        )
        return
    file = transcripts_path(data.manifest.parent)
    if not data.manifest.is_file():
        findings.add(
            *("data.transcripts", file, "note"),
            f"not looked at: there is no manifest {str(data.manifest)!r} yet",
        )
        return
    for use, source in (("train", sources.train), ("predict", sources.predict)):
        texts = findings.attempt(
            f"data.transcripts.{use}", file, functools.partial(read_transcripts, file, source)
        )
        if texts is not None:
            n_texts = sum(text is not None for text in texts.values())
            findings.add(
                *(f"data.transcripts.{use}", file, "ok"),
                f"{n_texts} utterances of the source {source!r}",
            )
