"""Train: one member learns, or goes on where it was killed."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from abhinaya.config import MemberConfig, TrainedConfig
from abhinaya.errors import BadValueError, UnknownNameError
from abhinaya.files import sole_writer
from abhinaya.pipeline.report import Report
from abhinaya.processes import is_main_process

if TYPE_CHECKING:
    from abhinaya.data.manifest import Manifest

__all__ = ["prepare_source", "report_run", "run_train"]

_logger = logging.getLogger(__name__)

_FOR_VALIDATION = ("development", "dev", "validation", "valid", "val", "eval")
"""What corpora call the split that chooses the checkpoint."""


def run_train(config: MemberConfig) -> Path:
    """Train a member and return its run directory; every process of a launch calls this.

    Raises:
        BadValueError: if `data.source` has changed since the run began, or `data.validation` names
            no rows of the corpus.
    """
    from abhinaya.data.manifest import read_manifest
    from abhinaya.registry import load_member

    is_own = config.data.source is not None
    if is_own and isinstance(config, TrainedConfig):
        prepare_source(config)
    manifest = read_manifest(config.data.manifest, audio_root=config.data.audio_root)
    data = config.data.model_copy(
        update={"validation": _find_validation(config, manifest, is_own), "source": None}
    )
    return load_member(config.member).train(config.model_copy(update={"data": data}), manifest)


def prepare_source(config: TrainedConfig) -> None:
    """Make a corpus of the folder `data.source` beside the run directory, unless it is there.

    The main process of a launch does it, and the others wait. Whoever prepares the same folder for
    the same run at the same time is refused, as one who trains it is.

    Raises:
        BadValueError: if the folder has changed since the run began.
    """
    from abhinaya.corpora import prepare_corpus
    from abhinaya.corpora.base import PrepareOptions
    from abhinaya.data.manifest import read_manifest

    source, file = config.data.source, config.data.manifest
    assert source is not None
    if not is_main_process():
        while not file.is_file():  # whose process fails, the launcher ends all of them
            time.sleep(0.2)
        return
    scratch = file.parent.with_name(f".{file.parent.name}.tmp")  # beside it: paths are relative
    with sole_writer(config.run_dir, "run_dir"):
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            prepare_corpus("folder", source, scratch, PrepareOptions(own_split=config.seed))
            fresh = read_manifest(scratch / file.name)
            if file.is_file() and read_manifest(file).digest == fresh.digest:
                os.replace(scratch / file.name, file)  # the folder may lie elsewhere now
                return
            run = config.run_dir
            is_begun = any(run.glob("checkpoint-*")) or (run / "best").exists()
            if file.is_file() and (is_begun or os.environ.get("WORLD_SIZE", "1") != "1"):
                raise BadValueError(
                    f"{str(source)!r} has changed since {str(file)!r} was made from it. Name "
                    f"another run_dir, or delete {str(run)!r} and {str(file.parent)!r}."
                )
            shutil.rmtree(file.parent, ignore_errors=True)
            os.replace(scratch, file.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    sizes = [f"{len(fresh.select(split))} {split}" for split in fresh.splits]
    how = f", split {fresh.facts['split']}" if "split" in fresh.facts else ""
    _logger.info(
        "%s: %d recordings of %s (%s)%s; see %s",
        *(source, len(fresh.rows), ", ".join(fresh.emotions.codes), ", ".join(sizes), how),
        file.parent,
    )


def report_run(name: str, run_dir: Path, *, corpus: Path | None = None) -> Report:
    """Return how good a trained run is.

    Args:
        name: of the run.
        run_dir: its folder.
        corpus: manifest of one's own recordings, if they were trained on: what comes next is said.
    """
    from abhinaya.nn.checkpoint import read_info

    best = run_dir / "best"
    metrics = read_info(best).metrics
    return Report(
        str(best),
        ["run", "macro-F1", "best step", "steps"],
        [[name, metrics["macro_f1"], metrics["step"], metrics["n_steps"]]],
        files=(best,),
        remark=None if corpus is None else _next_commands(run_dir, corpus),
    )


def _next_commands(run_dir: Path, corpus: Path) -> str:
    from abhinaya.data.manifest import read_manifest

    splits = read_manifest(corpus).splits
    split = "test" if "test" in splits else next((s for s in splits if s != "train"), "train")
    run, table = shlex.quote(str(run_dir)), shlex.quote(f"{run_dir}-{split}.parquet")
    return (
        f"Next: abhinaya predict {run} --select {split} --out {table}\n"
        f"      abhinaya score {table} --manifest {shlex.quote(str(corpus))} --per-class\n"
        f"      abhinaya predict {run} RECORDING_OR_FOLDER ..."
    )


def _find_validation(
    config: MemberConfig, manifest: Manifest, is_own: bool
) -> tuple[str, ...] | None:
    """Return the rows that choose the checkpoint; shipped configs ask for MSP-Podcast's `balanced`.

    Raises:
        BadValueError: if the corpus has no such rows; it says which it has.
    """
    from abhinaya.corpora.balanced import BALANCED

    wanted = config.data.validation
    if wanted is None:
        return None
    others = [split for split in manifest.splits if split not in config.data.train]
    likely = [name for name in _FOR_VALIDATION if name in others] or others
    if is_own and likely and wanted == (BALANCED,) and BALANCED not in manifest.subsets:
        _logger.info("data.validation is %s: there is no subset %r", likely[0], BALANCED)
        return (likely[0],)
    try:
        manifest.select(wanted)
    except UnknownNameError as err:
        advice = (
            f"Choose the checkpoint by rows that are there: data.validation={likely[0]}"
            if likely
            else "The corpus has no rows to choose a checkpoint by; keep the last one with "
            "data.validation=null"
        )
        raise BadValueError(f"{err} {advice}.") from err
    return wanted
