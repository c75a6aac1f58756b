"""The member `llama-8b-lora` (T2): a language model reads the transcript."""

from __future__ import annotations

from pathlib import Path

from abhinaya.config import MemberConfig
from abhinaya.data.predictions import PredictionTable
from abhinaya.doctor.findings import Findings
from abhinaya.errors import BadValueError
from abhinaya.member import InputBuilder, PredictRequest
from abhinaya.nn.backbone import Backbone
from abhinaya.nn.checkpoint import filled_classifier, published_run
from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.nn.language_model import load_language_model, load_tokenizer
from abhinaya.nn.weight_files import check_fit
from abhinaya.processes import join_launch
from abhinaya.training.classifier_member import ClassifierMember
from members.llama_lora.config import LlamaLoraConfig
from members.llama_lora.doctor import check_llama_lora
from members.llama_lora.inputs import TranscriptInputs
from members.llama_lora.model import LanguageModelBackbone, add_adapters
from members.llama_lora.weights import read_classifier

__all__ = ["MEMBER", "LlamaLoraMember", "load_published"]


class LlamaLoraMember(ClassifierMember):
    """A causal language model with low-rank adapters under a classification head."""

    config_class = LlamaLoraConfig

    def build_backbone(self, config: LlamaLoraConfig) -> Backbone:
        """Return the frozen language model with new adapters, or with those of `classifier`.

        Raises:
            BadValueError: if it has no layers of the names in `lora.target_modules`.
            CheckpointError: if `classifier` does not fit.
        """
        # The small file first: a wrong one is then told before the language model is read.
        state = read_classifier(config.classifier) if config.classifier is not None else {}
        device = join_launch().device
        encoder = load_language_model(
            config.base,
            weights=config.weights,
            # Straight to this process' own device: several copies may not fit into main memory.
            device=None if device.type == "cpu" else device,
        )
        add_adapters(encoder, **config.lora.model_dump())
        backbone = LanguageModelBackbone(encoder)
        if config.classifier is not None:
            prefix = "backbone."
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            trained = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
            what = f"the adapters and norm of the config on {config.base!r}"
            check_fit(trained, own, what=what, where=str(config.classifier))
            backbone.load_state_dict({k: v.float() for k, v in own.items()}, strict=False)
        return backbone

    def build_inputs(self, config: LlamaLoraConfig) -> InputBuilder:
        """Return token ids of the transcripts.

        Raises:
            BadValueError: if `max_tokens` is more than the language model reads.
        """
        tokenizer = load_tokenizer(config.base)
        if config.max_tokens > tokenizer.model_max_length:
            raise BadValueError(
                f"max_tokens is {config.max_tokens}, but {config.base!r} reads "
                f"{tokenizer.model_max_length} tokens at most. Set it to that or less."
            )
        return TranscriptInputs(
            tokenizer,
            suffix=config.suffix,
            max_tokens=config.max_tokens,
            special_tokens=config.special_tokens,
        )

    def check_weights(self, config: LlamaLoraConfig) -> Findings:
        """Look at the files that the config names for `abhinaya doctor`; load none whole."""
        return check_llama_lora(config)

    def predict(self, source: Path | MemberConfig, request: PredictRequest) -> PredictionTable:
        """Label every row of a selection with a run, or with the classifier that a config names.

        Raises:
            BadValueError: if `source` is a config without `classifier`.
        """
        if isinstance(source, LlamaLoraConfig) and source.classifier is not None:
            config, classifier = source, source.classifier
            source = published_run(config, classifier, lambda: load_published(self, config))
        return super().predict(source, request)


def load_published(member: ClassifierMember, config: LlamaLoraConfig) -> EmotionClassifier:
    """Load the classifier that a config names, in evaluation mode.

    Raises:
        CheckpointError: if keys are missing or unexpected, or shapes differ.
    """
    assert config.classifier is not None
    state = read_classifier(config.classifier)
    return filled_classifier(member, config, state, str(config.classifier))


MEMBER = LlamaLoraMember()
