"""A SALMONN out of its four sources, sizes checked against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from abhinaya.data.audio import SAMPLE_RATE_HZ
from abhinaya.data.labels import EmotionSet
from abhinaya.errors import BadValueError, CheckpointError
from abhinaya.processes import join_launch
from members.salmonn.config import SalmonnConfig, SalmonnSources
from members.salmonn.inputs import SalmonnInputs
from members.salmonn.sequence import PromptTokens, load_prompts
from members.salmonn.weights import (
    SalmonnSizes,
    load_into,
    qformer_config,
    read_classifier,
    read_salmonn,
    read_sizes,
)

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from members.salmonn.model import SalmonnBackbone

__all__ = ["build_backbone", "build_inputs", "check_sizes", "window_frames"]


def build_backbone(parts: SalmonnSources, *, with_vocabulary: bool = False) -> SalmonnBackbone:
    """Return the backbone with all published weights in it.

    Args:
        parts: where they lie. A `classifier` in it overrides what `salmonn` holds.
        with_vocabulary: keep the language model's head, for answers in words.

    Raises:
        MissingFileError: if a file is not there.
        CheckpointError: if a file is damaged or no part of this SALMONN; the message names it.
        BadValueError: if the windows are shorter than a frame, or longer than what Whisper hears.
    """
    import torch

    from abhinaya.nn.language_model import hidden_size_of, load_language_model
    from abhinaya.nn.lora import add_lora
    from abhinaya.nn.weight_files import check_fit
    from abhinaya.nn.whisper import SAMPLES_PER_FRAME, load_encoder
    from members.salmonn.beats.weights import load_beats
    from members.salmonn.encoders import SpeechEncoders
    from members.salmonn.model import SalmonnBackbone
    from members.salmonn.qformer import SpeechAdapter

    # The small files first: a wrong one is then told before the language model is read.
    state = read_salmonn(parts.salmonn)
    own_norm: dict[str, Tensor] = {}
    if isinstance(parts, SalmonnConfig) and parts.classifier is not None:
        classifier = str(parts.classifier)
        own = _part(read_classifier(parts.classifier), "backbone.")
        own_norm = _part(own, "norm.")
        own = {key: value for key, value in own.items() if not key.startswith("norm.")}
        check_fit(state, own, what=f"the SALMONN {str(parts.salmonn)!r}", where=classifier)
        state = own
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    sizes = read_sizes(shapes, str(parts.salmonn))
    whisper = load_encoder(parts.whisper)
    beats = load_beats(parts.beats)
    check_sizes(
        sizes,
        parts,
        whisper.config.d_model,
        beats.config.encoder_embed_dim,
        hidden_size_of(parts.base),
    )
    types = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    frames = window_frames(parts.window_s)
    encoder = SpeechEncoders(
        cast("Any", whisper).to(types[parts.whisper_weights]),
        beats,
        window_frames=frames,
        trim_padding=parts.trim_padding,
    )
    if frames > encoder.n_frames:
        raise BadValueError(
            f"window_s is {parts.window_s:g}, but {parts.whisper!r} hears "
            f"{encoder.n_frames * SAMPLES_PER_FRAME / SAMPLE_RATE_HZ:g} s at once. SALMONN's is "
            "0.333333."
        )
    adapter = SpeechAdapter(
        qformer_config(sizes, parts.qformer),
        widths=sizes.widths,
        n_queries=sizes.n_queries,
        n_features=sizes.llm_width,
        window_frames=frames,
        stride_frames=window_frames(parts.stride_s or parts.window_s),
    )
    where = str(parts.salmonn)
    what = "a Q-Former with its projection"
    load_into(adapter, _part(state, "adapter."), what=what, where=where)
    device = join_launch().device
    llm = load_language_model(
        parts.base,
        weights=parts.llm_weights,
        head=with_vocabulary,
        # Straight to this process' own device: eight copies would not fit into the host's memory.
        device=None if device.type == "cpu" else device,
    )
    published = parts.compat == "published"
    if published and with_vocabulary:
        _add_pad_token(llm)
    bare: Any = llm.base_model  # itself where it has no head
    if sizes.lora_rank:
        add_lora(
            bare,
            rank=sizes.lora_rank,
            alpha=parts.lora.alpha,
            dropout=parts.lora.dropout,
            target_modules=list(sizes.lora_targets),
        )
    what = f"adapters of the language model {parts.base!r}"
    load_into(bare, _part(state, "llm."), what=what, where=where)
    backbone = SalmonnBackbone(encoder, adapter, llm, published=published)
    if own_norm:
        load_into(backbone.norm, own_norm, what="the norm before pooling", where=classifier)
    return backbone


def _add_pad_token(llm: PreTrainedModel) -> None:
    """Add the public code's [PAD] to the vocabulary; its rows, random there, are zero.

    It is one more column of the logits, over which beam search normalises.
    """
    import torch

    llm.resize_token_embeddings(llm.config.get_text_config().vocab_size + 1, mean_resizing=False)
    model = cast("Any", llm)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        torch.nn.init.zeros_(layer.weight.detach()[-1])


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}


def check_sizes(
    sizes: SalmonnSizes,
    parts: SalmonnSources,
    whisper_width: int | None,
    beats_width: int | None,
    llm_width: int | None,
) -> None:
    """Compare what the checkpoint expects of the other files with what they are.

    Args:
        sizes: of the checkpoint.
        parts: the files' names.
        whisper_width: features of Whisper; None if not known yet, as the next two.
        beats_width: features of BEATs.
        llm_width: width of the language model.

    Raises:
        CheckpointError: if one differs; it says which file and which would fit.
    """
    found = [
        ("whisper", parts.whisper, whisper_width, sizes.widths[0], "Whisper-large-v2 (1280)"),
        ("beats", str(parts.beats), beats_width, sizes.widths[1], "BEATs iter3+ AS2M cpt2 (768)"),
        (
            "base",
            parts.base,
            llm_width,
            sizes.llm_width,
            "Vicuna-13B v1.1 (5120) for salmonn_v1.pth, Vicuna-7B v1.5 (4096) for "
            "salmonn_7b_v0.pth",
        ),
    ]
    for key, path, width, expected, published in found:
        if width is not None and width != expected:
            raise CheckpointError(
                f"{key}: {path!r} has {width} features, but {str(parts.salmonn)!r} was trained "
                f"with {expected}. The published pairs are {published}. Correct {key} or salmonn."
            )


def build_inputs(
    parts: SalmonnSources,
    *,
    needs_text: bool,
    seed: int | None = None,
    published: bool = False,
    emotions: EmotionSet | None = None,
) -> SalmonnInputs:
    """Return what turns utterances into inputs.

    Args:
        parts: the config.
        needs_text: whether the member reads transcripts.
        seed: of the draw of prompts; None for no draw.
        published: see `SalmonnInputs`.
        emotions: classes for prompts that list them.

    Raises:
        BadValueError: if a prompt does not suit the member.
    """
    from abhinaya.nn.language_model import load_tokenizer
    from abhinaya.nn.whisper import load_feature_extractor

    prompts = load_prompts(parts, needs_text=needs_text, lists_classes=emotions is not None)
    tokens = PromptTokens(
        load_tokenizer(parts.base),
        prompts,
        template=parts.prompt_template,
        max_text_tokens=parts.max_text_tokens,
        emotions=emotions,
        seed=seed,
        published=published,
    )
    extractor = load_feature_extractor(parts.whisper)
    return SalmonnInputs(extractor, tokens, needs_text=needs_text, published=published)


def window_frames(seconds: float) -> int:
    """Return encoder frames in a window, at 50 per second.

    Raises:
        BadValueError: if there is none.

    Example:
        >>> window_frames(0.333333)
        17
    """
    from abhinaya.nn.whisper import SAMPLES_PER_FRAME

    frames = round(seconds * SAMPLE_RATE_HZ / SAMPLES_PER_FRAME)
    if frames < 1:
        raise BadValueError(
            f"window_s and stride_s must be at least 0.02, one frame of Whisper, got {seconds:g}."
        )
    return frames
