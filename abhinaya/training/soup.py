"""The average of the trained weights of several runs: one model, at the price of one.

Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy
without increasing inference time", 2022, arXiv:2203.05482. It works for runs that started from the
same weights, such as one seed with several learning rates: then the average lies in a valley that
they share. Runs of different seeds started from different heads, and the average of two heads that
mean different things by the same unit may be worse than either; score it before using it.

Low-rank adapters are averaged as they are stored, matrix by matrix: A with A and B with B. That is
customary for adapters that started alike, but it is not the average of the products B A that they
add to the model; for that, vote over the runs instead.

The checkpoints of one run always started alike. Izmailov et al., "Averaging weights leads to wider
optima and better generalization", 2018, arXiv:1803.05407, average those of late epochs.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor

import abhinaya
from abhinaya.config import MemberConfig, dump_yaml
from abhinaya.errors import BadValueError, CheckpointError
from abhinaya.files import (
    atomic_folder,
    digest_of,
    hash_file,
    read_json_object,
    write_json,
    write_text,
)
from abhinaya.member_config import check_member_config
from abhinaya.nn.build import build_classifier
from abhinaya.nn.checkpoint import (
    WEIGHTS,
    CheckpointInfo,
    check_keys,
    read_info,
    read_training_rows,
    write_training_rows,
)
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.nn.losses.config import absorbed_prior
from abhinaya.nn.weight_files import open_safetensors
from abhinaya.registry import load_member
from abhinaya.training.run_directory import RunDirectory
from abhinaya.weight_places import locate_weights, weights_from

__all__ = [
    "Part",
    "average_weights",
    "greedy_choice",
    "read_checkpoints",
    "read_parts",
    "soup_digest",
    "write_soup",
]

_ADAPTER = "adapter/adapter_model.safetensors"
_ADAPTER_CONFIG = "adapter/adapter_config.json"

# Config keys that only say how a run was trained, or where things lie and how work is spread.
# Everything else decides what the weights mean.
_MAY_DIFFER = frozenset(
    (
        "name run_dir seed data training loss targets balance cache inference train_crop augment "
        "mixing spec_augment mask_time"
    ).split()
)


@dataclass(frozen=True)
class Part:
    """One run whose weights go into the average.

    Args:
        run: the folder as the user named it.
        checkpoint: the folder that holds the weights.
        info: what the checkpoint says of itself.
        config: its config with all defaults filled in.
        state: folder of the weights, where they are those of a checkpoint that training left.
    """

    run: Path
    checkpoint: Path
    info: CheckpointInfo
    config: MemberConfig
    state: Path | None = None

    @property
    def weights(self) -> Path:
        """The file with the trained tensors."""
        return (self.state or self.checkpoint) / WEIGHTS


def read_parts(runs: Sequence[Path]) -> list[Part]:
    """Read the runs, and check that their weights can be averaged.

    Args:
        runs: at least two run directories or checkpoint folders.

    Raises:
        BadValueError: if there are fewer than two, or one is named twice.
        MissingFileError: if one has no checkpoint.
        CheckpointError: if they are not of one architecture. The message names the first difference
            in base weights, member, classes, prior that the loss absorbed, settings, or tensors.
    """
    if len(runs) < 2:
        raise BadValueError(f"A soup needs at least two runs, got {len(runs)}. Name more of them.")
    places = [run.resolve() for run in runs]
    twice = [run for run, place in zip(runs, places, strict=True) if places.count(place) > 1]
    if twice:
        raise BadValueError(f"The run {str(twice[0])!r} is named more than once. Name each once.")
    parts = [_read_part(run) for run in runs]
    first, *others = map(_architecture, parts)
    for run, other in zip(runs[1:], others, strict=True):
        for name in [*first, *(other.keys() - first.keys())]:
            one, another = first.get(name, "absent"), other.get(name, "absent")
            if one != another:
                raise CheckpointError(
                    f"The runs {str(runs[0])!r} and {str(run)!r} cannot be averaged: {name} is "
                    f"{one} in the one and {another} in the other. Name runs of one architecture, "
                    "or vote over their tables."
                )
    return parts


def read_checkpoints(run: Path, number: int | None = None) -> list[Part]:
    """Read the checkpoints that a training has left beside its `best/`.

    Args:
        run: run directory of a finished training.
        number: how many of them, from the last one backwards; None for all.

    Raises:
        BadValueError: if there are not so many, or fewer than two, or some are of the first stage
            of a training and some of the second.
        MissingFileError: if the run has no `best/`.
    """
    best = _read_part(run)
    folders = RunDirectory(run, "").complete_checkpoints()
    wanted = max(number or 2, 2)
    if len(folders) < wanted:
        raise BadValueError(
            f"{str(run)!r} holds {len(folders)} checkpoints, and {wanted} or more are to be "
            "averaged. training.save_total_limit says how many a training leaves, 2 by default."
        )
    parts = []
    for folder in folders[-(number or len(folders)) :]:
        facts = dict(best.info.facts)
        if isinstance(best.config, ClassifierConfig) and best.config.balance is not None:
            epoch = math.ceil(read_json_object(folder / "trainer_state.json")["epoch"]) - 1
            exponent = best.config.balance.prior_exponent(epoch)
            prior = absorbed_prior(best.config.loss, facts["class_counts"], exponent)
            facts["absorbed_prior"] = prior
        info = replace(best.info, facts=facts)
        parts.append(Part(folder, best.checkpoint, info, best.config, folder))
    for part in parts:
        if part.info.facts["absorbed_prior"] != parts[-1].info.facts["absorbed_prior"]:
            raise BadValueError(
                f"{str(part.run)!r} and {str(parts[-1].run)!r} are of different stages of the "
                "training, and have learned different class priors. Average fewer, from the last "
                "one on: --checkpoints N."
            )
    return parts


def average_weights(files: Sequence[Path]) -> dict[str, Tensor]:
    """Average each tensor, in float64, and store it in the type it had.

    Tensors of whole numbers, such as counters, are those of the first file.

    Args:
        files: safetensors files with the same keys, shapes and types.

    Returns:
        The tensors in the order of the first file's keys.
    """
    means: dict[str, Tensor] = {}
    with ExitStack() as stack:
        opened = [stack.enter_context(open_safetensors(file)) for file in files]
        for name in opened[0].keys():
            means[name] = first = opened[0].get_tensor(name)
            if first.is_floating_point():
                total = torch.zeros_like(first, dtype=torch.float64)
                for file in opened:
                    total += file.get_tensor(name)
                means[name] = (total / len(files)).to(first.dtype)
    return means


def soup_digest(parts: Sequence[Part], recipe: Mapping[str, Any]) -> str:
    """Hash all that decides a soup: the weights of its parts, and how they are put together.

    Args:
        parts: the runs.
        recipe: JSON-able facts, such as the selection that a choice is made on.
    """
    contents = [hash_file(part.weights) for part in parts]
    return digest_of({"parts": contents, "recipe": dict(recipe)})


def write_soup(
    parts: Sequence[Part],
    chosen: Sequence[int],
    out: Path,
    *,
    digest: str,
    macro_f1: float | None = None,
) -> None:
    """Write the average as a run directory named after its folder; its `best/` predicts like any.

    The config is that of the first run; `facts.json` names the parts.

    Args:
        parts: from `read_parts`.
        chosen: indices of those to average.
        out: the run directory.
        digest: from `soup_digest`.
        macro_f1: validation score, if it is known.

    Raises:
        ProblemsError: if no run can have the folder's name.
    """
    first, used = parts[0], [parts[idx] for idx in chosen]
    content = first.config.model_dump(mode="json")
    content = locate_weights(content, first.checkpoint, first.info.facts.get("weights", {}))
    content |= {"name": out.name, "run_dir": str(out)}
    config = check_member_config(content, "the soup")
    run = RunDirectory(out, digest)
    run.begin(dump_yaml(config))
    facts: dict[str, Any] = {
        "digest": digest,
        "absorbed_prior": first.info.facts.get("absorbed_prior"),
        "class_counts": first.info.facts.get("class_counts"),
        "weights": weights_from(run.best, config),
        "soup": [{"run": str(p.run), "digest": p.info.facts.get("digest")} for p in used],
        "versions": {"abhinaya": abhinaya.__version__, "torch": torch.__version__},
    }
    trained_on = [read_training_rows(part.checkpoint, part.info.facts) for part in used]
    known = [rows for rows in trained_on if rows is not None]
    with atomic_folder(run.best) as folder:
        if known:
            facts["training_rows"] = write_training_rows(folder, chain.from_iterable(known))
        if first.state is not None:
            _write_average_state(used, folder, config)
        for name in _weight_files(first):
            (folder / name).parent.mkdir(exist_ok=True)
            means = average_weights([part.checkpoint / name for part in used])
            save_file(means, folder / name, metadata={"format": "pt"})
        if first.state is None and (first.checkpoint / _ADAPTER_CONFIG).is_file():
            shutil.copyfile(first.checkpoint / _ADAPTER_CONFIG, folder / _ADAPTER_CONFIG)
        write_text(folder / "config.yaml", dump_yaml(config))
        write_text(folder / "classes.json", first.info.emotions.to_json() + "\n")
        write_json(folder / "metrics.json", {"macro_f1": macro_f1, "step": None, "n_steps": None})
        write_json(folder / "facts.json", facts)


def _write_average_state(parts: Sequence[Part], folder: Path, config: MemberConfig) -> None:
    """Write weights and adapter of averaged checkpoints; the model says what belongs to them."""
    kind: Any = load_member(config.member)
    model = build_classifier(kind, cast("Any", config), len(parts[0].info.emotions))
    if model.calibrates:
        raise BadValueError(
            f"The member {config.member!r} sets a temperature after the training, which its "
            "checkpoints lack, so they cannot be averaged. Average runs, or vote over their tables."
        )
    means = average_weights([part.weights for part in parts])
    means = {name: value for name, value in means.items() if not name.startswith("loss.")}
    check_keys(means, model, str(parts[0].weights))
    save_file(means, folder / WEIGHTS, metadata={"format": "pt"})
    model.load_state_dict(means, strict=False)
    model.backbone.save_adapter(folder / "adapter")


def greedy_choice(
    scores: Sequence[float], score_of: Callable[[Sequence[int]], float]
) -> tuple[list[int], float]:
    """Choose runs to average: from the best one on, each that does not make it worse.

    Source: Wortsman et al. 2022, recipe 1. Equal runs are tried in the order given.

    Args:
        scores: validation score of each run alone.
        score_of: validation score of the average of some runs, given by their indices.

    Returns:
        Indices of the chosen runs, the best one first, and the score of their average.
    """
    order = sorted(range(len(scores)), key=lambda idx: -scores[idx])
    chosen, best = order[:1], scores[order[0]]
    for idx in order[1:]:
        score = score_of([*chosen, idx])
        if score >= best:
            chosen, best = [*chosen, idx], score
    return chosen, best


def _read_part(run: Path) -> Part:
    folder = run / "best" if (run / "best").is_dir() else run
    info = read_info(folder)
    return Part(run, folder, info, check_member_config(info.config, str(folder / "config.yaml")))


def _weight_files(part: Part) -> list[str]:
    if part.state is not None:
        return []
    return [name for name in (WEIGHTS, _ADAPTER) if (part.checkpoint / name).is_file()]


def _architecture(part: Part) -> dict[str, object]:
    """Return what two runs must have in common, by name, in the order in which to compare."""
    settings = _settings(part.config.model_dump(mode="json"))
    common: dict[str, object] = {"base": settings.get("base"), "member": part.config.member}
    common["the class order"] = " ".join(part.info.emotions.codes)
    common["the prior that the loss absorbed"] = part.info.facts.get("absorbed_prior")
    common |= settings
    for file in _weight_files(part):
        with open_safetensors(part.checkpoint / file) as tensors:
            for name in tensors.keys():
                view = tensors.get_slice(name)
                common[f"{name!r} of {file}"] = f"{view.get_dtype()} {view.get_shape()}"
    return common


def _settings(values: Mapping[str, Any], before: str = "") -> dict[str, object]:
    """Return dotted keys and values of what the weights depend on."""
    found: dict[str, object] = {}
    for key, value in values.items():
        if key in _MAY_DIFFER or "dropout" in key or value is None:
            continue
        if isinstance(value, Mapping):
            found |= _settings(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found
