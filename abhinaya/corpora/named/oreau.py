"""Oréau: utterances in seven emotions, by 32 speakers, in French.

`XXYYYS.wav` is speaker XX, utterance YYY, style S, such as `01a01C.wav` for colère (anger). The
names do not say genders.
"""

from __future__ import annotations

import re
from typing import Any

from abhinaya.corpora.mould import corpus_facts, from_names

__all__ = ["FACTS", "prepare"]

_LABELS = {
    "C": "anger",
    "D": "disgust",
    "J": "happiness",
    "N": "neutral",
    "P": "fear",
    "S": "surprise",
    "T": "sadness",
}

FACTS = corpus_facts(
    "oreau",
    "Oréau, French emotional speech database",
    classes=_LABELS.values(),
    licence="CC-BY-4.0",
    citation="Kerkeni, Cleder, Serrestou and Raoof, French Emotional Speech Database - Oréau, "
    "Zenodo, 2020, doi:10.5281/zenodo.4405783",
    url="https://zenodo.org/records/4405783",
    # The record and EmoBox count differently.
    n_published=None,
)


def _describe(name: re.Match[str]) -> dict[str, Any]:
    return {
        "label": _LABELS[name["emotion"].upper()],
        "speaker": name["speaker"],
        "text_code": name["text"],
    }


prepare = from_names(
    FACTS,
    rf"(?P<speaker>\d\d)(?P<text>\w{{3}})(?P<emotion>[{''.join(_LABELS)}])(?:[ _-]?\(?\d\)?)?",
    _describe,
    example="01a01C.wav",
    language="fr",
)
