"""Soup: the trained weights of several runs are averaged into one run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from abhinaya.files import sole_outputs
from abhinaya.pipeline.report import Cell, Report

if TYPE_CHECKING:
    from abhinaya.config import MemberConfig
    from abhinaya.training.soup import Part

__all__ = ["run_soup"]


@sole_outputs("out")
def run_soup(
    runs: Sequence[Path],
    out: Path,
    *,
    weights: Sequence[float] | None = None,
    greedy: bool = False,
    manifest: Path | None = None,
    select: Sequence[str] = (),
    audio_root: Path | None = None,
    name: str | None = None,
    overrides: Sequence[str] = (),
) -> Report | None:
    """Write the average of runs as a run directory.

    Args:
        runs: run directories of one architecture.
        out: the run directory to write.
        weights: of each run; equal ones by default.
        greedy: take a run only if macro-F1 on the selection does not fall.
        manifest: what to score on; needed for `greedy`.
        select: names of splits or subsets to score on.
        audio_root: where the audio lies now.
        name: name of the new run; that of its folder by default.
        overrides: `key=value` changes of the runs' configs for predicting.

    Returns:
        What was written, or None where it was there already.
    """
    from abhinaya.training import soup as soups

    parts = soups.read_parts(runs)
    kind = "greedy" if greedy else "uniform" if weights is None else "weighted"
    shares = soups.normalize_weights(weights, len(parts))
    config = soups.soup_config(parts, out, name or out.name)
    recipe = {"kind": kind, "weights": shares, "name": config.name}
    score = None
    work = out.with_name(f".{out.name}.soup")
    if manifest is not None and select:
        score, corpus = _scorer(manifest, select, audio_root, overrides, work)
        if greedy:
            recipe |= {"manifest": corpus, "select": select, "overrides": overrides}
    digest = soups.soup_digest(parts, recipe)
    if soups.open_soup(out, digest):
        shutil.rmtree(work, ignore_errors=True)
        return None

    scores: list[float | None] = [None] * len(parts)
    total: float | None = None
    if score is not None:
        singly = [score(part.checkpoint) for part in parts]
        scores = [*singly]
        if greedy:
            shares, total = _choose(parts, config, singly, score, work)
    soups.write_soup(parts, shares, config, out, digest=digest, kind=kind, macro_f1=total)
    if score is not None:
        total = score(out / "best")
        shutil.rmtree(work, ignore_errors=True)
    rows: list[list[Cell]] = [
        [str(part.run), share, macro_f1]
        for part, share, macro_f1 in zip(parts, shares, scores, strict=True)
    ]
    return Report(
        f"{kind} soup of {sum(share > 0 for share in shares)} of {len(parts)} runs",
        ["run", "weight", "macro-F1"],
        [*rows, [str(out), sum(shares), total]],
        files=(out / "best",),
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
    import hashlib

    from abhinaya.data.manifest import read_manifest
    from abhinaya.evaluation.scoring import read_truth, score_table
    from abhinaya.member import PredictRequest
    from abhinaya.member_config import find_predictor
    from abhinaya.nn.checkpoint import WEIGHTS

    corpus, truth = read_manifest(manifest, audio_root=audio_root), read_truth(manifest)

    def score(checkpoint: Path) -> float:
        member, resolved = find_predictor(checkpoint)
        with (checkpoint / WEIGHTS).open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        request = PredictRequest(
            manifest=corpus,
            selection=tuple(select),
            out=work / f"{content[:16]}.parquet",
            overrides=tuple(overrides),
        )
        table = member.predict(resolved, request)
        return score_table(table, truth, n_resamples=1).scores.macro_f1

    return score, corpus.digest


def _choose(
    parts: Sequence[Part],
    config: MemberConfig,
    singly: Sequence[float],
    score: Callable[[Path], float],
    work: Path,
) -> tuple[list[float], float]:
    """Return the greedy weights, and the score of their average."""
    from abhinaya.training import soup as soups

    def shares_of(chosen: Sequence[int]) -> list[float]:
        return [1 / len(chosen) if idx in chosen else 0.0 for idx in range(len(parts))]

    def score_of(chosen: Sequence[int]) -> float:
        shares, candidate = shares_of(chosen), work / "candidate"
        shutil.rmtree(candidate, ignore_errors=True)
        soups.write_soup(parts, shares, config, candidate, digest="candidate", kind="candidate")
        return score(candidate / "best")

    chosen, macro_f1 = soups.greedy_choice(singly, score_of)
    return shares_of(chosen), macro_f1
