"""`abhinaya doctor` of T2; of the language model only names and shapes are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.doctor.findings import Findings
from abhinaya.doctor.weights import (
    check_language_model,
    check_quantization,
    check_tokenizer,
    check_transcripts,
)
from members.llama_lora.config import LlamaLoraConfig
from members.llama_lora.weights import read_classifier

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

__all__ = ["check_llama_lora"]


def check_llama_lora(config: LlamaLoraConfig) -> Findings:
    """Find all that can be known of a config's weights and texts before they are loaded."""
    findings = Findings()
    language_model = check_language_model(config.base, findings)
    n_rows = language_model.config.vocab_size if language_model is not None else None
    tokenizer = check_tokenizer(config.base, findings, n_rows)
    if tokenizer is not None and config.max_tokens > tokenizer.model_max_length:
        findings.add(
            "max_tokens",
            "",
            "problem",
            f"is {config.max_tokens}, but the language model reads {tokenizer.model_max_length} "
            "at most. Set it to that or less.",
        )
    check_quantization("weights", config.weights, findings)
    check_transcripts(config.data, findings)
    file, state = config.classifier, None
    if file is not None:
        state = findings.attempt("classifier", file, lambda: read_classifier(file))
    if language_model is None:
        return findings
    targets = ", ".join(config.lora.target_modules)
    model = findings.attempt(
        "lora",
        targets,
        lambda: _empty_classifier(config, language_model),
        f"the language model has such layers; they get adapters of rank {config.lora.rank}",
    )
    if model is None:
        return findings
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if state is not None:
        from abhinaya.nn.weight_files import check_fit

        what = "adapters, pooling, head and last norm of the config"
        findings.attempt(
            "classifier",
            file,
            lambda: check_fit(trained, state, what=what, where=str(file)),
            f"is whole: {len(state)} tensors, for {len(MSP_PODCAST)} classes",
        )
    return findings


def _empty_classifier(config: LlamaLoraConfig, language_model: PreTrainedModel) -> nn.Module:
    """Build the classifier around an empty language model, itself without memory for weights."""
    import torch

    from abhinaya.nn.classifier import EmotionClassifier
    from abhinaya.nn.head import EmotionHead
    from abhinaya.nn.pooling import build_pooling
    from members.llama_lora.model import LanguageModelBackbone, add_adapters

    language_model.requires_grad_(False)
    with torch.device("meta"):
        add_adapters(language_model, **config.lora.model_dump())
        backbone = LanguageModelBackbone(language_model)
        pooling = build_pooling(config.pooling, backbone.n_features)
        head = EmotionHead(
            pooling.output_size, len(MSP_PODCAST), config.head.hidden, config.head.norm
        )
        return EmotionClassifier(backbone, pooling, head)
