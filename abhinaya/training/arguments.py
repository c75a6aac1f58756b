"""From a config's `training` section to transformers' TrainingArguments."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from abhinaya.errors import BadValueError, MissingPackageError
from abhinaya.loading.dataset import usable_workers
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.processes import asks_for
from abhinaya.training.sharded import check_sharding
from abhinaya.training.zero import check_deepspeed, settle_deepspeed

__all__ = ["training_arguments", "warn_of_split_batches"]

_logger = logging.getLogger(__name__)

_DEFAULTS: dict[str, Any] = {
    "disable_tqdm": True,
    "logging_strategy": "epoch",
    "report_to": "none",
    # The best checkpoint and the last one. With 1 the Trainer deletes the last one at the very end,
    # and a kill in that moment would leave half of it as the newest.
    "save_total_limit": 2,
}
# Workers that ended with each epoch would start again for the next one and for each validation,
# while the device waits.
_WITH_WORKERS = {"dataloader_persistent_workers": True, "dataloader_prefetch_factor": 4}
_LOGGERS = ("tensorboard", "wandb")


def training_arguments(config: ClassifierConfig, folder: Path) -> TrainingArguments:
    """Return the arguments of one run in one process of a launch.

    Accumulation steps follow from `global_batch_size`, the batch per device and the number of
    processes, so that eight devices train what one does. Without a validation selection nothing is
    evaluated and the last checkpoint counts.

    Raises:
        BadValueError: if the global batch cannot be split evenly, there are more processes than
            devices, single rows are to be mixed, or the launch asks for what members cannot do.
        MissingPackageError: if the wanted logger, or DeepSpeed, is not installed.
    """
    given = config.training.arguments
    require_loggers(given.get("report_to"))
    _settle_environment(given)
    under_deepspeed = settle_deepspeed(given)
    # Known before torch.distributed starts, from the variables that every launcher sets.
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    per_device, n_steps = _split_batch(
        config.training.global_batch_size, given.get("per_device_train_batch_size"), n_processes
    )
    if per_device < 2 and config.mixing and config.mixing.manifold:
        raise BadValueError(
            f"mixing.manifold mixes rows of one batch, but each device of {config.name!r} has one "
            "row at once. Set training.per_device_train_batch_size to 2 or more, or remove "
            "mixing.manifold."
        )
    validates = config.data.validation is not None
    n_workers = usable_workers(given.get("dataloader_num_workers", 0))
    strategy = given.get("save_strategy", "epoch")
    if given.get("dataloader_persistent_workers") and not n_workers:
        raise BadValueError(
            "training.dataloader_persistent_workers is true, but training.dataloader_num_workers "
            "is 0, so nothing could live on. Set the number of workers, or remove the former."
        )
    arguments = {
        **_DEFAULTS,
        # So that a loss is there to be told whenever the model is evaluated.
        **({"logging_strategy": "steps"} if strategy == "steps" else {}),
        **({"logging_steps": given["save_steps"]} if "save_steps" in given else {}),
        "save_strategy": strategy,
        "eval_strategy": strategy,
        "eval_steps": given.get("save_steps"),
        "per_device_eval_batch_size": config.inference.batch_size,
        "use_cpu": not torch.accelerator.is_available(),
        **(
            {"dataloader_persistent_workers": True, "dataloader_prefetch_factor": 4}
            if n_workers
            else {}
        ),
        **given,
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": n_steps,
        "dataloader_num_workers": n_workers,
        "output_dir": str(folder),
        "seed": config.seed,
        "data_seed": config.seed,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        **({} if validates else {"eval_strategy": "no"}),
        "load_best_model_at_end": validates,
        "metric_for_best_model": "macro_f1" if validates else None,
        "greater_is_better": True if validates else None,
        **under_deepspeed,
    }
    try:
        built = TrainingArguments(**arguments)
    except ValueError as err:
        raise BadValueError(
            f"The training section of {config.name!r} does not work: {err}"
        ) from err
    if built.n_gpu > 1:
        # Several devices in one process would mean DataParallel, which multiplies the batch
        # unasked.
        built._n_gpu = 1
    if under_deepspeed:
        check_deepspeed(built)
    return built


def _settle_environment(given: dict[str, Any]) -> None:
    """Refuse what `accelerate launch` may ask for and members cannot do; let the config hold.

    Both come through variables, from the command line or from the user's own accelerate config.
    """
    if asks_for("ACCELERATE_USE_MEGATRON_LM"):
        raise BadValueError(
            "ACCELERATE_USE_MEGATRON_LM asks for Megatron-LM, with which members are not trained. "
            "Launch without it: accelerate launch --config_file "
            "configs/accelerate/one-machine.yaml, or correct the file that accelerate config wrote."
        )
    n_here, n_devices = (
        int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        torch.accelerator.device_count(),
    )
    if n_here > n_devices > 0 and not given.get("use_cpu"):
        raise BadValueError(
            f"The launch has started {n_here} processes on this machine, which has {n_devices} "
            f"{'device' if n_devices == 1 else 'devices'}. Launch with num_processes: {n_devices} "
            "for each machine (--num_processes, or in the launch file)."
        )
    check_sharding(given)
    wanted = next((kind for kind in ("fp16", "bf16") if given.get(kind)), "no")
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked != wanted:
        if asked != "no" and os.environ.get("RANK", "0") == "0":
            _logger.warning(
                "ACCELERATE_MIXED_PRECISION is %s, but the config decides: training.%s. "
                "Set training.%s: true to change it",
                *(asked, f"{wanted} is true" if wanted != "no" else "bf16 and fp16 are not set"),
                asked,
            )
        os.environ["ACCELERATE_MIXED_PRECISION"] = wanted


def _split_batch(global_batch: int, per_device: int | None, n_processes: int) -> tuple[int, int]:
    """Split the global batch: rows per device, and accumulation steps, for so many processes."""
    if global_batch % n_processes:
        raise BadValueError(
            f"training.global_batch_size is {global_batch}, which {n_processes} processes cannot "
            f"share evenly. Choose a multiple of {n_processes}."
        )
    share = global_batch // n_processes
    if per_device is None:
        return share, 1
    # With more processes the share may be smaller than what one device could hold.
    per_device = min(per_device, share)
    if share % per_device:
        divisors = [n for n in range(1, share + 1) if share % n == 0]
        raise BadValueError(
            f"training.per_device_train_batch_size is {per_device}, which does not divide the "
            f"share of {share} rows that each of {n_processes} processes has of a global batch of "
            f"{global_batch}. Choose one of {', '.join(map(str, divisors))}."
        )
    return per_device, share // per_device


def require_loggers(report_to: Any) -> None:
    """Check that the packages of the loggers are there that a config names.

    Raises:
        MissingPackageError: if one is missing.
    """
    wanted = [report_to] if isinstance(report_to, str) else list(report_to or [])
    for name in wanted:
        if name in _LOGGERS:
            try:
                __import__(name)
            except ImportError as err:
                raise MissingPackageError(name, f"training.report_to: {name}", name) from err


def warn_of_split_batches(config: ClassifierConfig, per_device: int) -> None:
    """Say it where the result depends on how a batch is split over devices and steps."""
    weighs = config.loss.class_weights not in (None, "none")
    if (
        weighs
        and config.loss.reduction == "weight-normalised"
        and per_device < config.training.global_batch_size
    ):
        _logger.warning(
            "%s: the loss is divided by the class weights of each %d rows that one device sees at "
            "once, so the result depends on their number. Set loss.reduction to mean to avoid it.",
            config.name,
            per_device,
        )
    if config.mixing and config.mixing.manifold and per_device < config.training.global_batch_size:
        _logger.warning(
            "%s: mixing.manifold mixes the %d rows that one device sees at once, so the result "
            "depends on their number.",
            config.name,
            per_device,
        )
    attributes = config.attributes
    if (
        attributes is not None
        and attributes.regressed
        and attributes.loss == "ccc"
        and per_device < config.training.global_batch_size
    ):
        _logger.warning(
            "%s: the concordance of %s is that of each %d rows that one device sees at once, so "
            "the result depends on their number. Set attributes.loss to mse to avoid it.",
            config.name,
            ", ".join(attributes.regressed),
            per_device,
        )
