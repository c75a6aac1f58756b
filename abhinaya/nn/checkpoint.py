"""The folder `best/` of a run: what prediction reads, and nothing of the frozen base weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from abhinaya.config import load_yaml
from abhinaya.data.labels import EmotionSet
from abhinaya.errors import CheckpointError, MissingFileError
from abhinaya.files import write_json, write_text
from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.nn.weight_files import check_fit

__all__ = ["CheckpointInfo", "check_keys", "load_weights", "read_info", "save_checkpoint"]

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class CheckpointInfo:
    """Everything in a checkpoint but the weights.

    Args:
        config: the resolved config as read from YAML.
        emotions: classes in the order of the logits.
        metrics: validation scores of the checkpoint.
        facts: config digest, class prior absorbed by the loss, seed and versions.
    """

    config: Mapping[str, Any]
    emotions: EmotionSet
    metrics: Mapping[str, Any]
    facts: Mapping[str, Any]


def save_checkpoint(
    folder: Path,
    model: EmotionClassifier,
    *,
    config_yaml: str,
    emotions: EmotionSet,
    metrics: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """Fill an existing folder with trained weights, config, class order, metrics and adapter."""
    save_file(model.trained_state(), folder / WEIGHTS, metadata={"format": "pt"})
    write_text(folder / "config.yaml", config_yaml)
    write_text(folder / "classes.json", emotions.to_json() + "\n")
    write_json(folder / "metrics.json", dict(metrics))
    write_json(folder / "facts.json", dict(facts))
    model.backbone.save_adapter(folder / "adapter")


def read_info(folder: Path) -> CheckpointInfo:
    """What a checkpoint says of itself.

    Raises:
        MissingFileError: if files are missing; the message lists them.
    """
    names = ("config.yaml", "classes.json", "metrics.json", "facts.json", WEIGHTS)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise MissingFileError(
            f"{str(folder)!r} is no checkpoint: {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing. Name the run directory of a finished "
            "abhinaya train."
        )
    return CheckpointInfo(
        config=load_yaml(folder / "config.yaml"),
        emotions=EmotionSet.from_json((folder / "classes.json").read_text(encoding="utf-8")),
        metrics=json.loads((folder / "metrics.json").read_text(encoding="utf-8")),
        facts=json.loads((folder / "facts.json").read_text(encoding="utf-8")),
    )


def load_weights(folder: Path, model: EmotionClassifier) -> None:
    """Load the trained weights of a checkpoint into a model built from the same config.

    Raises:
        CheckpointError: if a key is missing or unexpected, or a shape differs; all are named.
    """
    file = folder / WEIGHTS
    try:
        state = load_file(file)
    except SafetensorError as err:
        raise CheckpointError(
            f"{str(file)!r} cannot be read: {err}. It is damaged; train again or copy it again."
        ) from err
    check_keys(state, model, str(file))
    model.load_state_dict(state, strict=False)


def check_keys(state: Mapping[str, Tensor], model: EmotionClassifier, where: str) -> None:
    """Refuse a state that is not exactly the trained part of `model`.

    Raises:
        CheckpointError: see `load_weights`.
    """
    own = model.state_dict()
    check_fit(
        {name: own[name] for name in model.trained_names()},
        state,
        what="the model of its config",
        where=where,
        advice="Use the checkpoint with the config and base weights it was trained with.",
    )
