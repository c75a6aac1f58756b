"""Running a chain: what is done already stays, what a kill interrupted goes on."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from abhinaya.errors import BadValueError, MissingFileError, UnknownNameError, list_some
from abhinaya.files import digest_of, write_json
from abhinaya.pipeline.config import Pipeline
from abhinaya.pipeline.steps import Report, Step, build_steps

__all__ = ["PlannedStep", "plan", "run_pipeline"]

_logger = logging.getLogger(__name__)

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
    again = _steps_from(steps, start)
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
        MissingFileError: before anything is done, if a step needs a file that no step makes.
        BadValueError: if a step of `only` needs a file that an earlier step has yet to make.
    """
    planned = plan(pipeline, only=only, start=start)
    steps = build_steps(pipeline)
    _check_inputs(pipeline, steps, [entry.step for entry in planned])
    again = _steps_from(steps, start)
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


def _steps_from(steps: Sequence[Step], start: str | None) -> set[str]:
    """Names of the steps from the first one that `start` names or is the kind of."""
    if start is None:
        return set()
    first = next(idx for idx, step in enumerate(steps) if start in (step.name, _kind(step)))
    return {step.name for step in steps[first:]}


def _check_inputs(pipeline: Pipeline, steps: Sequence[Step], chosen: Sequence[Step]) -> None:
    """Refuse to begin a chain that would stop for want of a file after days of training."""
    made = {path.resolve() for step in steps for path in step.makes}
    needed = dict.fromkeys(path for step in chosen for path in step.needs)
    absent = [path for path in needed if path.resolve() not in made and not path.is_file()]
    if pipeline.config.prepare is not None:
        corpus = pipeline.config.prepare.out.resolve()
        absent = [path for path in absent if not path.resolve().is_relative_to(corpus)]
    if absent:
        raise MissingFileError(
            f"The chain {pipeline.config.name!r} needs {list_some(map(str, absent))}, which "
            f"{'is' if len(absent) == 1 else 'are'} not there and which no step makes. "
            "Correct manifest, score.truth or submit.names."
        )


def _forget(step: Step) -> None:
    """Put away what a step made, where the step itself would take it for finished work."""
    if _kind(step) == "predict":
        for path in step.makes:
            path.unlink(missing_ok=True)
    elif _kind(step) == "train":
        run_dir = step.makes[0].parent.parent
        # Training itself refuses a folder that holds something else.
        if (run_dir / "digest.json").is_file():
            names = (f"{run_dir.name}.old-{number}" for number in itertools.count(1))
            old = next(p for name in names if not (p := run_dir.with_name(name)).exists())
            # Kept: days of training are never deleted unasked.
            run_dir.rename(old)
            _logger.info("the run %s is kept as %s", run_dir, old)


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
