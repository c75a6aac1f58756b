"""Training of one member, from manifest to run directory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import EvalPrediction, set_seed

import abhinaya
from abhinaya.config import config_digest, dump_yaml
from abhinaya.data.augmentation import require_augmentation
from abhinaya.data.labels import ABSTAIN, EmotionSet
from abhinaya.data.manifest import Manifest
from abhinaya.data.problems import PROBLEMS, Problem, write_problems
from abhinaya.data.sound_folders import sounds_digest
from abhinaya.data.transcripts import read_transcripts, transcripts_path
from abhinaya.errors import BadValueError, list_some
from abhinaya.evaluation.metrics import scores
from abhinaya.files import atomic_folder, digest_of, write_csv
from abhinaya.loading.attributes import attribute_targets
from abhinaya.loading.balance import EpochRows
from abhinaya.loading.clips import collect_clips, split_readable, split_short
from abhinaya.loading.dataset import ClipDataset, Collator
from abhinaya.loading.targets import (
    SoftTargets,
    hard_targets,
    make_targets,
    soft_targets,
    table_digest,
)
from abhinaya.member import InputBuilder
from abhinaya.nn.build import ClassifierBuilder, build_classifier
from abhinaya.nn.checkpoint import save_checkpoint, write_training_rows
from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.nn.losses.build import AdaptiveFocalLoss
from abhinaya.nn.losses.config import absorbed_prior
from abhinaya.processes import join_launch, meet
from abhinaya.stopping.interruptions import deferred
from abhinaya.training.arguments import training_arguments, warn_of_split_batches
from abhinaya.training.attributes import attribute_metrics
from abhinaya.training.loaders import Rows, make_dataset, make_loaders
from abhinaya.training.run_directory import RunDirectory
from abhinaya.training.sharded import make_whole
from abhinaya.training.trainer import EmotionTrainer
from abhinaya.weight_places import weights_from

__all__ = ["train_classifier", "training_digest"]

_logger = logging.getLogger(__name__)

# What may change between a kill and a resume: where things lie, and how the work is spread.
_NOT_IN_DIGEST = (
    "run_dir",
    "data.manifest",
    "data.audio_root",
    "audio.augment.background.folder",
    "audio.augment.reverb.folder",
    "data.transcripts.predict",
    "targets.table",
    "cache",
    "inference",
    "training.per_device_train_batch_size",
    "training.per_device_eval_batch_size",
    "training.dataloader_num_workers",
    "training.dataloader_pin_memory",
    "training.dataloader_prefetch_factor",
    "training.dataloader_persistent_workers",
    "training.report_to",
    "training.ddp_timeout",
    "training.logging_steps",
    "training.save_total_limit",
    "training.ddp_find_unused_parameters",
    "training.use_cpu",
    "training.gradient_checkpointing",
    "training.activation_checkpointing",
)


def training_digest(config: ClassifierConfig, manifest: Manifest) -> str:
    """Hash of all that decides a run's result; worker and device counts are left out."""
    without = list(_NOT_IN_DIGEST)
    # Validation takes place where checkpoints are saved, and that decides which one is the best.
    is_validated = config.data.validation is not None
    if not (is_validated and config.training.arguments.get("save_strategy") == "steps"):
        without.append("training.save_steps")
    if not is_validated:
        without.append("data.transcripts.validation")
    values = [config_digest(config, without=without), manifest.digest]
    # float16 features are other numbers; where and how large the store is does not matter.
    values.append(config.cache.dtype if config.cache else "float32")
    values += map(sounds_digest, config.audio.augment.folders if config.audio.augment else ())
    if config.data.transcripts is not None:
        sources = config.data.transcripts
        file = transcripts_path(manifest.root)
        for source in dict.fromkeys([sources.train, *([sources.validation] * is_validated)]):
            values.append(digest_of(read_transcripts(file, source)))
    if config.targets is not None and config.targets.table is not None:
        values.append(table_digest(config.targets.table))
    return digest_of(values)


