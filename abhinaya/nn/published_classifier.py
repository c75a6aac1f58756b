"""A classifier saved by Abhinaya's public code, as a run directory of ours."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from accelerate import PartialState
from torch import Tensor

from abhinaya.config import config_digest, dump_yaml
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.errors import CheckpointError, MissingFileError
from abhinaya.files import atomic_folder, digest_of, write_text
from abhinaya.nn.build import ClassifierBuilder, build_classifier
from abhinaya.nn.checkpoint import check_keys, read_info, save_checkpoint
from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.nn.loss_config import absorbed_prior

__all__ = ["HEAD_NAMES", "filled_classifier", "published_run"]

HEAD_NAMES = {"ln": "backbone.norm", "pool": "pooling", "fc": "head.fc", "out": "head.out"}
"""Modules of the public classifiers over a language model, and ours."""

_NOT_IN_DIGEST = (
    *("run_dir", "data", "training", "inference", "cache", "classifier"),
    "stored_prompts",  # the digest of a table has them
)


def published_run(
    config: ClassifierConfig, classifier: Path, load: Callable[[], EmotionClassifier]
) -> Path:
    """The run directory `config.run_dir` with the published classifier as its `best/`.

    What only matters in prediction may change from call to call; it is written anew.

    Args:
        config: of the member; its key `classifier` is not stored.
        classifier: the published file.
        load: gives the model with the file's weights; called where `best/` is not there yet.

    Raises:
        MissingFileError: if there is no such classifier.
        CheckpointError: if the folder holds another run.
    """
    digest = _digest(config, classifier)
    best = config.run_dir / "best"
    is_there = best.is_dir()
    # A training leaves digest.json from its start on.
    if (config.run_dir / "digest.json").is_file() or (
        is_there and read_info(best).facts.get("digest") != digest
    ):
        raise CheckpointError(
            f"{str(config.run_dir)!r} holds another run. Choose another run_dir for the classifier "
            f"{str(classifier)!r}, or predict from the run that is there."
        )
    state = PartialState()
    state.wait_for_everyone()  # every process has looked before one of them writes
    if state.is_main_process:
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
                    facts={"digest": digest, "absorbed_prior": prior},
                )
    state.wait_for_everyone()
    return config.run_dir


def _digest(config: ClassifierConfig, classifier: Path) -> str:
    """Hash of the classifier and of all in the config that decides what `best/` computes."""
    if not classifier.is_file():
        raise MissingFileError(f"There is no file {str(classifier)!r}. Correct classifier.")
    with classifier.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return digest_of(["published", config_digest(config, without=_NOT_IN_DIGEST), content])


def filled_classifier(
    member: ClassifierBuilder,
    config: ClassifierConfig,
    state: Mapping[str, Tensor],
    where: str,
) -> EmotionClassifier:
    """The config's classifier with published weights, in evaluation mode.

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
