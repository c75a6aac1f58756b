"""The average of the trained weights of several runs: one model, at the price of one.

Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy
without increasing inference time", 2022, arXiv:2203.05482. It works for runs that started from the
same weights, such as one seed with several learning rates: then the average lies in a valley that
they share. Runs of different seeds started from different heads, and the average of two heads that
mean different things by the same unit may be worse than either; score it before using it.

Low-rank adapters are averaged as they are stored, matrix by matrix: A with A and B with B. That is
customary for adapters that started alike, but it is not the average of the products B A that they
add to the model; for that, vote over the runs instead.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import abhinaya
from abhinaya.config import MemberConfig, dump_yaml
from abhinaya.errors import BadValueError, CheckpointError
from abhinaya.files import atomic_folder, digest_of, write_json, write_text
from abhinaya.member_config import check_member_config
from abhinaya.nn.checkpoint import WEIGHTS, CheckpointInfo, read_info
from abhinaya.training.run_directory import RunDirectory

__all__ = [
    "Part",
    "average_weights",
    "greedy_choice",
    "normalize_weights",
    "open_soup",
    "read_parts",
    "soup_config",
    "soup_digest",
    "write_soup",
]

_logger = logging.getLogger(__name__)

_ADAPTER = "adapter/adapter_model.safetensors"
_ADAPTER_CONFIG = "adapter/adapter_config.json"

# Config keys that only say how a run was trained, or where things lie and how work is spread.
# Everything else decides what the weights mean.
_MAY_DIFFER = {
    "name",
    "run_dir",
    "seed",
    "data",
    "training",
    "loss",
    "cache",
    "inference",
    "train_crop",
    "augment",
    "spec_augment",
}


@dataclass(frozen=True)
class Part:
    """One run whose weights go into the average.

    Args:
        run: the folder as the user named it.
        checkpoint: the folder that holds the weights.
        info: what the checkpoint says of itself.
        config: its config with all defaults filled in.
    """

    run: Path
    checkpoint: Path
    info: CheckpointInfo
    config: MemberConfig


def read_parts(runs: Sequence[Path]) -> list[Part]:
    """Read the runs, and check that their weights can be averaged.

    Args:
        runs: at least two run directories or checkpoint folders.

    Raises:
        BadValueError: if there are fewer than two, or one is named twice.
        MissingFileError: if one has no checkpoint.
        CheckpointError: if they are not of one architecture. The message names the first difference
            in member, classes, base weights, settings, prior that the loss absorbed, or tensors.
    """
    if len(runs) < 2:
        raise BadValueError(f"A soup needs at least two runs, got {len(runs)}. Name more of them.")
    places = [run.resolve() for run in runs]
    twice = [run for run, place in zip(runs, places, strict=True) if places.count(place) > 1]
    if twice:
        raise BadValueError(f"The run {str(twice[0])!r} is named more than once. Name each once.")
    parts = [_read_part(run) for run in runs]
    for part in parts[1:]:
        found = _first_difference(parts[0], part)
        if found is not None:
            raise CheckpointError(
                f"The runs {str(parts[0].run)!r} and {str(part.run)!r} cannot be averaged: "
                f"{found}. Name runs of one architecture, or vote over their tables."
            )
    _warn_of_beginnings(parts)
    return parts


def average_weights(files: Sequence[Path], weights: Sequence[float]) -> dict[str, Tensor]:
    """Average each tensor by weights, computed in float64 and stored in the type it had.

    Tensors of whole numbers, such as counters, are those of the first file.

    Args:
        files: safetensors files with the same keys, shapes and types.
        weights: one per file; they should sum to one.

    Returns:
        The tensors in the order of the first file's keys.
    """
    means: dict[str, Tensor] = {}
    with ExitStack() as stack:
        opened = [stack.enter_context(safe_open(file, framework="pt")) for file in files]
        for name in opened[0].keys():
            tensors = [file.get_tensor(name) for file in opened]
            if tensors[0].is_floating_point():
                total = torch.zeros_like(tensors[0], dtype=torch.float64)
                for tensor, weight in zip(tensors, weights, strict=True):
                    total += weight * tensor.double()
                means[name] = total.to(tensors[0].dtype)
            else:
                means[name] = tensors[0]
    return means


def normalize_weights(weights: Sequence[float] | None, n_parts: int) -> list[float]:
    """Return weights that sum to one; equal ones if none are given.

    Raises:
        BadValueError: if their number is another, one is negative or not finite, or all are zero.
    """
    if weights is None:
        return [1 / n_parts] * n_parts
    is_usable = all(math.isfinite(weight) and weight >= 0 for weight in weights)
    if len(weights) != n_parts or not is_usable or sum(weights) == 0:
        raise BadValueError(
            f"The weights {', '.join(f'{weight:g}' for weight in weights)} do not fit {n_parts} "
            f"runs: expected {n_parts} numbers of at least 0, one of them above it."
        )
    return [weight / sum(weights) for weight in weights]


def soup_digest(parts: Sequence[Part], recipe: Mapping[str, Any]) -> str:
    """Hash of all that decides a soup: the weights of its parts, and how they are put together.

    Args:
        parts: the runs.
        recipe: JSON-able facts, such as the weights or the selection that a choice is made on.
    """
    contents = []
    for part in parts:
        with (part.checkpoint / WEIGHTS).open("rb") as file:
            contents.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digest_of({"parts": contents, "recipe": dict(recipe)})


def open_soup(out: Path, digest: str) -> bool:
    """Return whether `out` holds this very soup already.

    Raises:
        BadValueError: if it holds anything else.
    """
    run = RunDirectory(out, digest)
    names = [p.name for p in out.iterdir() if not p.name.startswith(".")] if out.is_dir() else []
    file = out / "digest.json"
    is_same = file.is_file() and json.loads(file.read_text("utf-8")).get("digest") == digest
    if names and not is_same:
        raise BadValueError(
            f"{str(out)!r} holds something else than this soup: {', '.join(sorted(names)[:5])}. "
            "Name another folder with --out, or delete this one."
        )
    return run.is_finished


def soup_config(parts: Sequence[Part], out: Path, name: str) -> MemberConfig:
    """Return the config of the first run, under another name and in another folder.

    Raises:
        ProblemsError: if no run can have that name.
    """
    content = parts[0].config.model_dump(mode="json")
    return check_member_config({**content, "name": name, "run_dir": str(out)}, "the soup")


def write_soup(
    parts: Sequence[Part],
    weights: Sequence[float],
    config: MemberConfig,
    out: Path,
    *,
    digest: str,
    kind: str,
    macro_f1: float | None = None,
) -> None:
    """Write the average as a run directory; its `best/` predicts like any other.

    `facts.json` names the parts. One of weight 0 is listed, but its tensors are not read.

    Args:
        parts: from `read_parts`.
        weights: one per part, summing to one.
        config: from `soup_config`.
        out: the run directory.
        digest: from `soup_digest`.
        kind: `uniform`, `weighted` or `greedy`.
        macro_f1: validation score, if it is known.
    """
    first, config_yaml = parts[0], dump_yaml(config)
    run = RunDirectory(out, digest)
    run.begin(config_yaml)
    used = [(part, weight) for part, weight in zip(parts, weights, strict=True) if weight > 0]
    facts = {
        "digest": digest,
        "absorbed_prior": first.info.facts.get("absorbed_prior"),
        "class_counts": first.info.facts.get("class_counts"),
        "soup": {
            "kind": kind,
            "parts": [
                {
                    "run": str(part.run),
                    "digest": part.info.facts.get("digest"),
                    "macro_f1": part.info.metrics.get("macro_f1"),
                    "weight": weight,
                }
                for part, weight in zip(parts, weights, strict=True)
            ],
        },
        "versions": {"abhinaya": abhinaya.__version__, "torch": torch.__version__},
    }
    names = [WEIGHTS, _ADAPTER] if (first.checkpoint / _ADAPTER).is_file() else [WEIGHTS]
    with atomic_folder(run.best) as folder:
        for name in names:
            means = average_weights([p.checkpoint / name for p, _ in used], [w for _, w in used])
            (folder / name).parent.mkdir(exist_ok=True)
            save_file(means, folder / name, metadata={"format": "pt"})
        if _ADAPTER in names:
            shutil.copyfile(first.checkpoint / _ADAPTER_CONFIG, folder / _ADAPTER_CONFIG)
        write_text(folder / "config.yaml", config_yaml)
        write_text(folder / "classes.json", first.info.emotions.to_json() + "\n")
        write_json(folder / "metrics.json", {"macro_f1": macro_f1, "step": None, "n_steps": None})
        write_json(folder / "facts.json", facts)


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


def _first_difference(first: Part, other: Part) -> str | None:
    """Return what keeps two runs from being averaged, in words; None if nothing does."""
    for ours, theirs in zip(_facts(first), _facts(other), strict=True):
        # The base weights first: where they differ, the rest says little.
        for name in sorted(ours.keys() | theirs.keys(), key=lambda name: (name != "base", name)):
            one, another = ours.get(name), theirs.get(name)
            if one != another:
                return f"{name} is {one} in the one and {another} in the other"
    if first.info.facts.get("absorbed_prior") != other.info.facts.get("absorbed_prior"):
        return "their losses absorbed different class priors"
    for name in (WEIGHTS, _ADAPTER):
        files = [part.checkpoint / name for part in (first, other)]
        n_present = sum(file.is_file() for file in files)
        if n_present == 1:
            return f"only one of them has {name}"
        if n_present == 2:
            found = _tensor_difference(*map(_layout, files))
            if found is not None:
                return f"{found} in {name}"
    return None


def _facts(part: Part) -> list[dict[str, Any]]:
    """Return what two runs must have in common, by name, in the order in which to compare."""
    settings = _settings(part.config.model_dump(mode="json"))
    return [
        {"the member": repr(part.config.member)},
        {"the class order": " ".join(part.info.emotions.codes)},
        {name: repr(value) for name, value in settings.items() if value is not None},
    ]


def _settings(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return dotted keys and values of what the weights depend on."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key in _MAY_DIFFER or "dropout" in key:
            continue
        if isinstance(value, Mapping):
            found |= _settings(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found


def _layout(file: Path) -> dict[str, dict[str, Any]]:
    """Return type and shape of each tensor of a file, without reading its numbers."""
    try:
        with safe_open(file, framework="pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}
            return {
                name: {"type": view.get_dtype(), "shape": tuple(view.get_shape())}
                for name, view in slices.items()
            }
    except SafetensorError as err:
        raise CheckpointError(
            f"{str(file)!r} cannot be read: {err}. It is damaged; train again or copy it again."
        ) from err


def _tensor_difference(
    ours: Mapping[str, dict[str, Any]], theirs: Mapping[str, dict[str, Any]]
) -> str | None:
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours or name not in theirs:
            return f"only one of them has the tensor {name!r}"
        for what, one in ours[name].items():
            if one != (another := theirs[name][what]):
                return f"the {what} of {name!r} is {one} in the one and {another} in the other"
    return None


def _warn_of_beginnings(parts: Sequence[Part]) -> None:
    seeds = sorted({part.config.seed for part in parts})
    if len(seeds) > 1:
        _logger.warning(
            "The runs have the seeds %s, so their heads started from different random weights. "
            "Score the average before you use it.",
            ", ".join(map(str, seeds)),
        )
    if any("lora_" in name for name in _layout(parts[0].checkpoint / WEIGHTS)):
        _logger.warning(
            "The two matrices of each low-rank adapter are averaged one by one, which is not the "
            "average of their products. Score the average before you use it."
        )
