"""What stands in the way of a chain, looked for before its first step: training takes days."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from abhinaya.config import MemberConfig
from abhinaya.doctor.findings import Findings, format_bytes
from abhinaya.errors import BadValueError, MissingFileError, ProblemsError
from abhinaya.pipeline.config import Pipeline, PrepareEntry
from abhinaya.pipeline.stages.transcribe import TranscribeSettings
from abhinaya.pipeline.steps import Step

__all__ = ["check_ready", "find_obstacles", "size_on_disk", "sizes_of_runs"]

# Whether there are transcripts is known to the chain, part of which may make them.
_NOT_OURS = ("data.transcripts.",)

_N_CHECKPOINTS = 2
"""Kept of a run where training.save_total_limit says nothing."""


def check_ready(pipeline: Pipeline, steps: Sequence[Step]) -> None:
    """Refuse to begin a chain of which a step cannot work.

    Raises:
        ProblemsError: with everything that `find_obstacles` finds.
    """
    obstacles = find_obstacles(pipeline, steps)
    if obstacles:
        raise ProblemsError(f"the chain {pipeline.config.name!r}", obstacles)


def find_obstacles(
    pipeline: Pipeline, steps: Sequence[Step], *, sizes: Mapping[str, int] | None = None
) -> list[str]:
    """Return a sentence, without a full stop, for each thing that a step needs and will not find.

    Servers are asked which models they have, weights are looked at as `abhinaya doctor` does, and
    packages, keys and the folders of outputs are looked for. Nothing large is loaded.

    Args:
        pipeline: the chain.
        steps: what is to do.
        sizes: from `sizes_of_runs`, where they are known already.
    """
    config = pipeline.config
    members = {member.name: member for member in pipeline.members}
    obstacles: list[str] = []
    seen: set[str] = set()
    for step in steps:
        findings = Findings()
        for path in step.makes:
            findings.attempt("output", path, functools.partial(_check_writable, path))
        name = step.name.rpartition(":")[2]
        if step.kind in ("train", "predict") and name in members and name not in seen:
            seen.add(name)
            findings.extend(_check_member(members[name], trains=step.kind == "train"))
        elif step.kind == "prepare" and config.prepare is not None:
            check = functools.partial(_check_corpus, config.prepare)
            findings.attempt("corpus", config.prepare.source, check)
        elif step.kind == "transcribe" and config.transcribe is not None:
            check = functools.partial(_check_whisper, config.transcribe)
            findings.attempt("model", config.transcribe.model, check)
        elif step.kind == "speakers" and config.speakers is not None:
            findings.extend(_check_speaker_model(config.speakers.model))
        obstacles += [
            f"{step.name}: {found.what} {found.where}".strip() + f": {found.details.rstrip('.')}"
            for found in findings
            if found.result == "problem" and not found.what.startswith(_NOT_OURS)
        ]
    sizes = sizes_of_runs(pipeline, steps) if sizes is None else sizes
    return obstacles + _check_disk(steps, sizes)


def size_on_disk(step: Step) -> int | None:
    """Return the bytes of what a step has made, of a training its whole run; None before that."""
    files = [path for path in step.makes if path.is_file()]
    if step.kind == "train":
        run_dir = step.makes[0].parent.parent
        files = [path for path in run_dir.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files) if files else None


def sizes_of_runs(pipeline: Pipeline, steps: Sequence[Step]) -> dict[str, int]:
    """Return the bytes that each training will write at most, as far as they can be known.

    A run holds checkpoints with the moments of the optimizer, one of them being written, and the
    best weights; tables are small beside them.
    """
    from abhinaya.doctor.memory import find_sizes
    from abhinaya.nn.classifier_config import ClassifierConfig

    members = {member.name: member for member in pipeline.members}
    found: dict[str, int] = {}
    for step in steps:
        member = members.get(step.name.partition(":")[2])
        if step.kind != "train" or not isinstance(member, ClassifierConfig):
            continue
        try:
            sizes = find_sizes(member)
        except Exception:  # what is wrong with its weights is told already
            continue
        n_kept = int(member.training.arguments.get("save_total_limit") or _N_CHECKPOINTS)
        found[step.name] = (n_kept + 1) * sizes.checkpoint + 4 * sizes.n_trained
    return found


def _check_member(config: MemberConfig, *, trains: bool) -> Findings:
    from abhinaya.doctor.weights import check_member

    findings = Findings()
    found = findings.attempt("member", config.member, lambda: check_member(config, memory=False))
    findings.extend(found or [])
    if trains and (training := getattr(config, "training", None)) is not None:
        from abhinaya.training.arguments import require_loggers

        report_to = training.arguments.get("report_to")
        findings.attempt("training.report_to", "", lambda: require_loggers(report_to))
    augment = getattr(getattr(config, "audio", None), "augment", None) if trains else None
    if augment is not None:
        from abhinaya.data.augmentation import require_augmentation

        findings.attempt("audio.augment", "", lambda: require_augmentation(augment, listens=False))
    return findings


def _check_disk(steps: Sequence[Step], sizes: Mapping[str, int]) -> list[str]:
    """Return what is wrong if the runs to train will not fit onto their disks together."""
    run_dirs = {step.name: step.makes[0].parent.parent for step in steps if step.kind == "train"}
    needed: dict[Path, dict[str, int]] = {}
    for name, n_bytes in sizes.items():
        member = name.partition(":")[2]
        needed.setdefault(_folder_above(run_dirs[name]), {})[member] = n_bytes
    by_disk: dict[int, list[Path]] = {}
    for folder in needed:
        by_disk.setdefault(folder.stat().st_dev, []).append(folder)
    obstacles = []
    for folders in by_disk.values():
        runs = {name: n for folder in folders for name, n in needed[folder].items()}
        free, total = shutil.disk_usage(folders[0]).free, sum(runs.values())
        if total > free:
            listed = ", ".join(f"{name} {format_bytes(n_bytes)}" for name, n_bytes in runs.items())
            obstacles.append(
                f"disk {str(folders[0])!r}: {format_bytes(free)} are free, but checkpoints and "
                f"best weights take about {format_bytes(total)} ({listed}). Make room, change out, "
                "or set training.save_total_limit to 1"
            )
    return obstacles


def _check_corpus(entry: PrepareEntry) -> None:
    from abhinaya.corpora import load_corpus

    load_corpus(entry.corpus)
    if entry.corpus != "hub" and not entry.source.exists():
        raise MissingFileError(
            f"There is no {str(entry.source)!r} to prepare {entry.corpus} from. Give the corpus as "
            "published."
        )


def _check_whisper(settings: TranscribeSettings) -> None:
    from abhinaya.asr.model import find_whisper, import_whisper

    if settings.download:
        import_whisper()
    else:
        find_whisper(settings.model)


def _check_speaker_model(model: str | None) -> Findings:
    from abhinaya.doctor.weights import check_base

    return check_base(model) if model is not None else Findings()


def _folder_above(path: Path) -> Path:
    """Return the nearest of the folders that a path lies in, or will lie in."""
    return next(parent for parent in path.absolute().parents if parent.exists())


def _check_writable(path: Path) -> None:
    folder = _folder_above(path)
    if not folder.is_dir():
        raise BadValueError(f"{str(folder)!r} is a file, but should be a folder. Change out.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadValueError(
            f"{str(folder)!r} is a folder in which nothing may be written. Change out, or who may "
            "write there."
        )
