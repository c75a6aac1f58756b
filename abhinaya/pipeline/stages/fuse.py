"""Vote and apply: the tables of several members become one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from abhinaya.files import sole_outputs
from abhinaya.pipeline.report import Cell, Report
from abhinaya.pipeline.stages.settings import Settings

if TYPE_CHECKING:
    from abhinaya.data.predictions import PredictionTable

__all__ = ["ApplySettings", "VoteSettings", "fuse_by_vote", "run_apply", "run_vote"]


class VoteSettings(Settings):
    """How to vote."""

    rule: Literal["plurality", "strict", "soft", "geometric", "weighted", "dawid-skene"] = (
        "plurality"
    )
    """Count labels; let the tiebreaker win any tie, even with a class outside it; take the
    arithmetic or geometric mean of the probabilities; weigh labels; or estimate from the labels
    alone what each table confuses."""
    weights: dict[str, float] = Field(default_factory=dict, json_schema_extra={"metavar": "NAME=W"})
    """Weight of a table, for weighted, soft and geometric; repeat for every table."""
    tiebreaker: tuple[str, ...] = Field(default=(), json_schema_extra={"metavar": "NAME"})
    """Table that settles ties; repeat for the next in line."""
    fallback: str | None = Field(default=None, json_schema_extra={"metavar": "CLASS"})
    """Class to write where every member abstains."""
    rows: Literal["same", "intersection"] = "same"
    """Demand the same utterances everywhere, or keep those that are in all."""
    name: str = "vote"
    """Name of the new table."""


class ApplySettings(Settings):
    """How to fuse by a recipe."""

    recipe: Path = Field(json_schema_extra={"metavar": "RECIPE"})
    """What abhinaya fit wrote."""
    speakers: str = Field(default="speaker", json_schema_extra={"metavar": "COLUMN"})
    """Column of the manifest with the speakers."""
    fallback: str | None = Field(default=None, json_schema_extra={"metavar": "CLASS"})
    """Class to write where every member abstains."""
    allow_fitted_rows: bool = False
    """Let utterances through that the recipe was fitted on; do not score them."""
    rows: Literal["same", "intersection"] = "same"
    """Demand the same utterances everywhere, or keep those that are in all."""
    name: str | None = None
    """Name of the new table; the rule's by default."""


def fuse_by_vote(
    tables: Sequence[str | Path | PredictionTable], settings: VoteSettings
) -> PredictionTable:
    """Return the vote of tables, files or NAME=FILE."""
    from abhinaya.data.predictions import read_tables
    from ensembling.voting.vote_tables import vote_tables

    return vote_tables(
        read_tables(tables),
        rule=settings.rule,
        weights=settings.weights,
        tiebreakers=settings.tiebreaker,
        fallback=settings.fallback,
        rows=settings.rows,
        name=settings.name,
    )


@sole_outputs("out")
def run_vote(tables: Sequence[str], out: Path, settings: VoteSettings) -> Report:
    """Write the vote of tables, files or NAME=FILE, to `out`."""
    from abhinaya.data.predictions import write_table
    from abhinaya.data.texts import Texts

    result = fuse_by_vote(tables, settings)
    write_table(result, out)
    counts = Texts(result.decided_by or ()).count_each()
    return Report(
        f"{len(result)} rows in {out}",
        ["decided by", "rows", "share"],
        [
            [decider, count, count / len(result)]
            for decider, count in sorted(counts.items(), key=lambda item: -item[1])
        ],
        files=(out,),
    )


@sole_outputs("out")
def run_apply(
    tables: Sequence[str], out: Path, settings: ApplySettings, *, manifest: Path | None = None
) -> Report:
    """Write what a recipe makes of tables to `out`.

    Args:
        tables: files, or NAME=FILE, one for each name in the recipe.
        out: the table to write.
        settings: the recipe, and how to apply it.
        manifest: where speakers are looked up, for rules that use them.
    """
    from abhinaya.data.labels import ABSTAIN
    from abhinaya.data.predictions import read_tables, write_table
    from abhinaya.evaluation.scoring import read_truth
    from ensembling.learned.fitting import apply_recipe
    from ensembling.learned.recipes import read_recipe

    fitted = read_recipe(settings.recipe)
    emotions = fitted.emotions
    truth = None
    read = read_tables(tables, emotions=emotions)
    if manifest is not None:
        truth = read_truth(manifest, emotions, speaker_column=settings.speakers)
    result = apply_recipe(
        fitted,
        read,
        truth=truth,
        rows=settings.rows,
        fallback=settings.fallback,
        allow_fitted_rows=settings.allow_fitted_rows,
        name=settings.name,
    )
    write_table(result, out)
    rows: list[list[Cell]] = []
    for class_idx, code in enumerate(emotions.codes):
        count = int((result.labels == class_idx).sum())
        rows.append([code, count, count / len(result)])
    n_abstained = int((result.labels == ABSTAIN).sum())
    if n_abstained:
        rows.append(["none", n_abstained, n_abstained / len(result)])
    return Report(f"{len(result)} rows in {out}", ["class", "rows", "share"], rows, files=(out,))
