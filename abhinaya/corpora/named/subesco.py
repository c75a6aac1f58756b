"""SUBESCO: ten Bangla sentences in seven emotions, by 20 speakers, five takes each.

`F_02_MONIKA_S_1_NEUTRAL_5.wav` is woman 02, sentence 1, neutral, take 5.
"""

from __future__ import annotations

import re
from typing import Any

from abhinaya.corpora.mould import corpus_facts, from_names

__all__ = ["FACTS", "prepare"]

_CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")

FACTS = corpus_facts(
    "subesco",
    "SUBESCO, SUST Bangla Emotional Speech Corpus",
    classes=_CLASSES,
    licence="CC-BY-4.0",
    citation="Sultana, Rahman, Selim and Iqbal, SUST Bangla Emotional Speech Corpus (SUBESCO): An "
    "audio-only emotional speech corpus for Bangla, PLoS ONE 16(4), 2021",
    url="https://zenodo.org/records/4526477",
    n_published=7000,
)


def _describe(name: re.Match[str]) -> dict[str, Any]:
    gender = name["gender"].upper()
    return {
        "label": name["emotion"].lower(),
        "speaker": f"{gender}{name['number']}",  # both genders are counted from 01
        "gender": {"F": "female", "M": "male"}[gender],
        "text_code": f"S{name['sentence']}",
    }


prepare = from_names(
    FACTS,
    r"(?P<gender>[FM])_(?P<number>\d\d)_[^_/]+_S_(?P<sentence>\d+)"
    rf"_(?P<emotion>{'|'.join(_CLASSES)})_\d",
    _describe,
    example="F_02_MONIKA_S_1_NEUTRAL_5.wav",
    language="bn",
)
