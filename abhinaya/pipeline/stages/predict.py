"""Predict: a member labels every row of a selection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from abhinaya.data.problems import problems_beside
from abhinaya.pipeline.report import Report

if TYPE_CHECKING:
    from abhinaya.data.predictions import PredictionTable

__all__ = ["report_table", "run_predict"]


def run_predict(
    source: str | Path,
    manifest: Path,
    selection: tuple[str, ...],
    out: Path,
    *,
    overrides: tuple[str, ...] = (),
    audio_root: Path | None = None,
    with_embedding: bool = False,
) -> PredictionTable:
    """Write the table of a selection and return it; every process of a launch calls this.

    Args:
        source: run directory, or the config file of a member with nothing to train.
        manifest: the corpus.
        selection: names of splits or subsets.
        out: the table to write.
        overrides: `key=value` changes of the member's config.
        audio_root: where the audio lies now.
        with_embedding: also keep the input of the head's last linear layer.
    """
    from abhinaya.data.manifest import read_manifest
    from abhinaya.member import PredictRequest
    from abhinaya.member_config import find_predictor

    # Before the member is loaded, which takes seconds.
    corpus = read_manifest(manifest, audio_root=audio_root)
    corpus.select(selection)
    member, resolved = find_predictor(source, overrides, manifest)
    return member.predict(
        resolved,
        PredictRequest(
            manifest=corpus,
            selection=selection,
            out=out,
            with_embedding=with_embedding,
            overrides=overrides,
        ),
    )


def report_table(table: PredictionTable, selection: str, out: Path) -> Report:
    """Return how many rows a table has, on how many the member abstained, and where it says why."""
    n_problems = sum(reason is not None for reason in table.reasons)
    return Report(
        str(out),
        ["run", "selection", "rows", "abstained"],
        [[table.name, selection, len(table), int((table.labels < 0).sum())]],
        files=(out,),
        remark=f"{n_problems} {'problem' if n_problems == 1 else 'problems'} in "
        f"{problems_beside(out)}",
    )
