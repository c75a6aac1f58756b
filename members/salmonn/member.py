"""The members `salmonn-13b` (S2) and `salmonn-7b-speech-text` (ST1): one kind, two prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from abhinaya.config import MemberConfig
from abhinaya.data.manifest import Manifest
from abhinaya.data.predictions import PredictionTable
from abhinaya.doctor.findings import Findings
from abhinaya.errors import BadValueError
from abhinaya.member import InputBuilder, PredictRequest
from abhinaya.nn.backbone import Backbone
from abhinaya.nn.checkpoint import filled_classifier, published_run
from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.training.classifier_member import ClassifierMember
from members.salmonn.build import build_backbone, build_inputs
from members.salmonn.config import SalmonnConfig
from members.salmonn.doctor import check_salmonn
from members.salmonn.sequence import store_prompts
from members.salmonn.weights import read_classifier

if TYPE_CHECKING:
    from members.salmonn.inputs import SalmonnInputs

__all__ = ["SPEECH", "SPEECH_TEXT", "SalmonnMember", "load_published"]


class SalmonnMember(ClassifierMember):
    """SALMONN under a classification head.

    Args:
        needs_text: whether its prompt holds the transcript.
    """

    config_class = SalmonnConfig

    def __init__(self, *, needs_text: bool) -> None:
        self.needs_text = needs_text

    def build_backbone(self, config: SalmonnConfig) -> Backbone:
        """Return encoders, Q-Former and language model with the weights that the config names."""
        return build_backbone(config)

    def build_inputs(self, config: SalmonnConfig) -> InputBuilder:
        """Return spectrograms, filter banks and token ids.

        Raises:
            BadValueError: if the prompt does not suit the member, or longer clips are let through
                than the model hears.
        """
        inputs: SalmonnInputs = build_inputs(
            config,
            needs_text=self.needs_text,
            seed=config.seed if config.prompt_sampling == "random" else None,
            published=config.compat == "published",
        )
        if config.audio.max_audio_s > inputs.window_s:
            raise BadValueError(
                f"audio.max_audio_s is {config.audio.max_audio_s:g}, but {config.whisper!r} hears "
                f"{inputs.window_s:g} s at once. Set it to {inputs.window_s:g} or less."
            )
        return inputs

    def train(self, config: MemberConfig, manifest: Manifest) -> Path:
        """Train, or resume what was begun under the very same texts of the prompts."""
        assert isinstance(config, SalmonnConfig)
        return super().train(store_prompts(config), manifest)

    def check_weights(self, config: SalmonnConfig) -> Findings:
        """Look at the files that the config names for `abhinaya doctor`; load none whole."""
        return check_salmonn(config, needs_text=self.needs_text)

    def predict(self, source: Path | MemberConfig, request: PredictRequest) -> PredictionTable:
        """Label every row of a selection with a run, or with the classifier that a config names.

        Raises:
            BadValueError: if `source` is a config without `classifier`.
        """
        if isinstance(source, SalmonnConfig) and source.classifier is not None:
            config, classifier = store_prompts(source), source.classifier
            source = published_run(config, classifier, lambda: load_published(self, config))
        return super().predict(source, request)


def load_published(member: ClassifierMember, config: SalmonnConfig) -> EmotionClassifier:
    """Load the classifier that a config names, in evaluation mode.

    Raises:
        CheckpointError: if keys are missing or unexpected, or shapes differ.
    """
    assert config.classifier is not None
    state = read_classifier(config.classifier)
    return filled_classifier(member, config, state, str(config.classifier))


SPEECH = SalmonnMember(needs_text=False)
SPEECH_TEXT = SalmonnMember(needs_text=True)