def train_classifier(
    member: ClassifierBuilder, config: ClassifierConfig, manifest: Manifest
) -> Path:
    """Train a member, resume it, or return at once if it is trained already.

    Every process of a launch calls this; the main one writes.

    Returns:
        The run directory; `best/` in it holds the checkpoint of highest validation macro-F1, or the
        last one where `data.validation` is None.

    Raises:
        BadValueError: if the directory holds another run, or no training row is usable.
    """
    run = RunDirectory(config.run_dir, training_digest(config, manifest))
    run.check()
    if run.is_finished:
        _logger.info("%s is trained already: %s", config.name, run.best)
        return run.path
    arguments = training_arguments(config, run.path)  # starts torch.distributed under a launcher
    state = join_launch()
    inputs = member.build_inputs(config)
    _check_inputs(config, inputs)
    train, problems = _usable_rows(config, manifest, inputs, "train")
    validation = None
    if config.data.validation is not None:
        validation, more = _usable_rows(config, manifest, inputs, "validation")
        problems += more
        validation = _only_with_truth(validation, config)
        n_known = sum(clip.utterance in train.teacher_rows for clip in validation.clips)
        if n_known:
            _logger.warning(
                "%s: the model behind targets.table was trained on %d of the %d validation rows, "
                "so scores on them are too good",
                *(config.name, n_known, len(validation.clips)),
            )
    counts = np.bincount(train.truth[train.truth != ABSTAIN], minlength=len(manifest.emotions))
    if config.loss.counts_rows and not counts.all():
        codes = [manifest.emotions.codes[idx] for idx in np.flatnonzero(counts == 0)]
        raise BadValueError(
            f"No training row of {config.name!r} has the class {list_some(codes)}, but the loss "
            f"{config.loss.name!r} weighs classes by their rows. Add rows to data.train, state "
            "loss.class_counts, or take a loss that counts none."
        )
    rows = EpochRows(train.truth, manifest.emotions, config.balance) if config.balance else None
    if rows is not None:
        rows.require_steps(arguments.max_steps, config.training.global_batch_size)

    set_seed(config.seed)
    model = build_classifier(member, config, len(manifest.emotions), counts.tolist())
    load_train, load_validation, collate = make_loaders(
        config, inputs, model, train, validation, arguments
    )
    train_rows = make_dataset(config, inputs, train, load_train, manifest.emotions)
    # Only now: weights or a config that do not work leave no folder behind.
    if state.is_main_process:
        run.begin(dump_yaml(config))
        write_problems(run.path / PROBLEMS, problems)
    meet()
    _logger.info(
        "%s: %d training clips, %d for validation, %d unusable",
        config.name,
        len(train.clips),
        len(validation.clips) if validation else 0,
        len(problems),
    )
    warn_of_split_batches(config, arguments.per_device_train_batch_size)
    # Again: dropout must not depend on how many weights were drawn, or features cached.
    set_seed(config.seed)
    trainer = EmotionTrainer(
        name=config.name,
        model=model,
        args=arguments,
        bf16=bool(config.training.arguments.get("bf16")),
        lengths=[clip.size for clip in train.clips],
        global_batch_size=config.training.global_batch_size,
        rows=rows,
        head_rate=config.head.learning_rate,
        train_dataset=train_rows,
        eval_dataset=(
            ClipDataset(
                validation.clips, load_validation, validation.targets, validation.attributes
            )
            if validation
            else None
        ),
        data_collator=Collator(collate),
        compute_metrics=_metrics(validation, model, arguments.device) if validation else None,
    )
    last = run.last_checkpoint()
    with deferred():
        trainer.train(
            resume_from_checkpoint=str(last) if last else None, ignore_keys_for_eval=["embeddings"]
        )
    if validation is not None and model.calibrates:
        held_out: Any = trainer.eval_dataset
        found = trainer.predict(held_out, ignore_keys=["embeddings"])
        make_whole(model, model.trained_names())
        model.calibrate(np.asarray(_outputs(found.predictions)[0]), validation.truth)
    make_whole(model, model.trained_names())
    with trainer.whole_weights():
        if state.is_main_process:
            trainer.drop_old_checkpoints()
            _write_log(run.path / "log.csv", trainer.state.log_history)
            trained_on = [*(clip.utterance for clip in train.clips), *train.teacher_rows]
            _write_best(run, model, config, manifest.emotions, trainer, counts.tolist(), trained_on)
    meet()
    return run.path


def _check_inputs(config: ClassifierConfig, inputs: InputBuilder) -> None:
    """Refuse keys about what the member does not take in, and look for what augmentation needs."""
    max_words = config.data.max_train_words
    if max_words is not None and not inputs.needs_text:
        raise BadValueError(
            f"data.max_train_words is {max_words}, but the member {config.member!r} reads no text. "
            "Remove it."
        )
    if config.audio.augment is not None and not inputs.needs_audio:
        raise BadValueError(
            f"audio.augment changes sound, but the member {config.member!r} hears none. Remove it."
        )
    if config.audio.augment is not None:
        require_augmentation(config.audio.augment)


