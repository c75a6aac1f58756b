"""The member `distilhubert`: `wavlm` reads the same layout, so it builds all of it."""

from __future__ import annotations

from typing import Any

from abhinaya.config import check_config
from abhinaya.member import InputBuilder
from abhinaya.nn.backbone import Backbone
from abhinaya.registry import load_member
from abhinaya.training.classifier_member import ClassifierMember
from members.distilhubert.config import DistilHubertConfig

__all__ = ["MEMBER", "DistilHubert"]


class DistilHubert(ClassifierMember):
    """The two-layer student of HuBERT under a classification head."""

    config_class = DistilHubertConfig

    def build_backbone(self, config: DistilHubertConfig) -> Backbone:
        """Load the encoder that `config.base` names, frozen and mixed as the config says."""
        backbone: Backbone = _reader().build_backbone(_as_read(config))
        return backbone

    def build_inputs(self, config: DistilHubertConfig) -> InputBuilder:
        """Return padded waveforms."""
        inputs: InputBuilder = _reader().build_inputs(_as_read(config))
        return inputs

    def build_front_end(self, config: DistilHubertConfig) -> Any:
        """Return what an exported graph does with waveforms before the encoder."""
        return _reader().build_front_end(_as_read(config))


def _reader() -> Any:
    return load_member("wavlm")


def _as_read(config: DistilHubertConfig) -> Any:
    content = config.model_dump(mode="json") | {"member": "wavlm"}
    return check_config(content, _reader().config_class, config.name)


MEMBER = DistilHubert()
