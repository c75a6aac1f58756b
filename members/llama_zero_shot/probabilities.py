"""Class probabilities out of the log-probabilities of an answer's tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["MIN_SHARE", "Place", "find_probs"]

MIN_SHARE = 0.9
"""Share of the probability that must be known to belong to one class each; else there are none."""


@dataclass(frozen=True)
class Place:
    """One token of an answer.

    Args:
        token: its text.
        logprobs: log-probability by text of the likeliest tokens in its place, its own among them.
    """

    token: str
    logprobs: Mapping[str, float]


def find_probs(places: Sequence[Place], words: Sequence[str]) -> tuple[float, ...] | None:
    """Return the probability of each class word, shape (K,); None where it cannot be told.

    A token belongs to the class whose word it begins. Where it begins several (the "s" of sad and
    surprise) and is the one that was answered, the next place tells how its probability is
    divided; where it is another, nobody knows, and each gets the same. What is not known to belong
    to one class may be at most 1 - `MIN_SHARE`; all is scaled to sum to one. Upper case and blanks
    before the answer do not matter.

    Args:
        places: the tokens of an answer that begins with a class word, in order.
        words: one lower-case word per class.

    Example:
        Of the half that goes to "s", 3/5 is sad and 2/5 surprise.

        >>> log = math.log
        >>> first = Place("s", {"s": log(0.5), "fear": log(0.5)})
        >>> second = Place("ad", {"ad": log(0.6), "urprise": log(0.4)})
        >>> probs = find_probs([first, second], ["fear", "sad", "surprise"])
        >>> [round(value, 3) for value in probs]
        [0.5, 0.3, 0.2]
    """
    mass, shared = [0.0] * len(words), [0.0] * len(words)
    begun, reach = "", 1.0  # what was answered up to here, and how likely that was
    for place in places:
        go_on = False
        for token, logprob in place.logprobs.items():
            prob = reach * math.exp(logprob)
            fitting = _begin_with(begun + token, words)
            if len(fitting) == 1:
                mass[fitting[0]] += prob
            elif fitting and token == place.token:
                go_on = True
            else:
                for idx in fitting:
                    shared[idx] += prob / len(fitting)
        if not go_on:
            break
        begun, reach = begun + place.token, reach * math.exp(place.logprobs[place.token])
    if sum(mass) < MIN_SHARE:
        return None
    total = sum(mass) + sum(shared)
    return tuple((own + part) / total for own, part in zip(mass, shared, strict=True))


def _begin_with(text: str, words: Sequence[str]) -> list[int]:
    """Return classes whose word begins with a text, or whose word, finished, is its beginning."""
    text = text.lstrip().casefold()
    return [
        idx
        for idx, word in enumerate(words)
        if word.startswith(text) or (text.startswith(word) and not text[len(word)].isalnum())
    ]
