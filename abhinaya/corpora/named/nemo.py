"""nEMO: 90 sentences in six emotions, by nine actors, in Polish.

`samples/SB0_anger_12.wav` is speaker SB0, anger, sentence 12. Texts, genders and ages are in
`data.tsv`, in the folder or in the one above; without it they are unknown.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from abhinaya.corpora.base import gender_or_none
from abhinaya.corpora.mould import corpus_facts, from_names, read_side_table
from abhinaya.data.problems import Problem

__all__ = ["FACTS", "prepare"]

_TABLE = "data.tsv"
_LABELS = {
    "anger": "anger",
    "fear": "fear",
    "happiness": "happiness",
    "neutral": "neutral",
    "sadness": "sadness",
    "surprised": "surprise",
    "surprise": "surprise",
}

FACTS = corpus_facts(
    "nemo",
    "nEMO, Dataset of Emotional Speech in Polish",
    classes=dict.fromkeys(_LABELS.values()),
    licence="CC-BY-NC-SA-4.0",
    citation="Christop, nEMO: Dataset of Emotional Speech in Polish, LREC-COLING 2024, "
    "arXiv:2404.06292",
    url="https://github.com/amu-cai/nEMO",
    n_published=4481,
)


def _describe(name: re.Match[str]) -> dict[str, Any]:
    return {
        "label": _LABELS[name["emotion"].lower()],
        "speaker": name["speaker"].upper(),
        "text_code": name["sentence"],
    }


def _add_table(source: Path, rows: list[dict[str, Any]], problems: list[Problem]) -> None:
    places = (source / _TABLE, source.resolve().parent / _TABLE)
    table = next((path for path in places if path.is_file()), None)
    if table is None:
        problems.append(Problem(_TABLE, "there is no such file; texts and genders are unknown"))
        return
    entries = read_side_table(table, "file_id", "\t")
    for row in rows:
        name = Path(row["audio"])
        entry = entries.get(name.name) or entries.get(name.stem) or {}
        row["gender"], row["age"] = gender_or_none(entry.get("gender")), entry.get("age")
        row["text"] = entry.get("raw_text")


prepare = from_names(
    FACTS,
    rf"(?P<speaker>[A-Z]{{2}}\d)_(?P<emotion>{'|'.join(_LABELS)})_(?P<sentence>\d+)",
    _describe,
    example="samples/SB0_anger_12.wav",
    language="pl",
    complete=_add_table,
)
