"""The section of a report about adaptation to speakers: before, after, and one speaker's clips."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.predictions import PredictionTable
from abhinaya.data.texts import Texts, find_rows
from abhinaya.evaluation.scoring import align_truth
from abhinaya.pipeline.page.selection import ScoredSelection
from abhinaya.pipeline.report import interval_text
from abhinaya.report.blocks import Block, Figure, Section, Table, Text
from abhinaya.report.figures import clouds

__all__ = ["adaptation_section"]

_MIN_POINTS = 3


def adaptation_section(found: ScoredSelection) -> Section:
    """Return the scores before and after, and a projection of one speaker's embeddings."""
    after = found.adapted
    if after is None:
        return Section("Adaptation to speakers", [Text("No table was adapted to speakers.")])
    before = next(
        (table for table in found.tables if table.name == after.meta["tables"][0]), found.fused
    )
    assert before is not None
    return Section(
        "Adaptation to speakers",
        [_before_and_after(found, before, after), *_projection(found, before, after)],
    )


def _before_and_after(
    found: ScoredSelection, before: PredictionTable, after: PredictionTable
) -> Table:
    rows = found.rows
    was, now = before.labels[rows.indices], after.labels[rows.indices]
    changed = was != now
    helped = int((changed & (now == rows.labels)).sum())
    hurt = int((changed & (was == rows.labels)).sum())
    return Table(
        "Before and after",
        ["table", "macro-F1", "95 % interval", "accuracy", "UAR"],
        [
            [
                table.name,
                (one := found.scores[table.name]).scores.macro_f1,
                interval_text(one.interval),
                one.scores.accuracy,
                one.scores.uar,
            ]
            for table in (before, after)
        ],
        best=("macro-F1", "accuracy", "UAR"),
        text=f"{int(changed.sum())} of {len(changed)} labels changed: {helped} became right, "
        f"{hurt} became wrong, {int(changed.sum()) - helped - hurt} stayed wrong.",
    )


def _projection(
    found: ScoredSelection, before: PredictionTable, after: PredictionTable
) -> list[Block]:
    from sklearn.decomposition import PCA

    names = [after.meta.get("embeddings"), *after.meta["tables"][1:], *after.meta["tables"]]
    lender = next(
        (
            table
            for name in names
            for table in found.tables
            if table.name == name and table.embeddings is not None
        ),
        None,
    )
    if lender is None or lender.embeddings is None:
        return [Text("No table has the embeddings that were clustered, so none are shown.")]
    truth, speakers = align_truth(after.utterances, found.truth)
    usable = np.asarray(~np.isnan(lender.embeddings).any(axis=1))
    chosen = _chattiest(Texts(speakers), usable)
    if chosen is None:
        return [Text(f"No speaker has {_MIN_POINTS} clips with embeddings, so none are shown.")]
    speaker, rows = chosen
    embeddings = lender.embeddings[rows].astype(np.float64)
    spread = embeddings.std(axis=0)
    embeddings = (embeddings - embeddings.mean(axis=0)) / np.where(spread > 0, spread, 1)
    projection = PCA(n_components=2, svd_solver="full").fit(embeddings)
    first, second = projection.explained_variance_ratio_
    return [
        Figure(
            f"Clips of speaker {speaker}",
            clouds(
                projection.transform(embeddings),
                {
                    "true class": truth[rows],
                    f"before: {before.name}": before.labels[rows],
                    f"after: {after.name}": after.labels[rows],
                },
                found.truth.emotions.names,
                (f"component 1 ({first:.0%})", f"component 2 ({second:.0%})"),
            ),
            f"The {len(rows)} clips of the speaker with most clips: first two principal components "
            f"of the embeddings of {lender.name}, standardised within the speaker. Left true "
            "classes, in the middle labels before, right labels after the adaptation.",
        )
    ]


def _chattiest(speakers: Texts, usable: NDArray[np.bool_]) -> tuple[str, NDArray[np.int64]] | None:
    """Return the speaker of most usable rows, the first by name of equal ones, and these rows."""
    counts = speakers.take(np.flatnonzero(usable)).count_each()
    known = sorted((-count, name) for name, count in counts.items() if name is not None)
    if not known or -known[0][0] < _MIN_POINTS:
        return None
    speaker = known[0][1]
    is_own = find_rows(speakers, [speaker]) >= 0
    return speaker, np.flatnonzero(is_own & usable)
