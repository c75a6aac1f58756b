"""RAVDESS, speech: two sentences in eight emotions, by 24 actors, in English.

`Actor_12/03-01-06-01-02-01-12.wav` is audio only, speech, emotion 06 (fearful), normal intensity,
second sentence, first take, actor 12; even numbers are women. The songs (02) are left out.
"""

from __future__ import annotations

import re
from typing import Any

from abhinaya.corpora.mould import corpus_facts, from_names

__all__ = ["FACTS", "prepare"]

_CLASSES = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")

FACTS = corpus_facts(
    "ravdess",
    "RAVDESS, Ryerson Audio-Visual Database of Emotional Speech and Song",
    classes=_CLASSES,
    licence="CC-BY-NC-SA-4.0",
    citation="Livingstone and Russo, The Ryerson Audio-Visual Database of Emotional Speech and "
    "Song, PLoS ONE 13(5), 2018",
    url="https://zenodo.org/records/1188976",
    n_published=1440,
)

_SENTENCES = ("Kids are talking by the door.", "Dogs are sitting by the door.")


def _describe(name: re.Match[str]) -> dict[str, Any]:
    return {
        "label": _CLASSES[int(name["emotion"]) - 1],
        "speaker": name["actor"],
        "gender": "male" if int(name["actor"]) % 2 else "female",
        "intensity": {"1": "normal", "2": "strong"}[name["intensity"]],
        "text": _SENTENCES[int(name["sentence"]) - 1],
    }


prepare = from_names(
    FACTS,
    r"03-01-0(?P<emotion>[1-8])-0(?P<intensity>[12])-0(?P<sentence>[12])-0[12]-(?P<actor>\d\d)",
    _describe,
    example="Actor_12/03-01-06-01-02-01-12.wav",
)
