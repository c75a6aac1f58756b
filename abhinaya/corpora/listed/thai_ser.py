"""THAI-SER: scripted and improvised turns in five emotions, by 200 actors, in Thai.

`emotion_label.json` has an entry for each turn, such as `s001_con_actor001_impro1_1.flac`: studio
or Zoom recording, microphone, actor, part and turn. The label is what most raters heard
(`majority_emo`); what the actor was told to play is kept in the column `assigned`, how many agreed
in `agreement`. `actor_demography.json` has sex and age. The same turn of another microphone is in
no entry, and left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from abhinaya.corpora.base import Prepared, PrepareOptions, gender_or_none
from abhinaya.corpora.mould import corpus_facts, finish, join_sounds, refuse_folder
from abhinaya.data.problems import Problem
from abhinaya.errors import list_some
from abhinaya.files import read_json_object

__all__ = ["FACTS", "prepare"]

_CLASSES = ("angry", "frustrated", "happy", "neutral", "sad")

FACTS = corpus_facts(
    "thai-ser",
    "THAI-SER, Thai Speech Emotion Recognition corpus",
    classes=_CLASSES,
    licence="CC-BY-SA-4.0",
    citation="Wongpithayadisai et al., THAI Speech Emotion Recognition (THAI-SER) corpus, 2025, "
    "arXiv:2507.09618",
    url="https://github.com/vistec-AI/dataset-releases",
    n_published=27854,
)

_TABLE, _ACTORS = "emotion_label.json", "actor_demography.json"
_NAME = re.compile(
    r"(?P<recording>[sz]\d{3})_[a-z]+_actor(?P<actor>\d+)_(?P<part>script|impro)\d*_(?P<turn>\d+)"
    r"(?:\.\w+)?",
    re.IGNORECASE,
)


def prepare(source: Path, options: PrepareOptions) -> Prepared:
    """Return manifest, with `part`, `assigned` and `agreement`.

    Raises:
        MissingFileError: if there is no file of labels.
        BadValueError: if it is no JSON.
    """
    del options
    if not (source / _TABLE).is_file():
        raise refuse_folder(FACTS, source, f"there is no {_TABLE}")
    problems: list[Problem] = []
    actors = _read_actors(source / _ACTORS, problems)
    rows: list[dict[str, Any]] = []
    for file, entries in read_json_object(source / _TABLE).items():
        name = _NAME.fullmatch(file)
        entry = entries[0] if isinstance(entries, list) and entries else None
        if name is None or not isinstance(entry, dict):
            reason = "no entry of a turn like 's001_con_actor001_impro1_1.flac'; left out"
            problems.append(Problem(file, reason))
            continue
        label = str(entry.get("majority_emo", "")).strip().lower()
        if label not in _CLASSES:
            problems.append(Problem(file, f"the emotion {label!r} is no class; no label"))
        actor = actors.get(name["actor"], {})
        rows.append(
            {
                "audio": f"{Path(file).stem}.flac",
                "label": label if label in _CLASSES else None,
                "speaker": name["actor"],
                "gender": gender_or_none(actor.get("Sex")),
                "language": "th",
                "recording": name["recording"].lower(),
                "turn": int(name["turn"]),
                "age": str(actor.get("Age", "")) or None,
                "part": name["part"].lower(),
                "assigned": str(entry.get("assigned_emo", "")).strip().lower() or None,
                "agreement": _number(entry.get("agreement")),
            }
        )
    join_sounds(FACTS, source, rows, problems, where=_TABLE)
    return finish(FACTS, source, rows, problems, example="s001_con_actor001_impro1_1.flac")


def _read_actors(path: Path, problems: list[Problem]) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        problems.append(Problem(_ACTORS, "there is no such file; genders and ages are unknown"))
        return {}
    entries = read_json_object(path).get("data")
    entries = entries if isinstance(entries, list) else []
    fit = [e for e in entries if isinstance(e, dict) and "Actor's ID" in e]
    if len(fit) < len(entries) or not entries:
        odd = [e for e in entries if e not in fit]
        reason = f"{len(odd)} entries have no Actor's ID: {list_some(odd)}"
        problems.append(Problem(_ACTORS, reason))
    return {str(entry["Actor's ID"]): entry for entry in fit}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
