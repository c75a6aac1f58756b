"""Emozionalmente: 18 sentences in seven emotions, by 431 amateurs at home, in Italian.

`metadata/samples.csv` has `file_name`, `actor`, `sentence` and `emotion_expressed`, what the
speaker was asked for; `metadata/users.csv` has `username`, `gender` and `age`.
"""

from __future__ import annotations

from pathlib import Path

from abhinaya.corpora.base import Prepared, PrepareOptions, gender_or_none
from abhinaya.corpora.mould import (
    corpus_facts,
    finish,
    join_sounds,
    read_side_table,
    refuse_folder,
)
from abhinaya.data.problems import Problem

__all__ = ["FACTS", "prepare"]

_CLASSES = ("anger", "disgust", "fear", "joy", "neutrality", "sadness", "surprise")

FACTS = corpus_facts(
    "emozionalmente",
    "Emozionalmente, a crowdsourced Italian emotional speech corpus",
    classes=_CLASSES,
    licence="CC-BY-4.0",
    citation="Catania, Wilke and Garzotto, Emozionalmente: A Crowdsourced Corpus of Simulated "
    "Emotional Speech in Italian, 2025",
    url="https://zenodo.org/records/6569824",
    n_published=6902,
)

_SAMPLES, _USERS = "metadata/samples.csv", "metadata/users.csv"


def prepare(source: Path, options: PrepareOptions) -> Prepared:
    """Return manifest, with `age`, and the sentences.

    Raises:
        MissingFileError: if there is no table of samples.
        ProblemsError: if columns or cells are missing, or an emotion is unknown.
    """
    del options
    if not (source / _SAMPLES).is_file():
        raise refuse_folder(FACTS, source, f"there is no {_SAMPLES}")
    problems: list[Problem] = []
    users = {}
    if (source / _USERS).is_file():
        users = read_side_table(source / _USERS, "username")
    else:
        problems.append(Problem(_USERS, "there is no such file; genders and ages are unknown"))
    rows = []
    for name, entry in read_side_table(source / _SAMPLES, "file_name").items():
        user = users.get(entry.get("actor", ""), {})
        rows.append(
            {
                "audio": f"audio/{name}",
                "label": entry.get("emotion_expressed"),
                "speaker": entry.get("actor"),
                "gender": gender_or_none(user.get("gender")),
                "language": "it",
                "age": user.get("age"),
                "text": entry.get("sentence"),
            }
        )
    join_sounds(FACTS, source, rows, problems, where=_SAMPLES)
    return finish(FACTS, source, rows, problems, example="audio/NAME.wav")
