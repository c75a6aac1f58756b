"""What the reader of a score has to know: absent classes, and rows that a table was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from abhinaya.data.predictions import PredictionTable
from abhinaya.data.texts import Texts, find_rows
from abhinaya.errors import BadValueError
from abhinaya.evaluation.metrics import Classes
from abhinaya.evaluation.scoring import TableScore

__all__ = ["absent_notes", "require_unseen", "training_notes"]


def absent_notes(absent: Sequence[str], classes: Classes = "all") -> tuple[str, ...]:
    """Say what macro-F1 and UAR make of classes that no scored utterance has, if there are any."""
    if not absent:
        return ()
    what = {
        "all": "each counts as 0 in macro-F1 and UAR; abhinaya score --classes present leaves "
        "them out",
        "present": "macro-F1 and UAR leave them out; abhinaya score --classes all counts each as 0",
    }[classes]
    return (f"No scored utterance is truly {', '.join(absent)}: {what}.",)


def training_notes(scored: Iterable[TableScore]) -> list[str]:
    """Return a sentence for each score that rows flatter on which the table was trained."""
    return [
        f"{one.n_trained_on} of the {one.scores.n_utts} scored rows of {one.name} were trained on; "
        + (
            "no other row is left to say how good it is."
            if one.unseen_macro_f1 is None
            else f"without them: macro-F1 {one.unseen_macro_f1:.4f}."
        )
        for one in scored
        if one.n_trained_on
    ]


def require_unseen(tables: Sequence[PredictionTable], utterances: Sequence[str]) -> None:
    """Refuse tables that were trained on rows which are to be scored.

    Args:
        tables: the tables.
        utterances: what is scored.

    Raises:
        BadValueError: if there are such rows.
    """
    counts = {
        table.name: int((find_rows(trained, utterances) >= 0).sum())
        for table in tables
        if table.trained_on is not None
        and (trained := Texts(table.utterances).take(np.flatnonzero(table.trained_on)))
    }
    flattered = [f"{name} on {count}" for name, count in counts.items() if count]
    if flattered:
        raise BadValueError(
            f"Tables were trained on some of the {len(utterances)} scored rows: "
            f"{', '.join(flattered)}. That flatters them. Give tables of other rows, or "
            "--include-training-rows."
        )
