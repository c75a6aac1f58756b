"""RESD: turns of dialogues played in seven emotions, in Russian.

`train.csv` and `test.csv` have `path` and `emotion`, and some copies `text`; the sound is in
`train/` and `test/`. Nothing says who speaks: every speaker is unknown, and so is whether the two
splits share any.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from abhinaya.corpora.base import Prepared, PrepareOptions
from abhinaya.corpora.mould import (
    corpus_facts,
    finish,
    join_sounds,
    read_side_table,
    refuse_folder,
)
from abhinaya.data.problems import Problem

__all__ = ["FACTS", "prepare"]

_CLASSES = ("anger", "disgust", "enthusiasm", "fear", "happiness", "neutral", "sadness")

FACTS = corpus_facts(
    "resd",
    "RESD, Russian Emotional Speech Dialogs",
    classes=_CLASSES,
    licence="MIT",
    citation="Lubenets, Davidchuk and Amentes, Aniemore, 2022, https://github.com/aniemore/Aniemore",
    url="https://huggingface.co/datasets/Aniemore/resd_annotated",
    n_published=1396,
)

_SPLITS = ("train", "test")


def prepare(source: Path, options: PrepareOptions) -> Prepared:
    """Return manifest, with the published splits, and transcripts where there are some.

    Raises:
        MissingFileError: if there is no table.
        ProblemsError: if columns or cells are missing, or an emotion is unknown.
    """
    del options
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for split in _SPLITS:
        table = source / f"{split}.csv"
        if not table.is_file():
            problems.append(Problem(table.name, f"there is no such file; {split} has no rows"))
            continue
        for path, entry in read_side_table(table, "path").items():
            rows.append(
                {
                    "audio": f"{split}/{path}",
                    "split": split,
                    "label": entry.get("emotion"),
                    "language": "ru",
                    "text": entry.get("text"),
                }
            )
    if not rows:
        raise refuse_folder(FACTS, source, "there are no rows of a train.csv or test.csv")
    join_sounds(FACTS, source, rows, problems, where="train.csv and test.csv")
    return finish(FACTS, source, rows, problems, example="train/NAME.wav")
