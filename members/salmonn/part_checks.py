"""Each published part of a SALMONN looked at on its own; of large files only names and shapes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from abhinaya.doctor.checks import Findings, find_model
from abhinaya.errors import CheckpointError
from members.salmonn.config import SalmonnSources
from members.salmonn.memory import Shapes, count_layers

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "check_beats",
    "check_language_model",
    "check_tokenizer",
    "check_whisper",
    "shapes_of",
]

_COMPUTED = ("rotary_emb.inv_freq", "position_ids")
"""Ends of the names of tensors that old files store although they are computed."""


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by its name."""
    return {name: tuple(value.shape) for name, value in module.named_parameters()}


def _find(what: str, base: str, findings: Findings) -> Path | None:
    """A model's file or folder; if it is not here, that is a finding."""
    found = findings.attempt(what, base, lambda: (find_model(base),))
    if found is None:
        return None
    if found[0] is None:
        findings.add(
            what, base, "note", "not on this disk; it is fetched when it is first used, unchecked"
        )
    return found[0]


def check_whisper(config: SalmonnSources, findings: Findings) -> Shapes | None:
    """Shapes of the encoder; null if it cannot be used, or is not here.

    Args:
        config: names it.
        findings: get its mel bins, sample rate, window and sizes, and what is wrong with them.
    """
    from abhinaya.nn.whisper import load_encoder, load_feature_extractor

    path = _find("whisper", config.whisper, findings)
    if path is None:
        return None
    extractor = findings.attempt(
        "whisper", config.whisper, lambda: load_feature_extractor(str(path))
    )
    if extractor is not None:
        window_s = extractor.n_samples / extractor.sampling_rate
        findings.add(
            *("whisper", config.whisper, "ok"),
            f"{extractor.feature_size} mel bins at {extractor.sampling_rate} Hz, {window_s:g} s",
        )
        longest = config.audio.max_audio_s
        if longest > window_s:
            findings.add(
                *("audio.max_audio_s", "", "problem"),
                f"is {longest:g}, but Whisper hears {window_s:g} s at once. Set it to "
                f"{window_s:g} or less.",
            )
    if path.is_file():
        # The layout of openai-whisper is only known to the loader.
        encoder = findings.attempt("whisper", config.whisper, lambda: load_encoder(str(path)))
        shapes: Shapes | None = None if encoder is None else shapes_of(encoder)
    else:
        shapes = findings.attempt("whisper", config.whisper, lambda: _whisper_shapes(path))
    if shapes is not None:
        n_layers, width = count_layers(shapes), shapes["layer_norm.weight"][0]
        findings.add(
            *("whisper", config.whisper, "ok"),
            f"the encoder is whole: {n_layers} layers of {width} features",
        )
    return shapes


def _whisper_shapes(folder: Path) -> Shapes:
    """Shapes of the encoder in a Hugging Face folder, after a look whether they are all there."""
    import torch
    from transformers import AutoConfig, WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    from abhinaya.nn.weight_files import check_fit, read_shapes

    config = AutoConfig.from_pretrained(folder)
    if not isinstance(config, WhisperConfig):
        raise CheckpointError(
            f"{str(folder)!r} holds a model of type {config.model_type!r}, expected 'whisper'. "
            "Correct the path."
        )
    with torch.device("meta"):
        expected = shapes_of(WhisperEncoder(config))
    got = {
        key.removeprefix("model.").removeprefix("encoder."): shape
        for key, shape in read_shapes(folder).items()
        if not key.startswith(("model.decoder.", "decoder.", "proj_out."))
    }
    check_fit(expected, got, what="a Whisper encoder of its size", where=str(folder))
    return expected


def check_beats(config: SalmonnSources, findings: Findings) -> Shapes | None:
    """Shapes of the encoder; null if it cannot be used.

    Args:
        config: names it.
        findings: get its sizes, or what is wrong with it.
    """
    from members.salmonn.beats.weights import load_beats

    model = findings.attempt("beats", config.beats, lambda: load_beats(config.beats))
    if model is None:
        return None
    sizes = model.config
    findings.add(
        *("beats", str(config.beats), "ok"),
        f"the encoder is whole: {sizes.encoder_layers} layers of {sizes.encoder_embed_dim} "
        f"features{', fine-tuned' if sizes.finetuned_model else ''}",
    )
    return shapes_of(model)


