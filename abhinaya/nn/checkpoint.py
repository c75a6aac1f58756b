"""The folder `best/` of a run: what prediction reads, and nothing of the frozen base weights.

It comes from a training, or from a classifier that Abhinaya's public code saved.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from abhinaya.config import config_digest, dump_yaml, load_yaml
from abhinaya.data.labels import MSP_PODCAST, EmotionSet
from abhinaya.errors import CheckpointError, MissingFileError
from abhinaya.files import (
    atomic_folder,
    digest_of,
    hash_file,
    read_json,
    read_json_object,
    read_text,
    write_json,
    write_text,
)
from abhinaya.nn.build import ClassifierBuilder, build_classifier
from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.nn.losses.config import absorbed_prior
from abhinaya.nn.weight_files import check_fit
from abhinaya.processes import is_main_process, meet
from abhinaya.weight_places import locate_weights, weights_from

__all__ = [
    "HEAD_NAMES",
    "CheckpointInfo",
    "check_keys",
    "filled_classifier",
    "load_weights",
    "published_run",
    "read_info",
    "read_training_rows",
    "save_checkpoint",
    "write_training_rows",
]

WEIGHTS = "model.safetensors"

TRAINING_ROWS = "training_rows.json"
"""The names of the utterances that the weights were trained on."""

HEAD_NAMES = {"ln": "backbone.norm", "pool": "pooling", "fc": "head.fc", "out": "head.out"}
"""Modules of the public classifiers over a language model, and ours."""

_NOT_IN_DIGEST = (
    "run_dir",
    "data",
    "training",
    "inference",
    "cache",
    "classifier",
    "stored_prompts",  # the digest of a table has them
)


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
    """Read what a checkpoint says of itself.

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
        emotions=EmotionSet.from_json(
            read_text(folder / "classes.json"), where=str(folder / "classes.json")
        ),
        metrics=read_json_object(folder / "metrics.json"),
        facts=read_json_object(folder / "facts.json"),
    )


def write_training_rows(folder: Path, utterances: Iterable[str]) -> str:
    """Write the utterances that a checkpoint was trained on; return the digest for its facts."""
    names = sorted(set(utterances))
    write_json(folder / TRAINING_ROWS, names)
    return digest_of(names)


def read_training_rows(folder: Path, facts: Mapping[str, Any]) -> list[str] | None:
    """Read the utterances that a checkpoint was trained on; None where nobody noted them.

    Args:
        folder: the checkpoint.
        facts: what it says of itself; it holds the digest of the list.

    Raises:
        CheckpointError: if the list is not there or another one.
    """
    digest = facts.get("training_rows")
    if digest is None:
        return None
    file = folder / TRAINING_ROWS
    names = read_json(file) if file.is_file() else None
    if not isinstance(names, list) or digest_of(names) != digest:
        found = "is missing" if names is None else "holds other names than facts.json stands for"
        raise CheckpointError(
            f"{str(file)!r}, the utterances that the weights were trained on, {found}. "
            "Copy the folder again as a whole."
        )
    return names


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


def published_run(
    config: ClassifierConfig, classifier: Path, load: Callable[[], EmotionClassifier]
) -> Path:
    """Return the run directory `config.run_dir` with the published classifier as its `best/`.

    What only matters in prediction may change from call to call; it is written anew.

    Args:
        config: of the member; its key `classifier` is not stored.
        classifier: the published file.
        load: gives the model with the file's weights; called where `best/` is not there yet.

    Raises:
        MissingFileError: if there is no such classifier.
        CheckpointError: if the folder holds another run.
    """
    best = config.run_dir / "best"
    is_there = best.is_dir()
    digest = _digest(_with_stored_places(config, best) if is_there else config, classifier)
    # A training leaves digest.json from its start on.
    if (config.run_dir / "digest.json").is_file() or (
        is_there and read_info(best).facts.get("digest") != digest
    ):
        raise CheckpointError(
            f"{str(config.run_dir)!r} holds another run. Choose another run_dir for the classifier "
            f"{str(classifier)!r}, or predict from the run that is there."
        )
    meet()  # every process has looked before one of them writes
    if is_main_process():
        config_yaml = dump_yaml(config.model_copy(update={"classifier": None}))
        if is_there:
            write_text(best / "config.yaml", config_yaml)
        else:
            model = load()
            prior = absorbed_prior(config.loss, config.loss.class_counts or [1] * len(MSP_PODCAST))
            with atomic_folder(best) as folder:
                save_checkpoint(
                    folder,
                    model,
                    config_yaml=config_yaml,
                    emotions=MSP_PODCAST,
                    metrics={},
                    facts={
                        "digest": digest,
                        "absorbed_prior": prior,
                        "weights": weights_from(best, config),
                    },
                )
    meet()
    return config.run_dir


def _with_stored_places(config: ClassifierConfig, best: Path) -> ClassifierConfig:
    """Return the config as it was when `best/` was written, where it names the same weights."""
    info = read_info(best)
    places = info.facts.get("weights", {})
    stored = locate_weights(info.config, best, places)
    same = {}
    for key in places:
        ours, theirs = getattr(config, key, None), stored.get(key)
        if ours and theirs and os.path.exists(ours) and os.path.exists(theirs):
            if os.path.samefile(ours, theirs):
                same[key] = type(ours)(info.config[key])
    return config.model_copy(update=same)


def _digest(config: ClassifierConfig, classifier: Path) -> str:
    """Hash the classifier and all in the config that decides what `best/` computes."""
    if not classifier.is_file():
        raise MissingFileError(f"There is no file {str(classifier)!r}. Correct classifier.")
    config_hash = config_digest(config, without=_NOT_IN_DIGEST)
    return digest_of(["published", config_hash, hash_file(classifier)])


def filled_classifier(
    member: ClassifierBuilder,
    config: ClassifierConfig,
    state: Mapping[str, Tensor],
    where: str,
) -> EmotionClassifier:
    """Build the config's classifier with published weights, in evaluation mode.

    Args:
        member: builds the model.
        config: what to build.
        state: all that is trained, under our names.
        where: the file that it came from.

    Raises:
        CheckpointError: if keys are missing or unexpected, or shapes differ.
    """
    model = build_classifier(member, config, len(MSP_PODCAST))
    check_keys(state, model, where)
    model.load_state_dict({key: value.float() for key, value in state.items()}, strict=False)
    return model.eval()
