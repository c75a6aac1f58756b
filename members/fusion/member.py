"""The member `fusion`: from its config to encoders, inputs and legs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from abhinaya.config import check_config
from abhinaya.data.audio import SAMPLE_RATE_HZ
from abhinaya.doctor.findings import Findings
from abhinaya.doctor.weights import find_model
from abhinaya.errors import CheckpointError
from abhinaya.member import InputBuilder
from abhinaya.nn.backbone import Backbone
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.nn.language_model import load_tokenizer
from abhinaya.nn.weight_files import read_model_config
from abhinaya.registry import load_member
from abhinaya.training.classifier_member import ClassifierMember
from members.fusion.config import TEXT, FusionConfig, TextConfig
from members.fusion.doctor import check_fusion
from members.fusion.fuse import CrossFusion, DeepFusion
from members.fusion.inputs import FusionInputs
from members.fusion.model import FusionBackbone, Leg
from members.fusion.text import TextBackbone, TokenInputs, load_text_encoder, longest_text

__all__ = ["MEMBER", "Fusion"]

_READ_BY = {
    "hubert": "wavlm",
    "wav2vec2": "wavlm",
    "wavlm": "wavlm",
    "whisper": "whisper-encoder",
}
"""The member that reads a kind of speech encoder."""


class Fusion(ClassifierMember):
    """Encoders of speech and of text, each under a small transformer, fused into one vector."""

    config_class = FusionConfig

    def build_backbone(self, config: FusionConfig) -> Backbone:
        """Load all encoders, frozen as the config says, and build new legs on them."""
        names = [*config.encoders, *([TEXT] if config.text else [])]
        legs = {name: _build_leg(config, name) for name in names}
        widths = [leg.n_features for leg in legs.values()]
        kind = DeepFusion if config.fusion == "deep" else CrossFusion
        fusion = kind(widths, **config.legs.model_dump())
        return FusionBackbone(legs, fusion)

    def build_inputs(self, config: FusionConfig) -> InputBuilder:
        """Return the inputs of all encoders."""
        parts: dict[str, InputBuilder] = {}
        for name in config.encoders:
            reader, settings = _reader(config, name)
            parts[name] = reader.build_inputs(settings)
        if config.text is not None:
            parts[TEXT] = _text_inputs(config.text)
        return FusionInputs(parts)

    def check_weights(self, config: FusionConfig) -> Findings:
        """Look at the files that the config names for `abhinaya doctor`; load none whole."""
        return check_fusion(config, _build_leg, self.build_inputs)


def _reader(config: FusionConfig, name: str) -> tuple[ClassifierMember, ClassifierConfig]:
    """Return the member that reads an encoder of speech, and its config.

    Raises:
        MissingFileError: if there is no such encoder.
        CheckpointError: if nobody reads it, or it hears another sample rate.
    """
    base, encoder = config.base_of(name), config.encoders[name]
    key = f"encoders.{name}.base"
    path = find_model(base)
    kind = "whisper"  # the one that may come as a file of openai-whisper
    if path is None or path.is_dir():
        try:
            kind = read_model_config(base).model_type
        except OSError as err:
            raise CheckpointError(
                f"{key} {base!r} has no config.json that can be read: {str(err).splitlines()[0]} "
                "Correct the path, or download the model again."
            ) from err
    if kind not in _READ_BY:
        raise CheckpointError(
            f"{key} {base!r} holds a model of type {kind!r}, expected one of "
            f"{', '.join(_READ_BY)}. Correct {key}, or name a text encoder under text."
        )
    _check_sample_rate(base, key)
    reader = cast("ClassifierMember", load_member(_READ_BY[kind]))
    content = config.model_dump(mode="json", include=set(ClassifierConfig.model_fields)) | {
        "member": _READ_BY[kind],
        "base": base,
        "freeze": encoder.freeze,
        "layer_weights": encoder.layer != "last",
        "cache": None,
        **({"pointwise": ()} if kind == "whisper" else {"spec_augment": False}),
    }
    return reader, check_config(content, reader.config_class, f"encoders.{name}")


def _check_sample_rate(base: str, key: str) -> None:
    """Refuse an encoder whose preprocessor_config.json names another sample rate than ours."""
    from transformers import AutoFeatureExtractor

    if Path(base).is_file():
        return
    make: Any = AutoFeatureExtractor
    try:
        rate = make.from_pretrained(base).sampling_rate
    except (OSError, ValueError):
        return  # most files tell it, none must
    if rate != SAMPLE_RATE_HZ:
        raise CheckpointError(
            f"{key} {base!r} hears {rate} Hz, as its preprocessor_config.json says; expected "
            f"{SAMPLE_RATE_HZ}, at which all clips are read. Name an encoder of that rate."
        )


def _build_leg(config: FusionConfig, name: str) -> Leg:
    """Load the encoder of a name."""
    if name != TEXT or config.text is None:
        reader, settings = _reader(config, name)
        encoder = config.encoders[name]
        return Leg(reader.build_backbone(settings), encoder.layer, f"encoders.{name}")
    text = config.text
    find_model(text.base)  # a path that is not there is known by its name
    backbone = TextBackbone(
        load_text_encoder(text.base),
        frozen=text.freeze == "encoder",
        layer_weights=text.layer != "last",
    )
    return Leg(backbone, text.layer, TEXT)


def _text_inputs(config: TextConfig) -> TokenInputs:
    find_model(config.base)
    return TokenInputs(
        load_tokenizer(config.base),
        max_tokens=config.max_tokens,
        longest=longest_text(config.base),
    )


MEMBER = Fusion()
