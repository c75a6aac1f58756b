"""`abhinaya doctor` of the four sources of a SALMONN; neither LLaMA nor Whisper is loaded.

Of their files only names and shapes are read. BEATs is small: it is loaded as for training.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.doctor.findings import Findings
from abhinaya.doctor.weights import (
    Shapes,
    check_language_model,
    check_quantization,
    check_tokenizer,
    check_transcripts,
    check_whisper,
    count_layers,
    shapes_of,
)
from abhinaya.errors import list_some
from members.salmonn.build import check_sizes, window_frames
from members.salmonn.config import SalmonnConfig, SalmonnSources
from members.salmonn.sequence import load_prompts
from members.salmonn.weights import (
    SalmonnSizes,
    qformer_config,
    read_classifier,
    read_salmonn,
    read_sizes,
    sort_salmonn_keys,
)

if TYPE_CHECKING:
    from members.salmonn.qformer import SpeechAdapter

__all__ = ["check_salmonn"]


def check_salmonn(
    config: SalmonnSources, *, needs_text: bool, lists_classes: bool = False
) -> Findings:
    """Find all that can be known of a config's weights and texts before they are loaded.

    Args:
        config: of the member.
        needs_text: whether its prompt holds the transcript.
        lists_classes: whether its prompt may list the classes.
    """
    findings = Findings()
    whisper = check_whisper(config.whisper, findings, config.audio.max_audio_s)
    beats = _check_beats(config, findings)
    head = not isinstance(config, SalmonnConfig)  # then it answers in words
    model = check_language_model(config.base, findings, family="llama", head=head)
    llm: Shapes | None = None if model is None else shapes_of(model)
    n_rows = llm["embed_tokens.weight"][0] if llm else None
    signs = ("bos_token", "eos_token")
    check_tokenizer(config.base, findings, n_rows, signs=signs)
    trained = _check_trained(config, findings)
    if trained is not None:
        widths = (
            whisper["layer_norm.weight"][0] if whisper else None,
            beats["encoder.layer_norm.weight"][0] if beats else None,
            llm["embed_tokens.weight"][1] if llm else None,
        )
        _check_widths(config, findings, trained.sizes, widths)
        _check_adapters(config, findings, trained, llm)
    check_quantization("llm_weights", config.llm_weights, findings)
    findings.attempt(
        "prompt",
        ", ".join(config.prompt),
        lambda: load_prompts(config, needs_text=needs_text, lists_classes=lists_classes),
        "suits the member",
    )
    if needs_text:
        check_transcripts(config.data, findings)
    return findings


def _check_beats(config: SalmonnSources, findings: Findings) -> Shapes | None:
    """Return the shapes of the encoder; None if it cannot be used."""
    from members.salmonn.beats.weights import load_beats

    model = findings.attempt("beats", config.beats, lambda: load_beats(config.beats))
    if model is None:
        return None
    sizes = model.config
    findings.add(
        "beats",
        config.beats,
        "ok",
        f"the encoder is whole: {sizes.encoder_layers} layers of {sizes.encoder_embed_dim} "
        f"features{', fine-tuned' if sizes.finetuned_model else ''}",
    )
    return shapes_of(model)


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
            "qformer",
            salmonn,
            lambda: check_fit(shapes_of(adapter), got, what=what, where=salmonn),
            f"is whole: {sizes.n_layers} layers of {sizes.hidden} features; tokens per window of "
            f"{window_frames(config.window_s)} frames: {sizes.n_queries}",
        )
    added = _added_shapes(config, sizes) if isinstance(config, SalmonnConfig) else {}
    if classifier and isinstance(config, SalmonnConfig):
        got = {key: v for key, v in classifier.items() if not key.startswith(backbone)}
        what = "pooling, head and last norm of the config"
        findings.attempt(
            "classifier",
            config.classifier,
            lambda: check_fit(added, got, what=what, where=str(config.classifier)),
            f"head and pooling are whole, for {len(MSP_PODCAST)} classes",
        )
    return _Trained(sizes, known | added)


def _check_classifier(config: SalmonnSources, findings: Findings) -> Shapes:
    """Return the shapes of a published classifier under our names; empty if there is none."""
    file = config.classifier if isinstance(config, SalmonnConfig) else None
    if file is None:
        return {}
    state = findings.attempt("classifier", file, lambda: read_classifier(file))
    if state is None:
        return {}
    findings.add("classifier", file, "ok", f"{len(state)} tensors used")
    return {key.removeprefix("backbone."): tuple(v.shape) for key, v in state.items()}


def _salmonn_shapes(file: Path, findings: Findings) -> dict[str, tuple[int, ...]]:
    """Return shapes under our names; counts of used and of foreign tensors become findings."""
    from abhinaya.nn.weight_files import read_pickle

    content = read_pickle(file)
    tensors = content.get("model") if isinstance(content, dict) else None
    if not isinstance(tensors, dict):
        tensors = read_salmonn(file)  # raises, and says what is wrong
    used, tolerated, unknown = sort_salmonn_keys(tensors)
    if unknown:
        findings.add(
            "salmonn",
            file,
            "problem",
            f"{len(unknown)} of {len(tensors)} tensors belong to no part of SALMONN: "
            f"{list_some(sorted(unknown))}. It is another model's checkpoint, or was made by other "
            "code.",
        )
    else:
        findings.add(
            "salmonn",
            file,
            "ok",
            f"{len(used)} tensors used, {len(tolerated)} saved beside them that nothing needs",
        )
    return {key: tuple(value.shape) for key, value in used.items()}


def _adapter(config: SalmonnSources, sizes: SalmonnSizes) -> SpeechAdapter:
    """Build the Q-Former with all around it, without memory for its weights."""
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
    """Return the shapes of what the classifier adds to SALMONN: last norm, pooling, head."""
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
    """Check that Whisper, BEATs and language model are those that it was trained with.

    Args:
        config: names the files.
        findings: gets one for each.
        sizes: of the checkpoint.
        widths: features of the three; None for one that could not be read.
    """
    whisper, beats, llm = widths
    for what, where, width, check in (
        ("whisper", config.whisper, whisper, (whisper, None, None)),
        ("beats", config.beats, beats, (None, beats, None)),
        ("base", config.base, llm, (None, None, llm)),
    ):
        if width is not None:
            findings.attempt(
                what,
                where,
                functools.partial(check_sizes, sizes, config, *check),
                f"its {width} features are what the checkpoint was trained with",
            )


def _check_adapters(
    config: SalmonnSources, findings: Findings, trained: _Trained, llm: Shapes | None
) -> None:
    """Check that the language model has every layer that the adapters belong to, and no other."""
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
        "adapters",
        salmonn,
        lambda: check_fit(expected, got, what=what, where=salmonn),
        f"are whole: rank {sizes.lora_rank} on {', '.join(sizes.lora_targets)} of "
        f"{count_layers(llm)} layers",
    )
