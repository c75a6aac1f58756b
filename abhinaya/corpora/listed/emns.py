"""EMNS: sentences of audio books in eight emotions, by one speaker, in English.

`metadata.csv`, with `|` between its cells, has `audio_recording`, `emotion`, `utterance`, `gender`,
`age`, `level` and `description`. The clips are published as WebM, which our reader does not open:
turn them into WAV under the same names, for example with ffmpeg.
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

_CLASSES = ("angry", "disgust", "excited", "happy", "neutral", "sad", "sarcastic", "surprise")

FACTS = corpus_facts(
    "emns",
    "EMNS, Emotive Narrative Storytelling corpus",
    classes=_CLASSES,
    licence="Apache-2.0",
    citation="Noriy, Yang and Zhang, EMNS/Imz/Corpus: An emotive single-speaker dataset for "
    "narrative storytelling in games, television and graphic novels, 2023, arXiv:2305.13137",
    url="https://www.openslr.org/136/",
    n_published=1181,
)

_TABLE = "metadata.csv"


def prepare(source: Path, options: PrepareOptions) -> Prepared:
    """Return manifest, with `level` and `description`, and transcripts.

    Raises:
        MissingFileError: if there is no table.
        ProblemsError: if columns or cells are missing, or an emotion is unknown.
    """
    del options
    table = next((path for path in sorted(source.rglob(_TABLE))), None)
    if table is None:
        raise refuse_folder(FACTS, source, f"there is no {_TABLE}")
    rows = []
    problems: list[Problem] = []
    for name, entry in read_side_table(table, "audio_recording", "|").items():
        label = entry.get("emotion", "").lower()
        rows.append(
            {
                "audio": f"{Path(name).stem}.wav",
                "label": "surprise" if label == "surprised" else label,
                "speaker": entry.get("user_id") or "1",
                "gender": gender_or_none(entry.get("gender")),
                "language": "en",
                "age": entry.get("age"),
                "level": entry.get("level"),
                "description": entry.get("description"),
                "text": entry.get("utterance"),
            }
        )
    join_sounds(FACTS, source, rows, problems, where=_TABLE)
    return finish(FACTS, source, rows, problems, example="cleaned_wav/NAME.wav")
