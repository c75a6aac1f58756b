"""IEMOCAP: scripted and improvised dialogues of ten actors in five sessions, in English.

`Session1/dialog/EmoEvaluation/Ses01F_impro01.txt` has a line for each turn: its times, its name
`Ses01F_impro01_F000`, what most of three raters chose, and means of valence, activation and
dominance from 1 to 5. The last F or M of a name says who speaks. Texts are in
`dialog/transcriptions/`. `oth` is another emotion, `xxx` no agreement. Papers of four classes count
excited turns as happy ones, 5,531 in all, and so do the common sets here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from abhinaya.corpora.base import Prepared, PrepareOptions
from abhinaya.corpora.mould import corpus_facts, finish, join_sounds, refuse_folder
from abhinaya.data.problems import Problem
from abhinaya.errors import list_some

__all__ = ["FACTS", "prepare"]

_CLASSES = {
    "ang": "angry",
    "dis": "disgust",
    "exc": "excited",
    "fea": "fear",
    "fru": "frustrated",
    "hap": "happy",
    "neu": "neutral",
    "sad": "sad",
    "sur": "surprise",
}

FACTS = corpus_facts(
    "iemocap",
    "IEMOCAP, Interactive Emotional Dyadic Motion Capture Database",
    classes=_CLASSES.values(),
    outside=("other", "no agreement"),
    licence="research use only, upon request to USC",
    citation="Busso, Bulut, Lee, Kazemzadeh, Mower, Kim, Chang, Lee and Narayanan, IEMOCAP: "
    "Interactive emotional dyadic motion capture database, Language Resources and Evaluation "
    "42(4), 2008",
    url="https://sail.usc.edu/iemocap/",
    n_published=10039,
    common={"excited": "happy"},
)

_LABELS = {**_CLASSES, "oth": "other", "xxx": "no agreement"}
_EXAMPLE = "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
_TURN = re.compile(
    r"\[[\d.]+ - [\d.]+\]\t(?P<name>Ses0(?P<session>[1-5])[FM]_\w+_(?P<gender>[FM])(?P<turn>\d+))"
    r"\t(?P<emotion>[a-z]{3})\t\[(?P<val>[\d.]+), (?P<act>[\d.]+), (?P<dom>[\d.]+)\]"
)
_TEXT = re.compile(r"(?P<name>Ses0[1-5][FM]_\w+) \[[\d. -]+\]: (?P<text>.*)")


def prepare(source: Path, options: PrepareOptions) -> Prepared:
    """Return manifest, with the column `session`, and transcripts.

    Raises:
        MissingFileError: if there is no evaluation in it.
        ProblemsError: if a rating is unknown.
    """
    del options
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    wrong: list[str] = []
    tables = sorted(source.glob("Session[1-5]/dialog/EmoEvaluation/Ses*.txt"))
    if not tables:
        raise refuse_folder(FACTS, source, f"there are no files like {_EXAMPLE}")
    for table in tables:
        session = table.relative_to(source).parts[0]
        texts = _read_texts(table.parent.parent / "transcriptions" / table.name)
        turns = [_TURN.match(line) for line in table.read_text("utf-8").splitlines()]
        for turn in filter(None, turns):
            if turn["emotion"] not in _LABELS:
                wrong.append(f"{table.name} gives {turn['name']} the emotion {turn['emotion']!r}")
                continue
            dialogue = turn["name"].rpartition("_")[0]
            rows.append(
                {
                    "audio": f"{session}/sentences/wav/{dialogue}/{turn['name']}.wav",
                    "label": _LABELS[turn["emotion"]],
                    "speaker": f"{turn['session']}{turn['gender']}",
                    "gender": {"F": "female", "M": "male"}[turn["gender"]],
                    "language": "en",
                    "recording": dialogue,
                    "turn": int(turn["turn"]),
                    "valence": float(turn["val"]),
                    "arousal": float(turn["act"]),
                    "dominance": float(turn["dom"]),
                    "session": session,
                    "text": texts.get(turn["name"]),
                }
            )
        if not any(turns):
            problems.append(Problem(table.name, "there is no line of a turn in it"))
    silent = [row["audio"] for row in rows if row["text"] is None]
    if silent:
        reason = f"{len(silent)} turns have no text: {list_some(silent)}"
        problems.append(Problem("transcriptions", reason))
    kept = len(problems)
    join_sounds(FACTS, source, rows, problems, where="EmoEvaluation")
    # Whole dialogues lie beside the turns that were cut out of them.
    problems[kept:] = [p for p in problems[kept:] if "dialog/" not in p.utterance]
    return finish(FACTS, source, rows, problems, example=_EXAMPLE, wrong=wrong)


def _read_texts(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    lines = map(_TEXT.match, file.read_text("utf-8", errors="replace").splitlines())
    return {line["name"]: line["text"] for line in lines if line}
