"""What is said: short English sentences whose wording leans towards an emotion without naming it.

A sentence is an opener and a clause. The wording usually fits the emotion, but some sentences are
plain and some have borrowed the words of another emotion, as in real talk.
"""

from __future__ import annotations

import numpy as np

__all__ = ["make_sentence"]

_PLAIN_SHARE = 0.2
_BORROWED_SHARE = 0.08

_SLOTS = {
    "person": (
        "my brother",
        "the manager",
        "our neighbour",
        "that guest",
        "my friend",
        "the teacher",
    ),
    "thing": ("the show", "this plan", "the game", "that letter", "the dinner", "our trip"),
    "time": ("today", "last night", "this week", "on Monday", "again"),
}

_PLAIN = (
    ("so", "well", "okay", "and then"),
    (
        "we talked about {thing} {time}",
        "{person} called me {time}",
        "it starts at seven {time}",
        "I read the report {time}",
        "they moved {thing} {time}",
    ),
)

_WORDING = {
    "A": (
        ("stop it", "enough", "no way", "listen to me"),
        (
            "{person} lied to me {time}",
            "I am sick of {thing}",
            "you ruined {thing} {time}",
            "how dare they shout at me",
            "this is your fault {time}",
        ),
    ),
    "C": (
        ("oh please", "how typical", "as if", "right"),
        (
            "{person} thinks he is clever",
            "what a pathetic excuse {time}",
            "they could never manage {thing}",
            "I expected nothing better {time}",
            "such an amateur ran {thing}",
        ),
    ),
    "D": (
        ("ugh", "yuck", "gross", "oh no thanks"),
        (
            "{thing} smelled rotten {time}",
            "there was mould on the plates",
            "it makes me want to vomit",
            "{person} spat on the floor",
            "the kitchen was filthy {time}",
        ),
    ),
    "F": (
        ("please", "oh god", "wait", "be quiet"),
        (
            "someone is following me {time}",
            "I heard steps in the dark",
            "{person} could get hurt {time}",
            "do not leave me alone here",
            "my hands are shaking {time}",
        ),
    ),
    "H": (
        ("yes", "great", "hooray", "I love it"),
        (
            "we won {thing} {time}",
            "{person} made me laugh {time}",
            "{thing} was wonderful",
            "it is the best day ever",
            "we danced and sang {time}",
        ),
    ),
    "N": (
        ("so", "basically", "in general", "as I said"),
        (
            "the meeting is at noon {time}",
            "{person} works in an office",
            "there are three parts in {thing}",
            "you can find {thing} online",
            "the number is on the page",
        ),
    ),
    "S": (
        ("I miss her", "it hurts", "sigh", "I am sorry"),
        (
            "{person} passed away {time}",
            "I cried about {thing}",
            "nothing will bring him back",
            "we lost the house {time}",
            "she never said goodbye {time}",
        ),
    ),
    "U": (
        ("what", "wow", "oh my", "really"),
        (
            "I did not see that coming",
            "{person} showed up {time}",
            "are you serious about {thing}",
            "who would have guessed {time}",
            "{thing} was out of nowhere",
        ),
    ),
}


def make_sentence(emotion: str, rng: np.random.Generator) -> str:
    """Make a sentence of some four to nine words for a class of MSP-Podcast.

    Args:
        emotion: class code, A to U.
        rng: source of all randomness.
    """
    draw = rng.random()
    if draw < _PLAIN_SHARE:
        openers, clauses = _PLAIN
    elif draw < _PLAIN_SHARE + _BORROWED_SHARE:
        openers, clauses = _WORDING[_pick(tuple(_WORDING), rng)]
    else:
        openers, clauses = _WORDING[emotion]
    clause = _pick(clauses, rng).format(**{name: _pick(fill, rng) for name, fill in _SLOTS.items()})
    mark = "?" if emotion == "U" and rng.random() < 0.5 else "."
    return f"{_pick(openers, rng).capitalize()}, {clause}{mark}"


def _pick(choices: tuple[str, ...], rng: np.random.Generator) -> str:
    return choices[rng.integers(len(choices))]
