"""JL-Corpus: sentences in five primary and five secondary emotions, by two men and two women.

`female1_angry_10a_1.wav` is woman 1, angry, sentence 10, session a, take 1. New Zealand English.
"""

from __future__ import annotations

import re
from typing import Any

from abhinaya.corpora.mould import corpus_facts, from_names

__all__ = ["FACTS", "prepare"]

_CLASSES = (
    "angry",
    "anxious",
    "apologetic",
    "assertive",
    "concerned",
    "encouraging",
    "excited",
    "happy",
    "neutral",
    "sad",
)

FACTS = corpus_facts(
    "jl-corpus",
    "JL-Corpus",
    classes=_CLASSES,
    licence="CC0-1.0",
    citation="James, Tian and Watson, An Open Source Emotional Speech Corpus for Human Robot "
    "Interaction Applications, Interspeech 2018",
    url="https://www.kaggle.com/datasets/tli725/jl-corpus",
    n_published=2400,
)


def _describe(name: re.Match[str]) -> dict[str, Any]:
    return {
        "label": name["emotion"].lower(),
        "speaker": name["speaker"].lower(),
        "gender": name["speaker"].lower()[:-1],
        "text_code": name["sentence"],
    }


prepare = from_names(
    FACTS,
    rf"(?P<speaker>(?:fe)?male[12])_(?P<emotion>{'|'.join(_CLASSES)})_(?P<sentence>\d+)[ab]_\d",
    _describe,
    example="female1_angry_10a_1.wav",
)
