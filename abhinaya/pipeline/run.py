"""Running a chain: what is done already stays, what a kill interrupted goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from abhinaya.errors import BadValueError, UnknownNameError
from abhinaya.files import digest_of, write_json
from abhinaya.pipeline.config import Pipeline
from abhinaya.pipeline.steps import Report, Step, build_steps

__all__ = ["PlannedStep", "plan", "run_pipeline"]

Status = Literal["done", "to do"]


@dataclass(frozen=True)
class PlannedStep:
    """A step and whether it has to run."""

    step: Step
    status: Status


def plan(
    pipeline: Pipeline, *, only: Sequence[str] = (), start: str | None = None
) -> list[PlannedStep]:
    """Every step with its status, as a run would find it now.

    A step is done if it ran before with the same settings and the same content of the files it
    needs, and what it made is there. A step that needs what another one has yet to make is to do.

    Args:
        pipeline: the chain.
        only: names or kinds of steps; the others are not looked at.
        start: name or kind of a step; it and all after it are to do again.

    Raises:
        UnknownNameError: if there is no such step.
    """
    steps = build_steps(pipeline)
    known = [*(step.name for step in steps), *(_kind(step) for step in steps)]
    for name in [*only, *([start] if start else [])]:
        if name not in known:
            raise UnknownNameError("step", name, set(known))
    again: set[str] = set()
    if start is not None:
        first = next(idx for idx, step in enumerate(steps) if start in (step.name, _kind(step)))
        again = {step.name for step in steps[first:]}
    planned, unmade = [], set[Path]()
    for step in steps:
        if only and step.name not in only and _kind(step) not in only:
            continue
        done = (
            step.name not in again
            and not unmade.intersection(step.needs)
            and _stamped(pipeline, step)
        )
        if not done:
            unmade.update(step.makes)
        planned.append(PlannedStep(step, "done" if done else "to do"))
    return planned


def run_pipeline(
    pipeline: Pipeline,
    report: Callable[[Report], None],
    *,
    only: Sequence[str] = (),
    start: str | None = None,
) -> None:
    """Do every step that is to do.

    Args:
        pipeline: the chain.
        report: called with a short table after each step.
        only: names or kinds of steps to do; nothing else runs.
        start: name or kind of the step to begin with, even if it is done.

    Raises:
        BadValueError: if a step of `only` needs a file that an earlier step has yet to make.
    """
    planned = plan(pipeline, only=only, start=start)
    again = set[str]()
    if start is not None:
        again = {entry.step.name for entry in planned if entry.status == "to do"}
    for entry in planned:
        step = entry.step
        # Asked again: an earlier step may have made the very file that was there before.
        if step.name not in again and _stamped(pipeline, step):
            continue
        missing = [path for path in step.needs if not path.is_file()]
        if missing:
            raise BadValueError(
                f"The step {step.name!r} needs {str(missing[0])!r}, which is not there. "
                "Run the steps before it first: abhinaya run without --only or --from."
            )
        _stamp_path(pipeline, step).unlink(missing_ok=True)
        if step.name in again:
            _forget(step)
        report(step.work())
        write_json(_stamp_path(pipeline, step), {"digest": _digest(step)})


def _forget(step: Step) -> None:
    """Remove what a step made, where the step itself would take it for finished work."""
    if _kind(step) == "predict":
        for path in step.makes:
            path.unlink(missing_ok=True)


def _kind(step: Step) -> str:
    return step.name.partition(":")[0]


def _stamp_path(pipeline: Pipeline, step: Step) -> Path:
    return pipeline.config.out / ".steps" / f"{step.name.replace(':', '.')}.json"


def _stamped(pipeline: Pipeline, step: Step) -> bool:
    stamp = _stamp_path(pipeline, step)
    if not stamp.is_file() or not all(path.is_file() for path in (*step.makes, *step.needs)):
        return False
    stored: str = json.loads(stamp.read_text(encoding="utf-8"))["digest"]
    return stored == _digest(step)


def _digest(step: Step) -> str:
    return digest_of([step.settings, [_content(path) for path in step.needs]])


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
