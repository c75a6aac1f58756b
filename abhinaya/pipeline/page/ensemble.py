"""Sections of a report about the ensemble: which members it takes, how they differ, who decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from abhinaya.data.texts import Texts
from abhinaya.pipeline.page.selection import ScoredSelection
from abhinaya.pipeline.report import interval_text
from abhinaya.report.blocks import Block, Figure, Section, Table, Text
from abhinaya.report.figures import heat_map, sizes

if TYPE_CHECKING:
    from ensembling.ablation.ablate import Ablation

__all__ = ["ensemble_sections"]

_MAX_DOTS = 300  # of one size in the chart


def ensemble_sections(found: ScoredSelection) -> list[Section]:
    """Return ablation, agreement and tie statistics."""
    if len(found.members) < 2:
        said = [Text("There is one member only, so there is nothing to leave out or to compare.")]
        return [Section(title, said) for title in ("Ablation", "Agreement", "Ties")]
    from ensembling.ablation.ablate import ablate_tables

    meta = found.fused.meta if found.fused is not None else {}
    names = [table.name for table in found.members]
    ablation = ablate_tables(
        found.members,
        found.truth,
        tiebreakers=[name for name in meta.get("tiebreakers", ()) if name in names],
        by_speaker=found.settings.by_speaker,
        include_training_rows=True,
        seed=found.settings.seed,
    )
    return [
        Section("Ablation", _ablation(found, ablation)),
        Section("Agreement", _agreement(ablation)),
        Section("Ties", _ties(found)),
    ]


def _ablation(found: ScoredSelection, ablation: Ablation) -> list[Block]:
    subsets = ablation.subsets
    # The best and the worst of each size, and some between.
    kept = np.concatenate(
        [
            own[np.linspace(0, len(own) - 1, min(len(own), _MAX_DOTS)).astype(np.int64)]
            for size in np.unique(subsets.sizes)
            for own in [np.flatnonzero(subsets.sizes == size)]
        ]
    )
    chosen = None
    if found.fused is not None:
        names = [table.name for table in found.members]
        n_used = len([name for name in found.fused.meta["tables"] if name in names])
        score = found.scores[found.fused.name].scores.macro_f1
        chosen = (n_used, score, f"{found.fused.name}, as chosen")
    blocks: list[Block] = [
        Figure(
            "Macro-F1 by the size of the vote",
            sizes(
                subsets.sizes[kept],
                subsets.macro_f1[kept],
                [(len(one.members), one.macro_f1, one.interval) for one in ablation.best],
                chosen,
                "macro-F1",
            ),
            f"The plain vote of {len(subsets)} combinations of {len(ablation.names)} tables; with "
            "a line the best of each size and its 95 % interval (1000 resamples), with a star the "
            "ensemble.",
        ),
        Table(
            "Best combination of each size",
            ["size", "members", "macro-F1", "95 % interval", "accuracy"],
            [
                [
                    len(one.members),
                    " + ".join(one.members),
                    one.macro_f1,
                    interval_text(one.interval),
                    one.accuracy,
                ]
                for one in ablation.best
            ],
            best=("macro-F1", "accuracy"),
            text=f"A rule that follows a right member wherever there is one would reach "
            f"{ablation.oracle[0]:.4f}.",
        ),
        Table(
            "What each member brings",
            ["table", "alone", "all without it", "change", "Shapley value"],
            [
                [one.name, one.alone, one.without, one.change, one.shapley]
                for one in ablation.members
            ],
            best=("alone", "Shapley value"),
        ),
    ]
    if ablation.search == "beam":
        blocks.append(Text("Not every combination was tried: a beam search kept the best."))
    if ablation.optimism is not None:
        drop = ablation.optimism.expected_drop
        blocks.append(
            Text(
                f"The best combination was picked on the utterances that score it; elsewhere it is "
                f"expected to lose {drop:.4f} of its macro-F1."
            )
        )
    return blocks


def _agreement(ablation: Ablation) -> list[Block]:
    values, names = ablation.diversity.agreement, ablation.names
    return [
        Figure(
            "Agreement of members",
            heat_map(
                np.where(np.eye(len(names), dtype=bool), 1.0, values),
                names,
                names,
                row_title="member",
                column_title="member",
                highest=1.0,
            ),
            "Share of utterances on which two members say the same class.",
        ),
        Table(
            "Pairs of members",
            ["table", "and", "agreement", "double fault", "Q"],
            [
                [
                    *(names[one], names[other]),
                    *(
                        None if np.isnan(matrix[one, other]) else float(matrix[one, other])
                        for matrix in (
                            *(values, ablation.diversity.double_fault),
                            ablation.diversity.q_statistic,
                        )
                    ),
                ]
                for one in range(len(names))
                for other in range(one + 1, len(names))
            ],
            text="Double fault: share that both get wrong. Q: 1 where the same utterances are got "
            "right, negative where two members complement each other.",
        ),
    ]


def _ties(found: ScoredSelection) -> list[Block]:
    table = found.fused
    if table is None or table.decided_by is None:
        return [Text("The ensemble does not say how its rows were decided.")]
    decided = np.array(Texts(table.decided_by).take(found.rows.indices).tolist(), dtype=object)
    is_right = table.labels[found.rows.indices] == found.rows.labels
    known = decided[[name is not None for name in decided]]
    names, counts = np.unique(known, return_counts=True)
    return [
        Table(
            "Who decided",
            ["decided by", "rows", "share", "right"],
            [
                [
                    str(names[idx]),
                    int(counts[idx]),
                    float(counts[idx] / len(decided)),
                    float(is_right[decided == names[idx]].mean()),
                ]
                for idx in np.argsort(-counts, kind="stable")
            ],
            text="Where a majority decided no tie-breaker was needed; a name is the table that "
            "broke the tie. The last column is the share of right rows among them.",
        )
    ]
