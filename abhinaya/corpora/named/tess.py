"""TESS: "Say the word ..." with 200 words in seven emotions, by an older and a younger woman.

`OAF_back_angry.wav`: OAF is the older actress, YAF the younger; `ps` is pleasant surprise. One clip
is published as `OA_bite_neutral.wav`; it is the older actress too. In English.
"""

from __future__ import annotations

import re
from typing import Any

from abhinaya.corpora.mould import corpus_facts, from_names

__all__ = ["FACTS", "prepare"]

_CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "pleasant surprise", "sad")

FACTS = corpus_facts(
    "tess",
    "TESS, Toronto emotional speech set",
    classes=_CLASSES,
    licence="CC-BY-NC-ND-4.0",
    citation="Pichora-Fuller and Dupuis, Toronto emotional speech set (TESS), Scholars Portal "
    "Dataverse, 2020, doi:10.5683/SP2/E8H2MF",
    url="https://tspace.library.utoronto.ca/handle/1807/24487",
    n_published=2800,
    common={"pleasant surprise": "surprise"},
)


def _describe(name: re.Match[str]) -> dict[str, Any]:
    word = name["emotion"].lower()
    return {
        "label": "pleasant surprise" if word == "ps" else word,
        "speaker": name["speaker"].upper().replace("OA", "OAF").replace("OAFF", "OAF"),
        "gender": "female",
        "text": f"Say the word {name['word']}.",
    }


prepare = from_names(
    FACTS,
    r"(?P<speaker>OAF|YAF|OA)_(?P<word>[a-z]+)"
    r"_(?P<emotion>angry|disgust|fear|happy|neutral|ps|sad)",
    _describe,
    example="OAF_back_angry.wav",
)
