"""Soup: the trained weights of several runs are averaged into one run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from abhinaya.files import sole_outputs
from abhinaya.pipeline.report import Cell, Report

__all__ = ["run_soup"]


@sole_outputs("out")
def run_soup(
    runs: Sequence[Path],
    out: Path,
    *,
    manifest: Path | None = None,
    select: Sequence[str] = (),
    audio_root: Path | None = None,
    overrides: Sequence[str] = (),
    checkpoints: int | Literal["all"] | None = None,
) -> Report | None:
    """Write the average of runs, or of the checkpoints of one, as a run directory.

    Args:
        runs: run directories of one architecture.
        out: the run directory to write.
        manifest: take a run only if macro-F1 on this corpus does not fall; None takes all.
        select: names of splits or subsets of it.
        audio_root: where its audio lies now.
        overrides: `key=value` changes of the runs' configs for predicting.
        checkpoints: average so many of the last checkpoints of the only run; None averages runs.

    Returns:
        What was written, or None where it was there already.
    """
    if manifest is not None:  # read here as well: a mistake is told before torch is there
        from abhinaya.data.manifest import read_manifest

        read_manifest(manifest, audio_root=audio_root).select(select)
    from abhinaya.training import soup as soups
    from abhinaya.training.run_directory import RunDirectory

    if checkpoints is None:
        parts = soups.read_parts(runs)
    else:
        (source,) = runs
        parts = soups.read_checkpoints(source, None if checkpoints == "all" else checkpoints)
    work = out.with_name(f".{out.name}.soup")
    recipe: dict[str, object] = {"name": out.name}
    if manifest is not None:
        score, corpus = _scorer(manifest, select, audio_root, overrides, work)
        recipe |= {"manifest": corpus, "select": select, "overrides": overrides}
    digest = soups.soup_digest(parts, recipe)
    run = RunDirectory(out, digest)
    run.check()
    if run.is_finished:
        shutil.rmtree(work, ignore_errors=True)
        return None

    chosen: Sequence[int] = range(len(parts))
    scores: list[float | None] = [None] * len(parts)
    macro_f1 = None
    if manifest is not None:

        def score_of(candidates: Sequence[int]) -> float:
            shutil.rmtree(work / "candidate", ignore_errors=True)
            soups.write_soup(parts, candidates, work / "candidate", digest="candidate")
            return score(work / "candidate" / "best")

        # What training left is no folder to predict from before it is one of a soup.
        singly = [
            score(part.checkpoint) if checkpoints is None else score_of([idx])
            for idx, part in enumerate(parts)
        ]
        chosen, macro_f1 = soups.greedy_choice(singly, score_of)
        scores = [*singly]
    soups.write_soup(parts, chosen, out, digest=digest, macro_f1=macro_f1)
    shutil.rmtree(work, ignore_errors=True)
    rows: list[list[Cell]] = [
        [str(part.run), 1 / len(chosen) if idx in chosen else 0.0, scores[idx]]
        for idx, part in enumerate(parts)
    ]
    return Report(
        f"soup of {len(chosen)} of {len(parts)} {'runs' if checkpoints is None else 'checkpoints'}",
        ["run", "weight", "macro-F1"],
        [*rows, [str(out), 1.0, macro_f1]],
        files=(run.best,),
    )


def _scorer(
    manifest: Path,
    select: Sequence[str],
    audio_root: Path | None,
    overrides: Sequence[str],
    work: Path,
) -> tuple[Callable[[Path], float], str]:
    """Return a function from a checkpoint to its macro-F1, and the digest of the corpus.

    Tables are kept in `work` until all is done: a killed choice predicts nothing twice.
    """
    from abhinaya.data.manifest import read_manifest
    from abhinaya.evaluation.scoring import read_truth, score_table
    from abhinaya.files import hash_file
    from abhinaya.member import PredictRequest
    from abhinaya.member_config import find_predictor
    from abhinaya.nn.checkpoint import WEIGHTS

    corpus, truth = read_manifest(manifest, audio_root=audio_root), read_truth(manifest)

    def score(checkpoint: Path) -> float:
        member, resolved = find_predictor(checkpoint)
        content = hash_file(checkpoint / WEIGHTS)
        request = PredictRequest(
            manifest=corpus,
            selection=tuple(select),
            out=work / f"{content[:16]}.parquet",
            overrides=tuple(overrides),
        )
        table = member.predict(resolved, request)
        return score_table(table, truth, n_resamples=1).scores.macro_f1

    return score, corpus.digest
