"""`abhinaya smooth`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from abhinaya.cli.options import AsJson, Format
from abhinaya.cli.tables import TableFormat, show_json, show_table

if TYPE_CHECKING:
    from abhinaya.data.labels import EmotionSet
    from abhinaya.data.predictions import PredictionTable
    from abhinaya.evaluation.scoring import TableScore

__all__ = ["smooth"]


def smooth(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="Prediction table, or NAME=TABLE.")],
    manifest: Annotated[
        Path, typer.Option(help="Manifest with speakers; with labels too, the result is scored.")
    ],
    out: Annotated[Path, typer.Option(help="Table to write, .parquet or .csv.")],
    embeddings: Annotated[
        str | None,
        typer.Option(
            metavar="TABLE", help="Member's table that lends its embeddings to a fused one."
        ),
    ] = None,
    speakers: Annotated[
        str, typer.Option(metavar="COLUMN", help="Column of the manifest with the speakers.")
    ] = "speaker",
    method: Annotated[
        Literal["cluster", "standardise", "prior"],
        typer.Option(
            help="Assign classes to clusters; standardise embeddings per speaker before the head; "
            "or re-estimate each speaker's class prior."
        ),
    ] = "cluster",
    k: Annotated[
        int, typer.Option(min=0, help="cluster: most clusters; 0 for the number of classes.")
    ] = 0,
    clustering: Annotated[
        Literal["k-means", "agglomerative", "gaussian-mixture"],
        typer.Option(help="cluster: how to cluster."),
    ] = "k-means",
    space: Annotated[
        Literal["embedding", "logits", "probabilities"],
        typer.Option(help="cluster: what is clustered."),
    ] = "embedding",
    standardised: Annotated[
        Literal["auto", "always", "never"],
        typer.Option(
            help="cluster: standardise per speaker before clustering; auto: only embeddings."
        ),
    ] = "auto",
    assignment: Annotated[
        Literal["greedy", "optimal", "soft"],
        typer.Option(
            help="cluster: one class per cluster, most certain first; with the largest sum of "
            "probabilities; or mix each utterance's probabilities with its cluster's."
        ),
    ] = "greedy",
    mix: Annotated[float, typer.Option(min=0, max=1, help="soft: weight of the cluster.")] = 0.5,
    evidence: Annotated[
        Literal["auto", "head", "probabilities"],
        typer.Option(
            help="cluster: class probabilities from the head at the centroid, or as the mean of "
            "the table's; auto takes the head of a member's own table."
        ),
    ] = "auto",
    shrinkage: Annotated[
        float,
        typer.Option(min=0, help="standardise: utterances' worth of trust in the whole table."),
    ] = 2.0,
    strength: Annotated[
        float, typer.Option(min=0, help="prior: utterances' worth of trust in the training prior.")
    ] = 0.0,
    training_prior: Annotated[
        Literal["auto", "balanced", "table"],
        typer.Option(help="prior: what the probabilities were trained under."),
    ] = "auto",
    min_utterances: Annotated[
        int, typer.Option(min=2, help="Leave speakers with fewer utterances as they are.")
    ] = 2,
    name: Annotated[
        str | None, typer.Option(help="Name of the new table; TABLE's with -smooth by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the clustering.")] = 0,
    jobs: Annotated[int, typer.Option(help="cluster: processes; -1 for one per core.")] = -1,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Adapt a table to each speaker, without a gate: by default, greedy cluster assignment.

    A speaker with at most K utterances gets as many different classes as utterances. Whether any of
    this helps is what `abhinaya fit adaptation` finds out on validation data.
    """
    from abhinaya.data.labels import ABSTAIN
    from abhinaya.data.predictions import write_table
    from abhinaya.evaluation.scoring import read_with_truth, score_table
    from abhinaya.registry import load_rule

    (before,), truth = read_with_truth([table], manifest, speaker_column=speakers)
    after, report = load_rule("smooth")(
        before,
        truth,
        embeddings=_read_lender(embeddings, before.emotions),
        method=method,
        cluster={
            "n_clusters": k,
            "clustering": clustering,
            "space": space,
            "standardised": standardised,
            "assignment": assignment,
            "mix": mix,
            "evidence": evidence,
            "seed": seed,
        },
        shrinkage=shrinkage,
        strength=strength,
        training_prior=training_prior,
        min_utts=min_utterances,
        name=name,
        n_jobs=jobs,
    )
    write_table(after, out)
    in_table = set(before.utterances)
    has_labels = any(
        label != ABSTAIN and utterance in in_table
        for utterance, label in zip(truth.utterances, truth.labels, strict=True)
    )
    scored = [score_table(one, truth) for one in (before, after)] if has_labels else []
    if as_json:
        show_json(_as_json(report.counts, scored))
        return
    show_table(
        ["rows", "speakers", "utterances", "changed"],
        [[status, *counts] for status, counts in report.counts.items()],
        title=f"{len(after)} rows in {out}",
        table_format=table_format,
    )
    if scored:
        typer.echo()
        show_table(
            ["table", "rows", "macro-F1", "95 % interval", "accuracy", "UAR"],
            [
                [
                    *(one.name, one.scores.n_utts, one.scores.macro_f1),
                    f"{one.interval[0]:.4f}-{one.interval[1]:.4f}",
                    *(one.scores.accuracy, one.scores.uar),
                ]
                for one in scored
            ],
            table_format=table_format,
        )


def _read_lender(source: str | None, emotions: EmotionSet) -> PredictionTable | None:
    from abhinaya.data.predictions import read_tables

    return None if source is None else read_tables([source], emotions=emotions)[0]


def _as_json(counts: dict[str, tuple[int, int, int]], scored: list[TableScore]) -> dict[str, Any]:
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
            }
            for one in scored
        ],
    }
