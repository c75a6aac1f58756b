"""What `abhinaya doctor` finds in published weights and texts; nothing large is loaded."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abhinaya.config import DataConfig, MemberConfig
from abhinaya.doctor.environment import is_offline
from abhinaya.doctor.findings import Findings
from abhinaya.errors import CheckpointError, MissingFileError, MissingPackageError
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.registry import load_member

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "Shapes",
    "check_base",
    "check_language_model",
    "check_member",
    "check_quantization",
    "check_tokenizer",
    "check_transcripts",
    "check_whisper",
    "count_layers",
    "find_model",
    "shapes_of",
]

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each tensor by its name."""

_NOT_HERE = "not on this disk"

_HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")

_PLAIN_NAMES = ("llama", "mistral", "qwen2", "qwen3")
"""Types of models whose files have the names of transformers' classes, without a conversion."""


def find_model(base: str) -> Path | None:
    """Find the file or folder of a model, without going online.

    Args:
        base: path or hub id.

    Returns:
        None for a hub id that is not, or not as a whole, in the hub's cache but can be fetched.

    Raises:
        MissingFileError: if it is neither, or not in the cache while the hub is offline.
    """
    path = Path(base)
    if path.exists():
        return path
    if not _HUB_ID.fullmatch(base):
        raise MissingFileError(
            f"There is no {base!r}. Give the path of a model, or a hub id such as "
            "'openai/whisper-large-v2'."
        )
    from huggingface_hub import snapshot_download

    from abhinaya.nn.weight_files import weight_files

    try:
        cached = Path(snapshot_download(base, local_files_only=True))
        weight_files(cached)
    except (OSError, ValueError) as err:
        if is_offline():
            raise MissingFileError(
                f"There is no folder {base!r}, and as a hub id it is not in the hub's cache, while "
                "HF_HUB_OFFLINE forbids to fetch it. Correct it, or go online once."
            ) from err
        return None
    return cached


def check_base(base: str | None) -> Findings:
    """Look for the pre-trained weights of a member that checks nothing itself.

    Args:
        base: path or hub id; None for a member that has none.
    """
    findings = Findings()
    if base is None:
        findings.add("base", "", "note", "this member names no weights; nothing is checked")
        return findings
    found = findings.attempt("base", base, lambda: (find_model(base),))
    if found is not None and found[0] is None:
        findings.add("base", base, "note", f"{_NOT_HERE}; it is fetched when it is first used")
    elif found is not None:
        findings.add("base", base, "ok", "it is there; nothing more is checked for this member")
    return findings


def check_member(config: MemberConfig, *, memory: bool = True) -> Findings:
    """Find what a member's own check finds; of one that has none look for the weights alone.

    Args:
        config: of the member.
        memory: also compute what training and prediction need of a device; it takes seconds.
    """
    check_weights = getattr(load_member(config.member), "check_weights", None)
    if check_weights is None:
        findings = check_base(getattr(config, "base", None))
    else:
        findings = check_weights(config)
    if memory and isinstance(config, ClassifierConfig):
        from abhinaya.doctor.memory import check_memory

        if any(found.details.startswith(_NOT_HERE) for found in findings):
            findings.add("memory", "", "note", "can be computed once the weights are on this disk")
        else:
            check_memory(config, findings)
    return findings


def count_layers(shapes: Shapes) -> int:
    """Return the number of transformer layers, as numbered in the names.

    Example:
        >>> count_layers({"layers.0.fc1.weight": (8, 4), "layers.1.fc1.weight": (8, 4)})
        2
    """
    return len({match[1] for key in shapes if (match := re.search(r"layers?\.(\d+)\.", key))})


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by its name."""
    return {name: tuple(value.shape) for name, value in module.named_parameters()}


def _find(what: str, base: str, findings: Findings) -> Path | None:
    """Find a model's file or folder; that it is not on this disk is a finding."""
    found = findings.attempt(what, base, lambda: (find_model(base),))
    if found is None:
        return None
    if found[0] is None:
        details = f"{_NOT_HERE}; it is fetched when it is first used, unchecked"
        findings.add(what, base, "note", details)
    return found[0]


def check_language_model(
    base: str, findings: Findings, *, family: str | None = None, head: bool = False
) -> PreTrainedModel | None:
    """Build the bare model of a folder's config.json, without memory for its weights.

    Of LLaMA and its nearest relatives names and shapes in the files are compared with it; other
    families are compared when they are loaded.

    Args:
        base: folder or hub id.
        findings: get its sizes, or what is wrong with it.
        family: the only type of model that the member can use, such as "llama".
        head: whether it is to predict tokens, so that the files must hold the matrix for that.

    Returns:
        None if it cannot be used, or is not on this disk.
    """
    from abhinaya.nn.language_model import language_model_shapes
    from abhinaya.nn.weight_files import weight_files

    path = _find("base", base, findings)
    if path is None:
        return None
    stored = findings.attempt("base", base, lambda: language_model_shapes(str(path)))
    if stored is None:
        # What hides behind the first mistake.
        findings.attempt("base", base, lambda: weight_files(path))
        return None
    model = findings.attempt("base", base, lambda: _empty_model(path, stored, family, head))
    if model is not None:
        config: Any = model.config
        known = "is whole" if config.model_type in _PLAIN_NAMES else "has all its files"
        findings.add(
            "base",
            base,
            "ok",
            f"the language model {known}: {config.num_hidden_layers} layers of "
            f"{config.hidden_size} features, {config.vocab_size} tokens",
        )
    return model


