"""A check-up of the four sources of a SALMONN, without loading its language model or Whisper.

Of their files only names and shapes are read. BEATs is small: it is loaded as for training.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.doctor.checks import Findings, check_memory, find_devices, format_bytes
from abhinaya.errors import MissingPackageError, list_some
from abhinaya.member import Utterance
from members.salmonn.build import check_sizes, window_frames
from members.salmonn.config import SalmonnConfig, SalmonnSources
from members.salmonn.memory import PartShapes, Shapes, count_layers, memory_needed
from members.salmonn.part_checks import (
    check_beats,
    check_language_model,
    check_tokenizer,
    check_whisper,
    shapes_of,
)
from members.salmonn.sequence import PromptTokens, load_prompts
from members.salmonn.weights import (
    SalmonnSizes,
    qformer_config,
    read_classifier,
    read_salmonn,
    read_sizes,
    sort_salmonn_keys,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from abhinaya.prompting.prompts import Prompt
    from members.salmonn.qformer import SpeechAdapter

__all__ = ["check_salmonn"]

_USUAL_PROMPT_TOKENS = 60
"""Counted instead of a prompt that cannot be read."""


def check_salmonn(
    config: SalmonnSources, *, needs_text: bool, lists_classes: bool = False
) -> Findings:
    """All that can be known of a config's weights and texts before they are loaded.

    Args:
        config: of the member.
        needs_text: whether its prompt holds the transcript.
        lists_classes: whether its prompt may list the classes.
    """
    findings = Findings()
    whisper = check_whisper(config, findings)
    beats = check_beats(config, findings)
    llm = check_language_model(config, findings)
    tokenizer = check_tokenizer(config, findings, llm)
    trained = _check_trained(config, findings)
    if trained is not None:
        widths = (
            whisper["layer_norm.weight"][0] if whisper else None,
            beats["encoder.layer_norm.weight"][0] if beats else None,
            llm["embed_tokens.weight"][1] if llm else None,
        )
        _check_widths(config, findings, trained.sizes, widths)
        _check_adapters(config, findings, trained, llm)
    _check_quantisation(config, findings)
    prompts = findings.attempt(
        "prompt",
        ", ".join(config.prompt),
        lambda: load_prompts(config, needs_text=needs_text, lists_classes=lists_classes),
        "suits the member",
    )
    if needs_text:
        _check_transcripts(config, findings)
    if not isinstance(config, SalmonnConfig):
        return findings  # what is trained decides most of the memory, and here nothing is
    if trained is None or whisper is None or beats is None or llm is None:
        findings.add(
            "memory", "", "note", "can be computed once the sizes of all parts are known; see above"
        )
    else:
        shapes = PartShapes(llm, whisper, beats, trained.shapes)
        n_tokens = _count_text_tokens(config, prompts[0] if prompts else None, tokenizer)
        _check_memory(config, findings, shapes, n_tokens)
    return findings


@dataclass(frozen=True)
class _Trained:
    """What SALMONN's training made, and what the classifier adds to it.

    Args:
        sizes: what the tensors say of all parts.
        shapes: by the names of our backbone, pooling and head.
    """

    sizes: SalmonnSizes
    shapes: Shapes


def _check_trained(config: SalmonnSources, findings: Findings) -> _Trained | None:
    from abhinaya.nn.weight_files import check_fit

    salmonn = str(config.salmonn)
    shapes = findings.attempt("salmonn", salmonn, lambda: _salmonn_shapes(config.salmonn, findings))
    classifier = _check_classifier(config, findings)
    if shapes is None:
        return None
    backbone = ("adapter.", "llm.")
    known = shapes | {k: v for k, v in classifier.items() if k.startswith(backbone)}
    sizes = findings.attempt("salmonn", salmonn, lambda: read_sizes(known, salmonn))
    if sizes is None:
        return None
    adapter = findings.attempt("qformer", salmonn, lambda: _adapter(config, sizes))
    if adapter is not None:
        prefix = "adapter."
        got = {k.removeprefix(prefix): v for k, v in known.items() if k.startswith(prefix)}
        what = "a Q-Former with its projection"
        findings.attempt(
            *("qformer", salmonn),
            lambda: check_fit(shapes_of(adapter), got, what=what, where=salmonn),
            f"is whole: {sizes.n_layers} layers of {sizes.hidden} features; tokens per window of "
            f"{window_frames(config.window_s)} frames: {sizes.n_queries}",
        )
    added = _added_shapes(config, sizes) if isinstance(config, SalmonnConfig) else {}
    if classifier and isinstance(config, SalmonnConfig):
        got = {key: v for key, v in classifier.items() if not key.startswith(backbone)}
        what = "pooling, head and last norm of the config"
        findings.attempt(
            *("classifier", config.classifier),
            lambda: check_fit(added, got, what=what, where=str(config.classifier)),
            f"head and pooling are whole, for {len(MSP_PODCAST)} classes",
        )
    return _Trained(sizes, known | added)


def _check_classifier(config: SalmonnSources, findings: Findings) -> Shapes:
    """Shapes of a published classifier under our names; empty if there is none."""
    file = config.classifier if isinstance(config, SalmonnConfig) else None
    if file is None:
        return {}
    state = findings.attempt("classifier", file, lambda: read_classifier(file))
    if state is None:
        return {}
    findings.add("classifier", file, "ok", f"{len(state)} tensors used")
    return {key.removeprefix("backbone."): tuple(v.shape) for key, v in state.items()}


def _salmonn_shapes(file: Path, findings: Findings) -> dict[str, tuple[int, ...]]:
    """Shapes under our names; how many tensors are used, and foreign ones, become findings."""
    from abhinaya.nn.weight_files import read_pickle

    content = read_pickle(file)
    tensors = content.get("model") if isinstance(content, dict) else None
    if not isinstance(tensors, dict):
        tensors = read_salmonn(file)  # raises, and says what is wrong
    used, tolerated, unknown = sort_salmonn_keys(tensors)
    if unknown:
        findings.add(
            *("salmonn", str(file), "problem"),
            f"{len(unknown)} of {len(tensors)} tensors belong to no part of SALMONN: "
            f"{list_some(sorted(unknown))}. It is another model's checkpoint, or was made by other "
            "code.",
        )
    else:
        findings.add(
            *("salmonn", str(file), "ok"),
            f"{len(used)} tensors used, {len(tolerated)} saved beside them that nothing needs",
        )
    return {key: tuple(value.shape) for key, value in used.items()}


def _adapter(config: SalmonnSources, sizes: SalmonnSizes) -> SpeechAdapter:
    """The Q-Former with all around it, without memory for its weights."""
    import torch

    from members.salmonn.qformer import SpeechAdapter

    with torch.device("meta"):
        return SpeechAdapter(
            qformer_config(sizes, config.qformer),
            widths=sizes.widths,
            n_queries=sizes.n_queries,
            n_features=sizes.llm_width,
            window_frames=window_frames(config.window_s),
            stride_frames=window_frames(config.stride_s or config.window_s),
        )


def _added_shapes(config: SalmonnConfig, sizes: SalmonnSizes) -> dict[str, tuple[int, ...]]:
    """Shapes of what the classifier adds to SALMONN: last norm, pooling, head."""
    import torch

    from abhinaya.nn.head import EmotionHead
    from abhinaya.nn.pooling import build_pooling

    with torch.device("meta"):
        pooling = build_pooling(config.pooling, sizes.llm_width)
        head = EmotionHead(
            pooling.output_size, len(MSP_PODCAST), config.head.hidden, config.head.norm
        )
        parts = {"norm": torch.nn.LayerNorm(sizes.llm_width), "pooling": pooling, "head": head}
    return {
        f"{name}.{key}": shape
        for name, part in parts.items()
        for key, shape in shapes_of(part).items()
    }


def _check_widths(
    config: SalmonnSources,
    findings: Findings,
    sizes: SalmonnSizes,
    widths: tuple[int | None, int | None, int | None],
) -> None:
    """Whether Whisper, BEATs and the language model are those that the checkpoint was trained with.

    Args:
        config: names the files.
        findings: gets one for each.
        sizes: of the checkpoint.
        widths: features of the three; null for one that could not be read.
    """
    whisper, beats, llm = widths
    for what, where, width, check in (
        ("whisper", config.whisper, whisper, (whisper, None, None)),
        ("beats", config.beats, beats, (None, beats, None)),
        ("base", config.base, llm, (None, None, llm)),
    ):
        if width is not None:
            findings.attempt(
                *(what, where, functools.partial(check_sizes, sizes, config, *check)),
                f"its {width} features are what the checkpoint was trained with",
            )


def _check_adapters(
    config: SalmonnSources, findings: Findings, trained: _Trained, llm: Shapes | None
) -> None:
    """Whether the language model has every layer that the adapters belong to, and no other."""
    from abhinaya.nn.weight_files import check_fit

    sizes, salmonn = trained.sizes, str(config.salmonn)
    if not sizes.lora_rank:
        findings.add("adapters", salmonn, "note", "there are none; the language model stays as is")
        return
    if llm is None:
        return
    expected: dict[str, tuple[int, ...]] = {}
    for key, shape in llm.items():
        module = key.removesuffix(".weight")
        if module.rpartition(".")[2] in sizes.lora_targets:
            expected[f"{module}.lora_A.default.weight"] = (sizes.lora_rank, shape[1])
            expected[f"{module}.lora_B.default.weight"] = (shape[0], sizes.lora_rank)
    prefix = "llm."
    got = {k.removeprefix(prefix): v for k, v in trained.shapes.items() if k.startswith(prefix)}
    what = f"adapters of the language model {config.base!r}"
    findings.attempt(
        *("adapters", salmonn, lambda: check_fit(expected, got, what=what, where=salmonn)),
        f"are whole: rank {sizes.lora_rank} on {', '.join(sizes.lora_targets)} of "
        f"{count_layers(llm)} layers",
    )


def _check_quantisation(config: SalmonnSources, findings: Findings) -> None:
    if config.llm_weights not in ("int8", "nf4"):
        return

    def look() -> None:
        purpose = f"llm_weights: {config.llm_weights}"
        try:
            importlib.import_module("bitsandbytes")
        except ImportError as err:
            raise MissingPackageError("bitsandbytes", purpose, "quant") from err

    findings.attempt("llm_weights", config.llm_weights, look, "bitsandbytes is there")


def _check_transcripts(config: SalmonnSources, findings: Findings) -> None:
    from abhinaya.data.transcripts import read_transcripts, transcripts_path

    sources = config.data.transcripts
    if sources is None:
        findings.add(
            *("data.transcripts", "", "problem"),
            "is missing, but this member reads transcripts. Set data.transcripts.train and "
            ".predict to sources such as 'human'.",
        )
        return
    file = transcripts_path(config.data.manifest.parent)
    if not config.data.manifest.is_file():
        findings.add(
            *("data.transcripts", str(file), "note"),
            f"not looked at: there is no manifest {str(config.data.manifest)!r} yet",
        )
        return
    for use, source in (("train", sources.train), ("predict", sources.predict)):
        texts = findings.attempt(
            f"data.transcripts.{use}", file, functools.partial(read_transcripts, file, source)
        )
        if texts is not None:
            n_texts = sum(text is not None for text in texts.values())
            findings.add(
                *(f"data.transcripts.{use}", str(file), "ok"),
                f"{n_texts} utterances of the source {source!r}",
            )


def _count_text_tokens(
    config: SalmonnSources, prompt: Prompt | None, tokenizer: PreTrainedTokenizerBase | None
) -> int:
    """BOS, prompt and text of one clip; a transcript counts with all that is kept of it."""
    if prompt is None or tokenizer is None:
        return _USUAL_PROMPT_TOKENS + config.max_text_tokens
    tokens = PromptTokens(tokenizer, (prompt,), config.prompt_template, config.max_text_tokens)
    encoded = tokens.encode(Utterance("", text=""))
    if "transcript" in prompt.slots:
        encoded["text"] = [0] * config.max_text_tokens
    return sum(len(ids) for ids in encoded.values())


def _check_memory(
    config: SalmonnConfig, findings: Findings, shapes: PartShapes, n_text_tokens: int
) -> None:
    needed = memory_needed(config, shapes, n_text_tokens=n_text_tokens)
    devices = findings.attempt("devices", "", find_devices) or ()
    known = [device for device in devices if device.total_bytes is not None]
    device = min(known, key=lambda device: device.total_bytes or 0, default=None)
    weights = f"{format_bytes(needed['weights'])} of weights ({config.llm_weights})"
    training, batch = config.training, config.inference.batch_size
    rows = training.arguments.get("per_device_train_batch_size", training.global_batch_size)
    findings.append(
        check_memory(
            "memory for training",
            needed["training"],
            f"{weights}, {format_bytes(needed['optimizer'])} of gradients and optimizer, "
            f"{format_bytes(needed['training activations'])} for batches of {rows}, and of {batch} "
            f"in validation, {format_bytes(needed['context'])} for the device itself",
            device,
        )
    )
    findings.append(
        check_memory(
            "memory for prediction",
            needed["prediction"],
            f"{weights}, {format_bytes(needed['prediction activations'])} for batches of {batch}, "
            f"{format_bytes(needed['context'])} for the device itself",
            device,
        )
    )
