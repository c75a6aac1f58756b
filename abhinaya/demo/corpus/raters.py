"""What listeners make of a clip: several ratings that disagree as ratings do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from abhinaya.data.labels import MSP_PODCAST, OTHER

__all__ = ["Rating", "find_plurality", "rate"]

_NO_AGREEMENT = "X"
_N_WORKERS = 60

# Names of the published detailed files, which are adjectives and nouns mixed.
_PRIMARY_NAMES = {
    "A": "Angry",
    "C": "Contempt",
    "D": "Disgust",
    "F": "Fear",
    "H": "Happy",
    "N": "Neutral",
    "S": "Sad",
    "U": "Surprise",
}
_OTHER_NAMES = ("Other", "Other-Thoughtful", "Other-Confused", "Other-tired")
_SECONDARY_NAMES = {
    "A": ("Frustrated", "Annoyed"),
    "C": ("Annoyed", "Disappointed"),
    "D": ("Annoyed", "Frustrated"),
    "F": ("Concerned", "Confused"),
    "H": ("Amused", "Excited"),
    "N": ("Concerned", "Other"),
    "S": ("Depressed", "Disappointed"),
    "U": ("Excited", "Confused"),
    OTHER: ("Other", "Confused"),
}
_CONFUSED_WITH = {
    "A": "DC",
    "C": "DN",
    "D": "CA",
    "F": "SU",
    "H": "UN",
    "N": "HC",
    "S": "NF",
    "U": "HF",
}

# Arousal, valence and dominance, 1..7, of a clip of full intensity.
_ATTRIBUTES = {
    "A": (5.6, 2.2, 5.4),
    "C": (3.8, 2.9, 4.8),
    "D": (4.0, 2.4, 4.4),
    "F": (5.0, 2.5, 2.7),
    "H": (5.3, 5.7, 4.8),
    "N": (3.8, 4.1, 4.2),
    "S": (2.6, 2.4, 2.8),
    "U": (5.1, 4.6, 3.9),
}


@dataclass(frozen=True)
class Rating:
    """What one worker answered about one clip.

    Args:
        worker: identifier of the worker.
        code: class of the primary emotion, or O.
        primary: the primary emotion in the worker's words.
        secondary: all emotions that the worker heard; may be empty.
        arousal: 1 (calm) to 7 (active).
        valence: 1 (negative) to 7 (positive).
        dominance: 1 (weak) to 7 (strong).
    """

    worker: str
    code: str
    primary: str
    secondary: tuple[str, ...]
    arousal: int
    valence: int
    dominance: int

    def to_line(self) -> str:
        """Return the rating as it stands in `labels.txt` and in the column `EmoDetail`."""
        return (
            f"{self.worker}; {self.primary}; {','.join(self.secondary)}; "
            f"A:{self.arousal:.6f}; V:{self.valence:.6f}; D:{self.dominance:.6f};"
        )

    def to_fields(self) -> dict[str, str | float]:
        """Return the rating as it stands in `labels_detailed.json`."""
        return {
            "EmoClass_Major": self.primary,
            "EmoClass_Second": ",".join(self.secondary),
            "EmoAct": float(self.arousal),
            "EmoVal": float(self.valence),
            "EmoDom": float(self.dominance),
        }


def find_plurality(codes: Sequence[str]) -> str:
    """Find the most frequent code, or X where several share the first place.

    Example:
        >>> find_plurality("AASNA"), find_plurality("AASSN")
        ('A', 'X')
    """
    counts = Counter(codes).most_common(2)
    is_tied = len(counts) == 2 and counts[0][1] == counts[1][1]
    return _NO_AGREEMENT if is_tied else counts[0][0]


def rate(
    label: str, emotions: Sequence[str], intensity: float, rng: np.random.Generator
) -> tuple[Rating, ...]:
    """Draw five to seven ratings whose plurality is the label.

    Args:
        label: class code, O, or X for ratings without a plurality.
        emotions: what the clip expresses; several are mixed evenly.
        intensity: how strongly; 0 is neutral.
        rng: source of all randomness.
    """
    n_raters = int(rng.choice([5, 5, 5, 6, 7]))
    probs = _vote_probs(label, emotions)
    codes: list[str] = []
    # Drawing again until the wanted label comes out keeps the rest of the disagreement natural.
    while not codes or find_plurality(codes) != label:
        codes = [str(code) for code in rng.choice(MSP_PODCAST.vote_codes, n_raters, p=probs)]
    workers = rng.choice(np.arange(1, _N_WORKERS + 1), n_raters, replace=False)
    neutral = np.array(_ATTRIBUTES["N"])
    heard = np.mean([_ATTRIBUTES[emotion] for emotion in emotions], axis=0)
    centre = neutral + intensity * (heard - neutral)
    return tuple(
        _fill_form(code, int(worker), centre, rng)
        for code, worker in zip(codes, workers, strict=True)
    )


def _vote_probs(label: str, emotions: Sequence[str]) -> list[float]:
    codes = MSP_PODCAST.vote_codes
    weights = dict.fromkeys(codes, 0.02)
    for emotion in emotions:
        weights[emotion] += 0.65 / len(emotions)
        for neighbour in _CONFUSED_WITH[emotion]:
            weights[neighbour] += 0.1 / len(emotions)
    if label == OTHER:
        weights[OTHER] += 1.0
    total = sum(weights.values())
    return [weights[code] / total for code in codes]


def _fill_form(
    code: str,
    worker: int,
    centre: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    rng: np.random.Generator,
) -> Rating:
    primary = _PRIMARY_NAMES.get(code) or str(rng.choice(_OTHER_NAMES))
    secondary = [primary.split("-")[0]]
    secondary += [name for name in _SECONDARY_NAMES[code] if rng.random() < 0.35]
    if rng.random() < 0.1:
        secondary = []  # some workers leave the field empty
    arousal, valence, dominance = np.clip(np.rint(centre + rng.normal(0, 0.8, 3)), 1, 7).astype(int)
    return Rating(
        worker=f"WORKER{worker:08d}",
        code=code,
        primary=primary,
        secondary=tuple(dict.fromkeys(secondary)),
        arousal=int(arousal),
        valence=int(valence),
        dominance=int(dominance),
    )
