"""A classifier saved by Abhinaya's public code, as a run directory of ours."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from abhinaya.config import config_digest, dump_yaml
from abhinaya.errors import CheckpointError, MissingFileError
from abhinaya.files import atomic_folder, digest_of, write_text
from abhinaya.labels import MSP_PODCAST
from members.salmonn.config import SalmonnConfig
from members.salmonn.weights import read_classifier

if TYPE_CHECKING:
    from abhinaya.nn.classifier import EmotionClassifier
    from abhinaya.training.classifier_member import ClassifierMember

__all__ = ["load_published", "published_classifier"]

_NOT_IN_DIGEST = ("run_dir", "data", "training", "inference", "cache", "classifier")


def published_classifier(member: ClassifierMember, config: SalmonnConfig) -> Path:
    """The run directory `config.run_dir` with the published classifier as its `best/`.

    What only matters in prediction may change from call to call; it is written anew.

    Raises:
        MissingFileError: if there is no such classifier.
        CheckpointError: if the folder holds another run, or the file does not fit.
    """
    from accelerate import PartialState

    from abhinaya.nn.checkpoint import read_info, save_checkpoint
    from abhinaya.nn.loss_config import absorbed_prior

    assert config.classifier is not None
    digest = _digest(config, config.classifier)
    best = config.run_dir / "best"
    is_there = best.is_dir()
    # A training leaves digest.json from its start on.
    if (config.run_dir / "digest.json").is_file() or (
        is_there and read_info(best).facts.get("digest") != digest
    ):
        raise CheckpointError(
            f"{str(config.run_dir)!r} holds another run. Choose another run_dir for the classifier "
            f"{str(config.classifier)!r}, or predict from the run that is there."
        )
    state = PartialState()
    state.wait_for_everyone()  # every process has looked before one of them writes
    if state.is_main_process:
        config_yaml = dump_yaml(config.model_copy(update={"classifier": None}))
        if is_there:
            write_text(best / "config.yaml", config_yaml)
        else:
            model = load_published(member, config)
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


def _digest(config: SalmonnConfig, classifier: Path) -> str:
    """Hash of the classifier and of all in the config that decides what `best/` computes."""
    if not classifier.is_file():
        raise MissingFileError(f"There is no file {str(classifier)!r}. Correct classifier.")
    with classifier.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return digest_of(["published", config_digest(config, without=_NOT_IN_DIGEST), content])


def load_published(member: ClassifierMember, config: SalmonnConfig) -> EmotionClassifier:
    """The classifier itself, in evaluation mode.

    Raises:
        CheckpointError: if keys are missing or unexpected, or shapes differ.
    """
    from abhinaya.nn.checkpoint import check_keys
    from abhinaya.training.build import build_classifier

    assert config.classifier is not None
    state = {key: value.float() for key, value in read_classifier(config.classifier).items()}
    model = build_classifier(member, config, len(MSP_PODCAST))
    check_keys(state, model, str(config.classifier))
    model.load_state_dict(state, strict=False)
    return model.eval()
