"""SAVEE: British English sentences in seven emotions, by four men.

`AudioData/DC/sa01.wav`, or `DC_sa01.wav` in the flat copy: speaker DC, sadness, sentence 01.
"""

from __future__ import annotations

import re
from typing import Any

from abhinaya.corpora.mould import corpus_facts, from_names

__all__ = ["FACTS", "prepare"]

_LABELS = {
    "a": "anger",
    "d": "disgust",
    "f": "fear",
    "h": "happiness",
    "n": "neutral",
    "sa": "sadness",
    "su": "surprise",
}

FACTS = corpus_facts(
    "savee",
    "SAVEE, Surrey Audio-Visual Expressed Emotion",
    classes=_LABELS.values(),
    licence="research use only, upon registration",
    citation="Haq and Jackson, Multimodal Emotion Recognition, in Machine Audition, IGI Global, "
    "2010",
    url="http://kahlan.eps.surrey.ac.uk/savee/",
    n_published=480,
)


def _describe(name: re.Match[str]) -> dict[str, Any]:
    return {
        "label": _LABELS[name["emotion"].lower()],
        "speaker": name["speaker"].upper(),
        "gender": "male",
    }


prepare = from_names(
    FACTS,
    r"(?P<speaker>DC|JE|JK|KL)[/_](?P<emotion>sa|su|a|d|f|h|n)\d\d",
    _describe,
    example="AudioData/DC/sa01.wav",
)
