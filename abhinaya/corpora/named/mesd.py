"""MESD: single words in six emotions, by women, men and children, in Mexican Spanish.

`Anger_F_A_abajo.wav` is anger, a woman, word list A, "abajo". The names do not say which of the
voices speaks, so that every speaker is unknown; children (C) have no gender either.
"""

from __future__ import annotations

import re
from typing import Any

from abhinaya.corpora.mould import corpus_facts, from_names

__all__ = ["FACTS", "prepare"]

_CLASSES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness")

FACTS = corpus_facts(
    "mesd",
    "MESD, Mexican Emotional Speech Database",
    classes=_CLASSES,
    licence="CC-BY-4.0",
    citation="Duville, Alonso-Valerdi and Ibarra-Zarate, Mexican Emotional Speech Database (MESD), "
    "Mendeley Data V5, 2022, doi:10.17632/cy34mh68j9.5",
    url="https://data.mendeley.com/datasets/cy34mh68j9/5",
    n_published=862,
)


def _describe(name: re.Match[str]) -> dict[str, Any]:
    voice = name["voice"].upper()
    return {
        "label": name["emotion"].lower(),
        "speaker": None,
        "gender": {"F": "female", "M": "male"}.get(voice),
        "voice": {"F": "woman", "M": "man", "C": "child"}[voice],
        "text": name["word"].replace("_", " "),
    }


prepare = from_names(
    FACTS,
    rf"(?P<emotion>{'|'.join(_CLASSES)})_(?P<voice>[FMC])_[AB]_(?P<word>[^/]+)",
    _describe,
    example="Anger_F_A_abajo.wav",
    language="es",
)
