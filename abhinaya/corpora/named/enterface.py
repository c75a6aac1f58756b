"""eNTERFACE'05: five sentences in six emotions, by 44 subjects of many countries, in English.

`subject 1/anger/sentence 1/s1_an_1.avi` is subject 1, anger, sentence 1. It is published as films:
take the sound out first, under the same names, such as `s1_an_1.wav`. Some names have a blank or an
underscore too many (`s_3_an_1`). The names do not say genders.
"""

from __future__ import annotations

import re
from typing import Any

from abhinaya.corpora.mould import corpus_facts, from_names

__all__ = ["FACTS", "prepare"]

_LABELS = {
    "an": "anger",
    "di": "disgust",
    "fe": "fear",
    "ha": "happiness",
    "sa": "sadness",
    "su": "surprise",
}

FACTS = corpus_facts(
    "enterface",
    "eNTERFACE'05, audio-visual emotion database",
    classes=_LABELS.values(),
    licence="research use only",
    citation="Martin, Kotsia, Macq and Pitas, The eNTERFACE'05 Audio-Visual Emotion Database, ICDE "
    "Workshops 2006",
    url="https://enterface.net/enterface05/main.php?frame=emotion",
    # Papers count 1,263 to 1,293.
    n_published=None,
)


def _describe(name: re.Match[str]) -> dict[str, Any]:
    return {
        "label": _LABELS[name["emotion"].lower()],
        "speaker": name["subject"],
        "text_code": name["sentence"],
    }


prepare = from_names(
    FACTS,
    rf"s_?(?P<subject>\d+)_(?P<emotion>{'|'.join(_LABELS)})[_ ]?(?P<sentence>[1-5])?",
    _describe,
    example="s1_an_1.wav",
)
