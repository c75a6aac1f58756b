"""Smooth: a table is adapted to each speaker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from abhinaya.files import sole_outputs
from abhinaya.pipeline.report import Report, interval_text
from abhinaya.pipeline.stages.settings import Settings

if TYPE_CHECKING:
    from abhinaya.data.manifest import Manifest
    from abhinaya.data.predictions import PredictionTable
    from abhinaya.evaluation.scoring import TableScore, Truth
    from ensembling.speakers.smooth_tables import SmoothReport

__all__ = ["SmoothSettings", "adapt_to_speakers", "run_smooth"]


class SmoothSettings(Settings):
    """How to adapt to speakers."""

    embeddings: str | None = Field(default=None, json_schema_extra={"metavar": "TABLE"})
    """Member's table that lends its embeddings to a fused one."""
    speakers: str = Field(default="speaker", json_schema_extra={"metavar": "COLUMN"})
    """Column of the manifest with the speakers."""
    method: Literal["cluster", "standardise", "prior"] = "cluster"
    """Assign classes to clusters; standardise embeddings per speaker before the head; or
    re-estimate each speaker's class prior."""
    k: int = Field(default=0, ge=0)
    """cluster: most clusters; 0 for the number of classes."""
    clustering: Literal["k-means", "agglomerative", "gaussian-mixture"] = "k-means"
    """cluster: how to cluster."""
    space: Literal["embedding", "logits", "probabilities"] = "embedding"
    """cluster: what is clustered."""
    standardised: Literal["auto", "always", "never"] = "auto"
    """cluster: standardise per speaker before clustering; auto: only embeddings."""
    assignment: Literal["greedy", "optimal", "soft"] = "greedy"
    """cluster: one class per cluster, most certain first; with the largest sum of probabilities; or
    mix each utterance's probabilities with its cluster's."""
    mix: float = Field(default=0.5, ge=0, le=1)
    """soft: weight of the cluster."""
    evidence: Literal["auto", "head", "probabilities"] = "auto"
    """cluster: class probabilities from the head at the centroid, or as the mean of the table's;
    auto takes the head of a member's own table."""
    shrinkage: float = Field(default=2.0, ge=0)
    """standardise: utterances' worth of trust in the whole table."""
    strength: float = Field(default=0.0, ge=0)
    """prior: utterances' worth of trust in the training prior."""
    training_prior: Literal["auto", "balanced", "table"] = "auto"
    """prior: what the probabilities were trained under."""
    min_utterances: int = Field(default=2, ge=2)
    """Leave speakers with fewer utterances as they are."""
    name: str | None = None
    """Name of the new table; TABLE's with -smooth by default."""
    seed: int = Field(default=0, ge=0)
    """Seed of the clustering."""
    jobs: int = -1
    """cluster: processes; -1 for one per core."""

    @property
    def needs_embeddings(self) -> bool:
        """True where the method works on embeddings."""
        in_embeddings = self.method == "cluster" and self.space != "probabilities"
        return in_embeddings or self.method == "standardise"


def adapt_to_speakers(
    table: str | Path | PredictionTable, manifest: Path | Manifest, settings: SmoothSettings
) -> tuple[PredictionTable, PredictionTable, Truth, SmoothReport]:
    """Return a table as it was, as adapted, the truth and what was changed.

    Args:
        table: file, or NAME=FILE.
        manifest: speakers, and perhaps labels.
        settings: how to adapt; `embeddings` is a file.
    """
    from abhinaya.data.predictions import read_tables
    from abhinaya.evaluation.scoring import read_with_truth
    from ensembling.speakers.smooth_tables import smooth_table

    (before,), truth = read_with_truth([table], manifest, speaker_column=settings.speakers)
    lender = None
    if settings.embeddings is not None:
        (lender,) = read_tables([settings.embeddings], emotions=before.emotions)
    after, report = smooth_table(
        before,
        truth,
        embeddings=lender,
        method=settings.method,
        cluster={
            "n_clusters": settings.k,
            "clustering": settings.clustering,
            "space": settings.space,
            "standardised": settings.standardised,
            "assignment": settings.assignment,
            "mix": settings.mix,
            "evidence": settings.evidence,
            "seed": settings.seed,
        },
        shrinkage=settings.shrinkage,
        strength=settings.strength,
        training_prior=settings.training_prior,
        min_utts=settings.min_utterances,
        name=settings.name,
        n_jobs=settings.jobs,
    )
    return before, after, truth, report


@sole_outputs("out")
def run_smooth(table: str, manifest: Path, out: Path, settings: SmoothSettings) -> Report:
    """Write an adapted table to `out`; where there are labels, score it before and after.

    Args:
        table: file, or NAME=FILE.
        manifest: speakers, and perhaps labels.
        out: the table to write.
        settings: how to adapt; `embeddings` is a file.
    """
    from abhinaya.data.labels import ABSTAIN
    from abhinaya.data.predictions import write_table
    from abhinaya.evaluation.caveats import absent_notes, training_notes
    from abhinaya.evaluation.scoring import align_truth, score_table

    before, after, truth, report = adapt_to_speakers(table, manifest, settings)
    write_table(after, out)
    has_labels = bool((align_truth(before.utterances, truth)[0] != ABSTAIN).any())
    scored = [score_table(one, truth) for one in (before, after)] if has_labels else []
    return Report(
        f"{len(after)} rows in {out}",
        ["rows", "speakers", "utterances", "changed"],
        [[status, *counts] for status, counts in report.counts.items()],
        files=(out,),
        notes=(*training_notes(scored), *(absent_notes(scored[0].absent) if scored else ())),
        more=(_score_report(scored),) if scored else (),
        data=_as_json(report.counts, scored),
    )


def _score_report(scored: Sequence[TableScore]) -> Report:
    return Report(
        None,
        ["table", "rows", "macro-F1", "95 % interval", "accuracy", "UAR"],
        [
            [
                one.name,
                one.scores.n_utts,
                one.scores.macro_f1,
                interval_text(one.interval),
                one.scores.accuracy,
                one.scores.uar,
            ]
            for one in scored
        ],
    )


def _as_json(
    counts: Mapping[str, tuple[int, int, int]], scored: Sequence[TableScore]
) -> dict[str, Any]:
    return {
        "rows": [
            {"rows": status, "speakers": speakers, "utterances": n_utts, "changed": n_changed}
            for status, (speakers, n_utts, n_changed) in counts.items()
        ],
        "scores": [
            {
                "table": one.name,
                "n_utts": one.scores.n_utts,
                "macro_f1": one.scores.macro_f1,
                "interval": list(one.interval),
                "accuracy": one.scores.accuracy,
                "uar": one.scores.uar,
                "absent_classes": list(one.absent),
            }
            for one in scored
        ],
    }