def _empty_model(
    folder: Path, stored: dict[str, tuple[int, ...]], family: str | None, head: bool
) -> PreTrainedModel:
    """Build the model of config.json, after a look whether the files fit it."""
    from abhinaya.nn.language_model import empty_language_model, is_left_over
    from abhinaya.nn.weight_files import check_fit, read_model_config

    if family is not None:
        found = read_model_config(folder).model_type
        if found != family:
            raise CheckpointError(
                f"{str(folder)!r} holds a model of type {found!r}, expected {family!r}, of which "
                "Vicuna is one. Correct base."
            )
    model = empty_language_model(str(folder))
    if model.config.model_type in _PLAIN_NAMES:
        config: Any = model.config
        head = head and not config.tie_word_embeddings
        expected = shapes_of(model)
        if head:
            expected["lm_head.weight"] = (config.vocab_size, config.hidden_size)
        prefix = f"{model.base_model_prefix}."
        got = {
            key.removeprefix(prefix): shape
            for key, shape in stored.items()
            if not is_left_over(key, head=head)
        }
        what = f"the {type(model).__name__} of its config.json"
        check_fit(expected, got, what=what, where=str(folder))
    return model


def check_tokenizer(
    base: str, findings: Findings, n_rows: int | None, *, signs: Sequence[str] = ()
) -> PreTrainedTokenizerBase | None:
    """Load the language model's tokenizer; None if it cannot be used, or is not on this disk.

    Args:
        base: folder or hub id.
        findings: get its size, or what is wrong with it.
        n_rows: tokens that the language model knows; None if that is not known.
        signs: special tokens that it must have, such as "eos_token".
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
    absent = [name for name in signs if getattr(tokenizer, f"{name}_id") is None]
    if absent:
        findings.add(
            "tokenizer",
            base,
            "problem",
            f"has no {' and no '.join(absent)}, expected those of LLaMA, <s> and </s>. Download "
            "tokenizer_config.json and special_tokens_map.json of the model again.",
        )
        return None
    findings.add(
        "tokenizer",
        base,
        "ok",
        f"{len(tokenizer)} tokens, begins with {tokenizer.bos_token!r}, ends with "
        f"{tokenizer.eos_token!r}",
    )
    if n_rows is not None and len(tokenizer) > n_rows:
        findings.add(
            "tokenizer",
            base,
            "note",
            f"has {len(tokenizer)} tokens, but the language model knows {n_rows}. Prompts and "
            "transcripts must not hold the others, which were added as special tokens.",
        )
    return tokenizer


def check_whisper(
    base: str, findings: Findings, longest_s: float
) -> dict[str, tuple[int, ...]] | None:
    """Return the shapes of a Whisper encoder; None if it cannot be used, or is not here.

    Args:
        base: folder, file of openai-whisper, or hub id.
        findings: get its mel bins, sample rate, window and sizes, and what is wrong with them.
        longest_s: length of the longest clips that it is to hear.
    """
    from abhinaya.nn.whisper import encoder_shapes, load_feature_extractor

    path = _find("whisper", base, findings)
    if path is None:
        return None
    extractor = findings.attempt("whisper", base, lambda: load_feature_extractor(str(path)))
    if extractor is not None:
        window_s = extractor.n_samples / extractor.sampling_rate
        findings.add(
            "whisper",
            base,
            "ok",
            f"{extractor.feature_size} mel bins at {extractor.sampling_rate} Hz, {window_s:g} s",
        )
        if longest_s > window_s:
            findings.add(
                "audio.max_audio_s",
                "",
                "problem",
                f"is {longest_s:g}, but Whisper hears {window_s:g} s at once. Set it to "
                f"{window_s:g} or less.",
            )
    shapes = findings.attempt("whisper", base, lambda: encoder_shapes(str(path)))
    if shapes is not None:
        n_layers, width = count_layers(shapes), shapes["layer_norm.weight"][0]
        details = f"the encoder is whole: {n_layers} layers of {width} features"
        findings.add("whisper", base, "ok", details)
    return shapes


def check_quantization(key: str, weights: str, findings: Findings) -> None:
    """Look for bitsandbytes, if the number type needs it.

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
    """Check that the sources of transcripts are named and, once there is a manifest, there.

    Args:
        data: names them.
        findings: get how many texts each has, or what is wrong.
    """
    from abhinaya.data.transcripts import read_transcripts, transcripts_path

    sources = data.transcripts
    if sources is None:
        findings.add(
            "data.transcripts",
            "",
            "problem",
            "is missing, but this member reads transcripts. Set data.transcripts.train and "
            ".predict to sources such as 'human'.",
        )
        return
    file = transcripts_path(data.manifest.parent)
    if not data.manifest.is_file():
        details = f"not looked at: there is no manifest {str(data.manifest)!r} yet"
        findings.add("data.transcripts", file, "note", details)
        return
    uses = [("train", sources.train), ("predict", sources.predict)]
    if sources.validation != sources.train and data.validation is not None:
        uses.insert(1, ("validation", sources.validation))
    for use, source in uses:
        what = f"data.transcripts.{use}"
        texts = findings.attempt(what, file, functools.partial(read_transcripts, file, source))
        if texts is not None:
            n_texts = sum(text is not None for text in texts.values())
            findings.add(what, file, "ok", f"{n_texts} utterances of the source {source!r}")
