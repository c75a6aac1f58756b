"""Submit: a table becomes a checked submission."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from abhinaya.files import sole_outputs
from abhinaya.pipeline.report import Report
from abhinaya.pipeline.stages.settings import Settings

if TYPE_CHECKING:
    from abhinaya.evaluation.challenges import Challenge

__all__ = ["SubmitSettings", "run_submit"]


class SubmitSettings(Settings):
    """What a submission must hold."""

    # Where it is as ever it is not written: the steps of earlier versions are known by the rest.
    task: Literal["classes", "attributes"] = Field(
        default="classes", exclude_if=lambda value: value == "classes"
    )
    """Submit classes, or arousal, valence and dominance."""
    challenge: str | None = None
    """Challenge whose rules hold: is2025, odyssey2024, serb, ..., or a YAML file."""
    names: Path | None = Field(default=None, json_schema_extra={"metavar": "FILE"})
    """Expected names in order: one per line, a CSV with FileName, or a manifest."""
    select: str = Field(default="all", json_schema_extra={"metavar": "SELECTION"})
    """Rows of that manifest, such as test3."""


@sole_outputs("out")
def run_submit(table: Path, out: Path, settings: SubmitSettings) -> Report:
    """Write the submission `out` and its line in the ledger beside it.

    Without a challenge, which says its classes, those of the table hold.
    """
    from abhinaya.evaluation.challenges import count_left, find_challenge
    from abhinaya.evaluation.submission import expected_names, read_ledger, write_submission

    rules = find_challenge(settings.challenge) if settings.challenge else None
    emotions = None if rules is None else rules.emotions
    names = expected_names(rules, settings.names, selection=settings.select)
    digest = write_submission(
        table,
        out,
        names=names,
        emotions=emotions,
        challenge=None if rules is None else rules.name,
        task=settings.task,
        layout=None if rules is None else rules.layout,
    )
    left = None
    if rules is not None:
        left = count_left(rules, read_ledger(out.parent), task=settings.task)
    return Report(
        f"submission: {out}",
        ["file", "rows", "sha256"],
        [[str(out), len(names), digest[:12]]],
        files=(out,),
        remark=None if rules is None else _tell(rules, left),
    )


def _tell(rules: Challenge, left: int | None) -> str | None:
    """Return what a team should know of its quota and of the days of submission."""
    said = []
    if rules.quota is not None and left is not None:
        per = {"day": " a day", "week": " a week"}.get(rules.quota.per, "")
        said.append(
            f"{left} of {rules.quota.count} submissions{per} to {rules.name} are left, by the "
            "ledger in this folder."
        )
    today = date.today()
    if rules.closes is not None and today > rules.closes:
        said.append(f"{rules.name} closed on {rules.closes}.")
    if rules.opens is not None and today < rules.opens:
        said.append(f"{rules.name} opens on {rules.opens}.")
    return " ".join(said) or None