def _usable_rows(
    config: ClassifierConfig,
    manifest: Manifest,
    inputs: InputBuilder,
    use: Literal["train", "validation"],
) -> tuple[Rows, list[Problem]]:
    """Collect rows with target and readable input, longest first; and why others are not."""
    selection = config.data.train if use == "train" else config.data.validation or ()
    rows = manifest.select(selection)
    truth = hard_targets(rows, manifest.emotions)
    targets: NDArray[Any] | SoftTargets = truth
    has_target = truth != ABSTAIN
    if config.loss.uses_soft_targets and use == "train":
        targets = make_targets(config, rows, manifest.emotions)
        has_target = targets.is_known
    elif config.loss.uses_soft_targets:
        targets = soft_targets(rows, manifest.emotions)
        has_target = ~np.isnan(targets).any(axis=1)
    attributes = attribute_targets(rows, config, has_target if use == "train" else None)
    n_without = int((~has_target).sum())
    if n_without:
        _logger.info(
            "%s: %d of %d rows of %s have no label of the emotion set and are left out",
            config.name,
            n_without,
            len(rows),
            ", ".join(selection),
        )
    chosen = rows.loc[has_target].reset_index(drop=True)
    transcripts = config.data.transcripts
    clips, problems = collect_clips(
        chosen, manifest, inputs, (transcripts, use) if transcripts else None
    )
    max_words = config.data.max_train_words
    if use == "train" and max_words is not None:
        clips, wordy = split_short(clips, max_words)
        problems += wordy
    clips, unreadable = split_readable(clips)
    if not clips:
        listed = "; ".join(f"{p.utterance}: {p.reason}" for p in (problems + unreadable)[:3])
        raise BadValueError(
            f"No row of the selection {', '.join(selection)!r} can be used for {config.name!r}: "
            f"{n_without} have no label of the emotion set, {len(problems) + len(unreadable)} have "
            f"a problem{f' ({listed})' if listed else ''}. Correct the selection, or "
            "data.audio_root."
        )
    place = {utterance: idx for idx, utterance in enumerate(rows["utterance"])}
    # Sorted, so that validation batches hold clips of similar length.
    clips.sort(key=lambda clip: (-clip.size, clip.utterance))
    order = [place[clip.utterance] for clip in clips]
    further = None if attributes is None else attributes[order]
    return Rows(clips, targets[order], truth[order], further), problems + unreadable


def _only_with_truth(rows: Rows, config: ClassifierConfig) -> Rows:
    """Return the true classes of rows; macro-F1 needs one, and votes alone are none."""
    kept = np.flatnonzero(rows.truth != ABSTAIN)
    if len(kept) == 0:
        raise BadValueError(
            f"No row of data.validation {', '.join(config.data.validation or ())!r} has a label of "
            "the emotion set. Choose another selection, or null to keep the last checkpoint."
        )
    further = None if rows.attributes is None else rows.attributes[kept]
    return Rows([rows.clips[idx] for idx in kept], rows.targets[kept], rows.truth[kept], further)


def _metrics(validation: Rows, model: EmotionClassifier, device: torch.device) -> Any:
    """Return what scores the logits of all validation rows, in their order and once each.

    The loss is that of one batch of all rows: `loss.reduction` divides by their number, or by the
    sum of their weights.
    """

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits, *further = map(np.asarray, _outputs(prediction.predictions))
        assert len(logits) == len(validation.truth)  # the Trainer evaluates in order, once each
        found = scores(validation.truth, logits.argmax(axis=1), logits.shape[1])
        shown = {"macro_f1": found.macro_f1, "accuracy": found.accuracy, "uar": found.uar}
        if model.loss is not None:
            assert isinstance(validation.targets, np.ndarray)  # votes or labels as they are
            targets = torch.from_numpy(validation.targets).to(device)
            shown["loss"] = model.loss(torch.from_numpy(logits).to(device), targets).item()
        if model.attribute_heads is not None and validation.attributes is not None:
            told = attribute_metrics(model.attribute_heads, further[0], validation.attributes)
            shown |= told | {"loss": shown["loss"] + told["loss"]}
        if isinstance(model.loss, AdaptiveFocalLoss):
            # Here, because every process has all rows, and the checkpoint comes after.
            model.loss.adapt(torch.from_numpy(logits), torch.from_numpy(validation.truth))
        return shown

    return compute


def _outputs(predictions: Any) -> tuple[Any, ...]:
    """Return logits, and what else the model predicts."""
    return predictions if isinstance(predictions, tuple) else (predictions,)


def _write_log(path: Path, history: list[dict[str, Any]]) -> None:
    """Write every logged value, one row per step."""
    by_step: dict[int, dict[str, Any]] = {}
    for entry in history:
        by_step.setdefault(entry["step"], {}).update(entry)
    columns = sorted({key for entry in by_step.values() for key in entry} - {"step", "epoch"})
    header = ["step", "epoch", *columns]
    write_csv(path, header, [[entry.get(key) for key in header] for entry in by_step.values()])


def _write_best(
    run: RunDirectory,
    model: EmotionClassifier,
    config: ClassifierConfig,
    emotions: EmotionSet,
    trainer: EmotionTrainer,
    counts: list[int],
    rows: list[str],
) -> None:
    state = trainer.state
    metrics: Mapping[str, Any] = {
        "macro_f1": state.best_metric,
        "step": state.best_global_step if state.best_metric is not None else state.global_step,
        "n_steps": state.global_step,
    }
    facts: dict[str, Any] = {
        "digest": run.digest,
        "absorbed_prior": absorbed_prior(
            config.loss, counts, trainer.prior_exponent(metrics["step"])
        ),
        "class_counts": counts,
        "weights": weights_from(run.best, config),
        "versions": {
            "abhinaya": abhinaya.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    with atomic_folder(run.best) as folder:
        facts["training_rows"] = write_training_rows(folder, rows)
        save_checkpoint(
            folder,
            model,
            config_yaml=dump_yaml(config),
            emotions=emotions,
            metrics=metrics,
            facts=facts,
        )
