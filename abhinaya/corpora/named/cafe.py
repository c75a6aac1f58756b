"""CaFE: six sentences in six emotions of two intensities and neutral, by twelve actors.

`Peur/Fort/08-P-2-1.wav` is actor 08, peur (fear), strong, sentence 1; even numbers are women. In
Canadian French. It comes with 48 and 192 kHz; both together are each clip twice.
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
_SENTENCES = {
    "1": "Un cheval fou dans mon jardin",
    "2": "Deux ânes aigris au pelage brun",
    "3": "Trois cygnes aveugles au bord du lac",
    "4": "Quatre vieilles truies éléphantesques",
    "5": "Cinq pumas fiers et passionnés",
    "6": "Six ours aimants domestiqués",
}

FACTS = corpus_facts(
    "cafe",
    "CaFE, Canadian French Emotional speech dataset",
    classes=_LABELS.values(),
    licence="CC-BY-NC-SA-4.0",
    citation="Gournay, Lahaie and Lefebvre, A Canadian French Emotional Speech Dataset, ACM MMSys "
    "2018",
    url="https://zenodo.org/records/1478765",
    n_published=936,
)


def _describe(name: re.Match[str]) -> dict[str, Any]:
    label = _LABELS[name["emotion"].upper()]
    intensity = {"1": "weak", "2": "strong"}[name["intensity"]]
    return {
        "label": label,
        "speaker": name["actor"],
        "gender": "male" if int(name["actor"]) % 2 else "female",
        "intensity": None if label == "neutral" else intensity,
        "text": _SENTENCES[name["sentence"]],
    }


prepare = from_names(
    FACTS,
    r"(?P<actor>0[1-9]|1[0-2])-(?P<emotion>[CDJNPST])-(?P<intensity>[12])-(?P<sentence>[1-6])",
    _describe,
    example="Peur/Fort/08-P-2-1.wav",
    language="fr",
)
