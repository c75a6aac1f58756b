"""`abhinaya submit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["submit"]


def submit(
    out: Annotated[Path, typer.Option(help="Submission to write, or to record a score for.")],
    table: Annotated[Path | None, typer.Argument(help="Prediction table.")] = None,
    challenge: Annotated[
        str | None, typer.Option(help="Challenge whose rules hold: is2025 or odyssey2024.")
    ] = None,
    names: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Expected names in order: one per line, a CSV with FileName, or a manifest.",
        ),
    ] = None,
    select: Annotated[
        str, typer.Option(metavar="SELECTION", help="Rows of that manifest, such as test3.")
    ] = "all",
    score: Annotated[
        float | None,
        typer.Option(help="Record this returned score, such as 0.4402, for the file --out."),
    ] = None,
) -> None:
    """Write a checked submission, or record the score it was given.

    The file holds exactly the expected names and labels out of the emotion set, or is not written.
    The ledger submissions.jsonl beside it keeps date, digest, tables and score.
    """
    if (table is None) == (score is None):
        raise typer.BadParameter(
            "Give either a TABLE to write a submission from, or --score to record a returned score."
        )
    from abhinaya.evaluation.submission import (
        LEDGER_NAME,
        expected_names,
        find_challenge,
        record_score,
        write_submission,
    )

    if score is not None:
        record_score(out, score)
        typer.echo(f"Recorded {score} for {out} in {out.parent / LEDGER_NAME}.")
        return
    assert table is not None
    rules = find_challenge(challenge) if challenge else None
    expected = expected_names(rules, names, selection=select)
    if rules is None:
        digest = write_submission(table, out, names=expected)
    else:
        digest = write_submission(
            table, out, names=expected, emotions=rules.emotions, challenge=rules.name
        )
    typer.echo(f"Wrote {len(expected)} rows to {out} (sha256 {digest[:12]}).")
