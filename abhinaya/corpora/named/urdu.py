"""URDU: turns out of talk shows in four emotions, by 38 speakers (so its paper).

`Angry/SM1_F1_A1.wav` is man 1, file 1, angry. Men and women are numbered apart.
"""

from __future__ import annotations

import re
from typing import Any

from abhinaya.corpora.mould import corpus_facts, from_names

__all__ = ["FACTS", "prepare"]

_LABELS = {"A": "angry", "H": "happy", "N": "neutral", "S": "sad"}

FACTS = corpus_facts(
    "urdu",
    "URDU-Dataset",
    classes=_LABELS.values(),
    licence="not stated by its authors",
    citation="Latif, Qayyum, Usman and Qadir, Cross Lingual Speech Emotion Recognition: Urdu vs. "
    "Western Languages, FIT 2018",
    url="https://github.com/siddiquelatif/urdu-dataset",
    n_published=400,
)


def _describe(name: re.Match[str]) -> dict[str, Any]:
    speaker = name["speaker"].upper()
    return {
        "label": _LABELS[name["emotion"].upper()],
        "speaker": speaker,
        "gender": {"F": "female", "M": "male"}[speaker[1]],
    }


prepare = from_names(
    FACTS,
    r"(?P<speaker>S[FM]\d+)_F\d+_(?P<emotion>[AHNS])\d+",
    _describe,
    example="Angry/SM1_F1_A1.wav",
    language="ur",
)
