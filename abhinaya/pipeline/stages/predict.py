"""Predict: a member labels every row of a selection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from abhinaya.data.problems import problems_beside
from abhinaya.errors import BadValueError, MissingFileError
from abhinaya.pipeline.report import Report

if TYPE_CHECKING:
    from abhinaya.data.predictions import PredictionTable

__all__ = ["report_table", "run_predict"]


def run_predict(
    source: str | Path,
    manifest: Path | None,
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
        manifest: the corpus; by default that of the run's training.
        selection: names of splits or subsets.
        out: the table to write.
        overrides: `key=value` changes of the member's config.
        audio_root: where the audio lies now.
        with_embedding: also keep the input of the head's last linear layer.
    """
    from abhinaya.data.manifest import read_manifest
    from abhinaya.member import PredictRequest
    from abhinaya.member_config import find_predictor

    manifest = manifest or _trained_on(Path(source))
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


def _trained_on(run: Path) -> Path:
    """Return the manifest that a run was trained on.

    Raises:
        BadValueError: if that is not known.
        MissingFileError: if it is no longer there.
    """
    from abhinaya.config import load_yaml

    stored = run / "best" / "config.yaml"
    if not stored.is_file():
        raise BadValueError(
            f"{str(run)!r} is no trained run whose corpus is known. Name one with --manifest."
        )
    manifest = Path(load_yaml(stored)["data"]["manifest"])
    if not manifest.is_file():
        raise MissingFileError(
            f"{str(run)!r} was trained on {str(manifest)!r}, which is not there. Go to the folder "
            "that it was trained from, or name the corpus with --manifest."
        )
    return manifest


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