def check_language_model(config: SalmonnSources, findings: Findings) -> Shapes | None:
    """Shapes of the model without its head; null if it cannot be used, or is not here.

    Args:
        config: names it.
        findings: get its sizes, or what is wrong with it.
    """
    from abhinaya.nn.language_model import language_model_shapes
    from abhinaya.nn.weight_files import weight_files

    path = _find("base", config.base, findings)
    if path is None:
        return None
    shapes = findings.attempt("base", config.base, lambda: language_model_shapes(str(path)))
    if shapes is None:
        # What hides behind the first mistake.
        findings.attempt("base", config.base, lambda: weight_files(path))
        return None
    fitting = findings.attempt("base", config.base, lambda: _bare_shapes(path, shapes))
    if fitting is not None:
        n_rows, width = fitting["embed_tokens.weight"]
        findings.add(
            *("base", config.base, "ok"),
            f"the language model is whole: {count_layers(fitting)} layers of {width} features, "
            f"{n_rows} pieces",
        )
    return fitting


def _bare_shapes(folder: Path, stored: Shapes) -> Shapes:
    """Shapes of the model without its head, after a look whether the files fit config.json."""
    import torch
    from transformers import AutoConfig, AutoModel

    from abhinaya.nn.weight_files import check_fit

    config = AutoConfig.from_pretrained(folder)
    if config.model_type != "llama":
        raise CheckpointError(
            f"{str(folder)!r} holds a model of type {config.model_type!r}, expected 'llama', of "
            "which Vicuna is one. Correct base."
        )
    if getattr(config, "quantization_config", None) is not None:
        raise CheckpointError(
            f"The weights of {str(folder)!r} are stored quantised, expected plain ones, which are "
            "quantised while they are loaded. Name the model that they were made from."
        )
    make_model: Any = AutoModel  # its methods have no types
    with torch.device("meta"):
        expected = shapes_of(make_model.from_config(config))
    got = {
        key.removeprefix("model."): shape
        for key, shape in stored.items()
        if not key.startswith("lm_head.") and not key.endswith(_COMPUTED)
    }
    check_fit(expected, got, what="the LLaMA of its config.json", where=str(folder))
    return expected


def check_tokenizer(
    config: SalmonnSources, findings: Findings, llm: Shapes | None
) -> PreTrainedTokenizerBase | None:
    """The language model's tokenizer; null if it cannot be used, or is not here.

    Args:
        config: names it.
        findings: get its size and its signs of beginning and end, or what is wrong with it.
        llm: shapes of the language model; null if they are not known.
    """
    from abhinaya.nn.language_model import load_tokenizer

    try:
        path = find_model(config.base)
    except Exception:  # it is reported with the model
        return None
    if path is None:
        return None
    tokenizer = findings.attempt("tokenizer", config.base, lambda: load_tokenizer(str(path)))
    if tokenizer is None:
        return None
    absent = [
        name for name in ("bos_token", "eos_token") if getattr(tokenizer, f"{name}_id") is None
    ]
    if absent:
        findings.add(
            *("tokenizer", config.base, "problem"),
            f"has no {' and no '.join(absent)}, expected those of LLaMA, <s> and </s>. Download "
            "tokenizer_config.json and special_tokens_map.json of the model again.",
        )
        return None
    findings.add(
        *("tokenizer", config.base, "ok"),
        f"{len(tokenizer)} pieces, begins with {tokenizer.bos_token!r}, ends with "
        f"{tokenizer.eos_token!r}",
    )
    n_rows = llm["embed_tokens.weight"][0] if llm is not None else len(tokenizer)
    if len(tokenizer) > n_rows:
        findings.add(
            *("tokenizer", config.base, "note"),
            f"has {len(tokenizer)} pieces, but the language model knows {n_rows}. Prompts and "
            "transcripts must not hold the others, which were added as special pieces.",
        )
    return tokenizer
