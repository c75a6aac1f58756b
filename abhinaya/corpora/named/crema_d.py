"""CREMA-D: twelve sentences in six emotions, by 91 actors, in English.

`AudioWAV/1001_DFA_ANG_XX.wav` is actor 1001, sentence DFA, anger, level unspecified. The labels are
what the actors were told to play. Genders and ages are in `VideoDemographics.csv`, in the folder or
in the one above; without it they are unknown.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from abhinaya.corpora.base import gender_or_none
from abhinaya.corpora.mould import corpus_facts, from_names, read_side_table
from abhinaya.data.problems import Problem

__all__ = ["FACTS", "prepare"]

_ACTORS = "VideoDemographics.csv"
_LABELS = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
_SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}

FACTS = corpus_facts(
    "crema-d",
    "CREMA-D, Crowd-sourced Emotional Multimodal Actors Dataset",
    classes=_LABELS.values(),
    licence="ODbL-1.0, contents DbCL-1.0",
    citation="Cao, Cooper, Keutmann, Gur, Nenkova and Verma, CREMA-D: Crowd-sourced Emotional "
    "Multimodal Actors Dataset, IEEE Transactions on Affective Computing 5(4), 2014",
    url="https://github.com/CheyneyComputerScience/CREMA-D",
    n_published=7442,
)


def _describe(name: re.Match[str]) -> dict[str, Any]:
    return {
        "label": _LABELS[name["emotion"].upper()],
        "speaker": name["actor"],
        "intensity": {"LO": "low", "MD": "medium", "HI": "high"}.get(name["level"].upper()),
        "text": _SENTENCES[name["sentence"].upper()],
    }


def _add_actors(source: Path, rows: list[dict[str, Any]], problems: list[Problem]) -> None:
    places = (source / _ACTORS, source.resolve().parent / _ACTORS)
    table = next((path for path in places if path.is_file()), None)
    if table is None:
        problems.append(Problem(_ACTORS, "there is no such file; genders and ages are unknown"))
        return
    actors = read_side_table(table, "ActorID")
    for row in rows:
        actor = actors.get(row["speaker"], {})
        row["gender"], row["age"] = gender_or_none(actor.get("Sex")), actor.get("Age")


prepare = from_names(
    FACTS,
    rf"(?P<actor>1\d{{3}})_(?P<sentence>{'|'.join(_SENTENCES)})_(?P<emotion>{'|'.join(_LABELS)})"
    # One clip of the corpus, 1040_ITH_SAD_X, lacks a letter of its level.
    r"_(?P<level>LO|MD|HI|XX?)",
    _describe,
    example="AudioWAV/1001_DFA_ANG_XX.wav",
    complete=_add_actors,
)
