"""What stands in the way of a chain, looked for before its first step: training takes days."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

from abhinaya.config import MemberConfig
from abhinaya.doctor.findings import Findings
from abhinaya.errors import BadValueError, MissingFileError, ProblemsError
from abhinaya.pipeline.config import Pipeline, PrepareEntry
from abhinaya.pipeline.stages.transcribe import TranscribeSettings
from abhinaya.pipeline.steps import Step

__all__ = ["check_ready", "find_obstacles"]

# Whether there are transcripts is known to the chain, part of which may make them; what a model
# needs of a device is computed for one device alone, and roughly.
_NOT_OURS = ("data.transcripts.", "memory")


def check_ready(pipeline: Pipeline, steps: Sequence[Step]) -> None:
    """Refuse to begin a chain of which a step cannot work.

    Raises:
        ProblemsError: with everything that `find_obstacles` finds.
    """
    obstacles = find_obstacles(pipeline, steps)
    if obstacles:
        raise ProblemsError(f"the chain {pipeline.config.name!r}", obstacles)


def find_obstacles(pipeline: Pipeline, steps: Sequence[Step]) -> list[str]:
    """Return a sentence, without a full stop, for each thing that a step needs and will not find.

    Servers are asked which models they have, weights are looked at as `abhinaya doctor` does, and
    packages, keys and the folders of outputs are looked for. Nothing large is loaded.

    Args:
        pipeline: the chain.
        steps: what is to do.
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
        elif step.kind == "prepare" and (entry := config.prepare) is not None:
            findings.attempt("corpus", entry.source, functools.partial(_check_corpus, entry))
        elif step.kind == "transcribe" and (entry := config.transcribe) is not None:
            findings.attempt("model", entry.model, functools.partial(_check_whisper, entry))
        elif step.kind == "speakers" and (entry := config.speakers) is not None:
            findings.extend(_check_speaker_model(entry.model))
        obstacles += [
            f"{step.name}: {found.what} {found.where}".strip() + f": {found.details.rstrip('.')}"
            for found in findings
            if found.result == "problem" and not found.what.startswith(_NOT_OURS)
        ]
    return obstacles


def _check_member(config: MemberConfig, *, trains: bool) -> Findings:
    from abhinaya.doctor.weights import check_member

    findings = Findings()
    findings.extend(findings.attempt("member", config.member, lambda: check_member(config)) or [])
    if trains and (training := getattr(config, "training", None)) is not None:
        from abhinaya.training.arguments import require_loggers

        report_to = training.arguments.get("report_to")
        findings.attempt("training.report_to", "", lambda: require_loggers(report_to))
    return findings


def _check_corpus(entry: PrepareEntry) -> None:
    from abhinaya.corpora import load_corpus

    load_corpus(entry.corpus)
    if not entry.source.exists():
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


def _check_writable(path: Path) -> None:
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise BadValueError(f"{str(folder)!r} is a file, but should be a folder. Change out.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadValueError(
            f"{str(folder)!r} is a folder in which nothing may be written. Change out, or who may "
            "write there."
        )
