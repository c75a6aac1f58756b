"""Running a chain: what is done already stays, what a kill interrupted goes on."""

from __future__ import annotations

import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from abhinaya.errors import BadValueError, MissingFileError, UnknownNameError, list_some
from abhinaya.files import (
    digest_of,
    hash_file,
    read_json_object,
    sole_writer,
    write_json,
    write_text,
)
from abhinaya.pipeline.config import Pipeline
from abhinaya.pipeline.launching.checks import check_launch
from abhinaya.pipeline.launching.config import STEP_VARIABLE, find_start
from abhinaya.pipeline.launching.launch import leave_report
from abhinaya.pipeline.preflight import check_ready
from abhinaya.pipeline.schedule import is_scheduled, run_beside
from abhinaya.pipeline.stages.transcribe import TRANSCRIPTS
from abhinaya.pipeline.steps import Report, Step, build_steps
from abhinaya.pipeline.times import estimate_left, note_time, read_times
from abhinaya.progress import paused, progress_of_steps

__all__ = ["CHAIN", "PlannedStep", "plan", "run_pipeline"]

CHAIN = Path(".steps", "config.json")
"""In the folder of a chain: its config as it was run last."""

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
    """Return every step with its status, as a run would find it now.

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
    known = [*(step.name for step in steps), *(step.kind for step in steps)]
    for name in [*only, *([start] if start else [])]:
        if name not in known:
            raise UnknownNameError("step", name, set(known))
    again = _steps_from(steps, start)
    planned, unmade = [], set[Path]()
    for step in steps:
        if only and step.name not in only and step.kind not in only:
            continue
        done = (
            step.name not in again
            and not unmade.intersection(step.needs)
            and _stamped(pipeline, step)
        )
        if not done:
            unmade.update(step.makes)
        planned.append(PlannedStep(step, "done" if done else "to do"))
    check_launch(pipeline, steps, [entry.step for entry in planned if entry.status == "to do"])
    return planned


def run_pipeline(
    pipeline: Pipeline,
    report: Callable[[Report], None],
    *,
    only: Sequence[str] = (),
    start: str | None = None,
    detach: bool = False,
) -> None:
    """Do every step that is to do.

    Args:
        pipeline: the chain.
        report: called with a short table after each step.
        only: names or kinds of steps to do; nothing else runs.
        start: name or kind of the step to begin with, even if it is done.
        detach: return once everything is submitted to the cluster.

    Raises:
        MissingFileError: before anything is done, if a step needs a file that no step makes.
        BadValueError: if a step of `only` needs a file that an earlier step has yet to make, or
            another process runs a chain with the same `out` now.
        StepError: if steps failed that ran beside others.
    """
    if os.environ.get(STEP_VARIABLE) in only:
        _do_own_step(pipeline, report, os.environ[STEP_VARIABLE])
        return
    with sole_writer(pipeline.config.out / ".steps", "out"):
        _do_steps(pipeline, report, only, start, detach)


def _do_own_step(pipeline: Pipeline, report: Callable[[Report], None], name: str) -> None:
    """Do the step that this process was started for, by a run that keeps others away."""
    step = next(step for step in build_steps(pipeline) if step.name == name)
    if os.environ.get("SLURM_NODEID", "0") != "0":  # the first machine of the job takes note
        if find_start(pipeline, name).n_machines > 1:
            step.work()
        return
    with sole_writer(_stamp_path(pipeline, step), "out"):
        if not _stamped(pipeline, step):
            _check_needs(step)
            found = _do(pipeline, step)
            leave_report(pipeline.config.out, name, found)
            report(found)


def _do_steps(
    pipeline: Pipeline,
    report: Callable[[Report], None],
    only: Sequence[str],
    start: str | None,
    detach: bool,
) -> None:
    planned = plan(pipeline, only=only, start=start)
    steps = build_steps(pipeline)
    _check_inputs(pipeline, steps, [entry.step for entry in planned])
    check_ready(pipeline, [entry.step for entry in planned if entry.status == "to do"])
    _keep_config(pipeline)
    again = _steps_from(steps, start)

    def is_done(step: Step) -> bool:
        # Asked again: an earlier step may have made the very file that was there before.
        return step.name not in again and _stamped(pipeline, step)

    def put_away(step: Step) -> None:
        if step.name in again:
            _stamp_path(pipeline, step).unlink(missing_ok=True)
            _forget(step)

    to_do = [entry.step for entry in planned if entry.status == "to do"]
    if detach or is_scheduled(pipeline, to_do):
        run_beside(pipeline, to_do, is_done, put_away, report, detach=detach)
        return
    names = [entry.step.name for entry in planned]
    with progress_of_steps(len(planned)) as begin:
        for idx, entry in enumerate(planned):
            if is_done(entry.step):
                continue
            _check_needs(entry.step)
            put_away(entry.step)
            open_ = [name for name in names[idx:] if name in {step.name for step in to_do}]
            begin(entry.step.name, idx, estimate_left(open_, read_times(pipeline.config.out)))
            found = _do(pipeline, entry.step)
            with paused():
                report(found)


def _keep_config(pipeline: Pipeline) -> None:
    content = pipeline.config.model_dump(mode="json", exclude_unset=True)
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    path = pipeline.config.out / CHAIN
    # A run with nothing to do touches nothing.
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)


def _check_needs(step: Step) -> None:
    missing = [path for path in step.needs if not path.is_file()]
    if missing:
        raise BadValueError(
            f"The step {step.name!r} needs {str(missing[0])!r}, which is not there. "
            "Run the steps before it first: abhinaya run without --only or --from."
        )


def _do(pipeline: Pipeline, step: Step) -> Report:
    _stamp_path(pipeline, step).unlink(missing_ok=True)
    began = time.monotonic()
    # Processes of its own have bars of their own.
    with paused() if find_start(pipeline, step.name).is_launched else nullcontext():
        report = step.work()
    write_json(_stamp_path(pipeline, step), {"digest": _digest(step)})
    note_time(pipeline.config.out, step.name, time.monotonic() - began)
    return report


def _steps_from(steps: Sequence[Step], start: str | None) -> set[str]:
    """Return names of the steps from the first one that `start` names or is the kind of."""
    if start is None:
        return set()
    first = next(idx for idx, step in enumerate(steps) if start in (step.name, step.kind))
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
            "Correct manifest, a member's base, apply.recipe, score.truth or submit.names."
        )
    _check_sources(pipeline, steps, chosen)


def _check_sources(pipeline: Pipeline, steps: Sequence[Step], chosen: Sequence[Step]) -> None:
    """Refuse members that read transcripts which nobody has made or will make."""
    from abhinaya.data.transcripts import HUMAN

    config = pipeline.config
    made = {HUMAN} | set(config.prepare.transcripts if config.prepare else ())
    made |= {source for step in steps if step.kind == "transcribe" for source in step.sources}
    file = config.manifest_path.parent / TRANSCRIPTS
    made |= set(_texts_of(file))
    for step in chosen:
        for source in step.sources:
            if source not in made:
                raise BadValueError(
                    f"The step {step.name!r} reads the transcripts {source!r}, which are not in "
                    f"{str(file)!r} and which no step makes. Add the block transcribe, name them "
                    "in prepare.transcripts, or correct the member's data.transcripts."
                )


def _forget(step: Step) -> None:
    """Put away what a step made, where the step itself would take it for finished work."""
    if step.kind == "predict":
        for path in step.makes:
            path.unlink(missing_ok=True)
    elif step.kind == "transcribe":
        from abhinaya.data.transcripts import read_transcript_rows, write_transcripts

        for path in filter(Path.is_file, step.makes):
            rows = read_transcript_rows(path)
            write_transcripts([row for row in rows if row["source"] not in step.sources], path)
    elif step.kind == "train":
        run_dir = step.makes[0].parent.parent
        # Training itself refuses a folder that holds something else.
        if (run_dir / "digest.json").is_file():
            names = (f"{run_dir.name}.old-{number}" for number in itertools.count(1))
            old = next(p for name in names if not (p := run_dir.with_name(name)).exists())
            # Kept: days of training are never deleted unasked.
            run_dir.rename(old)
            _logger.info("the run %s is kept as %s", run_dir, old)


def _stamp_path(pipeline: Pipeline, step: Step) -> Path:
    return pipeline.config.out / ".steps" / f"{step.name.replace(':', '.')}.json"


def _stamped(pipeline: Pipeline, step: Step) -> bool:
    stamp = _stamp_path(pipeline, step)
    if not stamp.is_file() or not all(path.is_file() for path in (*step.makes, *step.needs)):
        return False
    tables = [path for path in step.makes if path.name == TRANSCRIPTS]
    if not all(set(step.sources) <= set(_texts_of(path)) for path in tables):
        return False
    try:
        return bool(read_json_object(stamp).get("digest") == _digest(step))
    except BadValueError:  # a damaged stamp says nothing; the step is done again
        return False


def _digest(step: Step) -> str:
    return digest_of([step.settings, [_content(path, step.sources) for path in step.needs]])


def _content(path: Path, sources: Sequence[str]) -> str:
    """Return a hash of what a step reads of a file."""
    if path.name == TRANSCRIPTS:
        # What other recognisers heard decides nothing.
        texts = _texts_of(path)
        return digest_of([texts.get(source) for source in sources])
    return hash_file(path)


def _texts_of(path: Path) -> dict[str, list[tuple[str, str | None]]]:
    """Return utterances and texts of each source in a table of transcripts, if there is one."""
    from abhinaya.data.transcripts import read_transcript_rows

    texts: dict[str, list[tuple[str, str | None]]] = {}
    for row in read_transcript_rows(path) if path.is_file() else []:
        texts.setdefault(row["source"], []).append((row["utterance"], row["text"]))
    return texts
