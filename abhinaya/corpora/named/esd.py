"""ESD: 350 sentences in five emotions, by ten speakers of Mandarin and ten of English.

`0011/Angry/0011_000351.wav` is speaker 0011, angry; some copies have `train/`, `test/` or
`evaluation/` below the emotion. Speakers up to 0010 speak Mandarin. The folder names the emotion.
Texts are in `0011/0011.txt`; genders are in neither.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from abhinaya.corpora.mould import corpus_facts, from_names
from abhinaya.data.problems import Problem

__all__ = ["FACTS", "prepare"]

_CLASSES = ("angry", "happy", "neutral", "sad", "surprise")

FACTS = corpus_facts(
    "esd",
    "ESD, Emotional Speech Database",
    classes=_CLASSES,
    licence="research use only",
    citation="Zhou, Sisman, Liu and Li, Emotional voice conversion: Theory, databases and ESD, "
    "Speech Communication 137, 2022",
    url="https://hltsingapore.github.io/ESD/",
    n_published=35000,
)


def _describe(name: re.Match[str]) -> dict[str, Any]:
    return {
        "label": name["emotion"].lower(),
        "speaker": name["speaker"],
        "language": "zh" if int(name["speaker"]) <= 10 else "en",
    }


def _add_texts(source: Path, rows: list[dict[str, Any]], problems: list[Problem]) -> None:
    by_name = {Path(row["audio"]).stem: row for row in rows}
    for file in sorted(source.rglob("00[012][0-9].txt")):
        n_odd = 0
        for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines():
            name, *cells = [cell.strip() for cell in line.split("\t")]
            if cells and name in by_name:
                by_name[name]["text"] = cells[0]
            else:
                n_odd += bool(line.strip())
        if n_odd:
            reason = f"{n_odd} lines are no text of a clip that is there"
            problems.append(Problem(file.name, reason))


prepare = from_names(
    FACTS,
    rf"(?P<speaker>00[01]\d|0020)/(?P<emotion>{'|'.join(_CLASSES)})"
    r"/(?:(?:train|test|evaluation)/)?(?P=speaker)_\d{6}",
    _describe,
    example="0011/Angry/0011_000351.wav",
    complete=_add_texts,
)
