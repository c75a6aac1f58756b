"""Class labels from the free text that a language model answers.

What a model answers is data, never an error: where the text does not name one class, the parser
abstains and says why.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from abhinaya.data.labels import ABSTAIN, EmotionSet
from abhinaya.errors import BadValueError

__all__ = ["AnswerParser", "Parsed", "class_words"]

# One row per emotion: every word that names it. A class of an emotion set gets the row in which its
# name stands. A word stands in one row only. Words that name two emotions are left out (upset,
# distressed), and so are those that mostly mean something else (content, down, surprisingly).
_ROWS = (
    "anger angry angrily angered angrier furious furiously fury rage raging enraged irate mad "
    "madness irritated irritation irritable annoyed annoyance outraged outrage hostile hostility "
    "wrath indignant indignation infuriated resentful resentment",
    "frustration frustrated frustrating",
    "contempt contemptuous contemptuously scorn scornful scornfully disdain disdainful "
    "disdainfully derision derisive",
    "disgust disgusted disgustedly disgusting revulsion revolted repulsed repulsion repelled",
    "fear fearful fearfully afraid scared frightened fright terrified terror horrified horror "
    "panic panicked panicky dread alarmed",
    "anxiety anxious anxiously nervous nervously nervousness worried worry uneasy apprehensive "
    "apprehension",
    "happiness happy happily happier joy joyful joyfully joyous cheerful cheerfully cheery glad "
    "gladness delighted delight pleased elated elation amused amusement",
    "excitement excited excitedly enthusiastic enthusiasm thrilled",
    "neutral neutrally neutrality unemotional emotionless",
    "calm calmly calmness relaxed serene",
    "sadness sad sadly saddened sorrow sorrowful unhappy unhappily unhappiness depressed "
    "depression melancholy melancholic grief grieving gloomy gloom miserable misery mournful "
    "heartbroken despair",
    "disappointment disappointed",
    "surprise surprised astonished astonishment amazed amazement shocked shock startled stunned",
    "boredom bored boring",
)
# Where the first is no class of the set, its words count for the second.
_PART_OF = {
    "frustration": "anger",
    "anxiety": "fear",
    "excitement": "happiness",
    "calm": "neutral",
    "disappointment": "sadness",
}
_POLITE = (
    "happy to help",
    "happy to assist",
    "glad to help",
    "glad to assist",
    "i'm afraid",
    "i am afraid",
)
# Verbs with n't are told by their ending; here are those written without the apostrophe.
_NEGATIONS = frozenset(
    "not no non un never neither nor without hardly cannot than nothing none".split()
) | {f"{verb}nt" for verb in "is are was were does do did ca".split()}
_NEGATING_PAIRS = frozenset({"instead of", "opposed to", "lack of", "absence of", "free of"})
# "not only angry" affirms, and so do "no doubt angry" and "nothing but anger".
_NEGATION_ENDS = frozenset("only just merely simply doubt question but however although".split())

_WORDS = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_PARTS = re.compile(rf"{_WORDS.pattern}|[.,;:!?\n\u2013\u2014]|(?<=\s)-(?=\s)")
# Invisible: soft hyphen, characters of no width, byte-order mark.
_DROPPED = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"), "")
_APOSTROPHES = dict.fromkeys(map(ord, "\u2018\u2019\u02bc"), "'")
_MARKUP = dict.fromkeys(map(ord, '*_`~#>"\u201c\u201d'), " ")
_REPLACED = _DROPPED | _APOSTROPHES | _MARKUP

_LABEL = re.compile(
    r"\b(?:(?:label|answer|emotion)\s*(?:is\s*)?[:=]"
    r"|final\s+(?:label|answer|emotion)\s+is\b)\s*([^\n]*)"
)
# What a model thinks before it answers; some servers leave out the opening tag.
_THOUGHT = r"(?:think|thinking|thought|reasoning)"
_THOUGHT_ENDS = re.compile(rf"</{_THOUGHT}>", re.IGNORECASE)
_THOUGHT_BEGINS = re.compile(rf"<{_THOUGHT}>", re.IGNORECASE)
# "(A) neutral", "B. sad", "3: fear" in a prompt, and "(B)", "the answer is B" in an answer.
_OPTION = re.compile(r"(?<!\w)([a-z]|[0-9]{1,2})\s?[).:=\]]\s*(?=\w)")
_CHOICE = re.compile(r"\(([a-z]|[0-9]{1,2})\)|\b(?:option|choice|answer is)\s([a-z]|[0-9]{1,2})\b")
_CANNOT = r"(?:can't|cannot|can not|couldn't|could not|won't|will not|unable to|not able to)"
_TASKS = (
    "access|analy[sz]e|answer|assess|assist|classify|comply|continue|detect|determine|do|engage|"
    "fulfil|fulfill|give|hear|help|identify|infer|judge|label|listen|make|process|provide|"
    "recogni[sz]e|tell"
)
# No part of these can match far, or from many places, so that long answers take linear time.
_REFUSAL = re.compile(
    rf"\A\W*(?:(?:i'm|i am) (?:so |very )?(?:sorry|afraid)|sorry|(?:i|my) apolog\w+|unfortunately)"
    rf"\b[^.!?\n]{{0,200}}\b{_CANNOT}\b"
    rf"|\A\W*(?:i am |i'm )?(?:unable|not able) to\b"
    rf"|\b(?:i|we)(?: am|'m| are|'re)? {_CANNOT} (?:\w+ly )?(?:{_TASKS})\b"
    rf"|\bas an ai\b"
)


@dataclass(frozen=True)
class Parsed:
    """What an answer says.

    Args:
        label: class index, or `ABSTAIN`.
        reason: why the parser abstains; `None` where it does not.
    """

    label: int
    reason: str | None = None


class AnswerParser:
    """Finds the one class that an answer names.

    Upper and lower case, punctuation, markup and emoji do not matter. Counted are whole words:
    names and codes of the classes, and words that mean the same. A code of a single character
    counts only where it is all that is answered. What is negated does not count, up to the end of
    the clause. Where the answer has lines such as `Label: sad` or `Final answer: sad`, the last of
    them alone is read.

    What stands in `<think>` tags does not count.

    Args:
        emotions: the classes to choose from.
        asked: the prompt's text. Where it offers classes by letters or numbers, such as
            `(A) neutral (B) sad`, an answer means these by them, and codes of a character nothing.

    Example:
        >>> from abhinaya.data.labels import MSP_PODCAST
        >>> parser = AnswerParser(MSP_PODCAST)
        >>> parser.parse("**Not angry**, rather sorrowful.")
        Parsed(label=6, reason=None)
        >>> parser.parse("Sad or angry.").reason
        'several classes: angry, sad'
        >>> AnswerParser(MSP_PODCAST, asked="(A) neutral (B) sad").parse("A")
        Parsed(label=5, reason=None)
    """

    def __init__(self, emotions: EmotionSet, asked: str = "") -> None:
        self._emotions = emotions
        self._codes = {code: idx for idx, code in enumerate(emotions.codes)}
        self._phrases = _phrases_of(emotions)
        self._longest = max(map(len, self._phrases))
        self._options = self._read_options(_normalize(asked))
        if self._options:
            self._codes = {}
            self._phrases = {p: c for p, c in self._phrases.items() if len("".join(p)) > 1} | {
                (option,): (idx,) for option, idx in self._options.items()
            }

    def parse(self, answer: str) -> Parsed:
        """Return the class that an answer names, or why none; takes any text and never raises.

        The reasons are "empty answer", "refused", "no class named" and "several classes: ..." with
        their names. A refusal is not searched for classes: it is polite, and "I'm afraid" or "happy
        to help" are no emotions.
        """
        answer = _without_thoughts(answer)
        whole = answer.strip()
        if not whole:
            return Parsed(ABSTAIN, "empty answer")
        if whole in self._codes:
            return Parsed(self._codes[whole])
        text = _normalize(answer)
        labels = [label for label in _LABEL.findall(text) if label.strip()]
        if labels:
            text = labels[-1]
        if _REFUSAL.search(text):
            return Parsed(ABSTAIN, "refused")
        found = self._only_phrase(text) or set(self._mentions(text)) or self._choices(text)
        if not found:
            return Parsed(ABSTAIN, "no class named")
        if len(found) == 1:
            return Parsed(found.pop())
        names = ", ".join(self._emotions.names[idx] for idx in sorted(found))
        return Parsed(ABSTAIN, f"several classes: {names}")

    def _read_options(self, asked: str) -> dict[str, int]:
        """Return class indices by the letter or number that a prompt gives them; empty if none."""
        options: dict[str, int] = {}
        for match in _OPTION.finditer(asked):
            parts = _PARTS.findall(asked[match.end() : match.end() + 60])
            _, classes = self._phrase_at(parts, 0)
            if len(classes) == 1:
                options[match[1]] = classes[0]
        # One is no choice: "Step 1: anger is ...".
        return options if len(set(options.values())) > 1 else {}

    def _choices(self, text: str) -> set[int]:
        """Return classes of the options that an answer names by letter or number."""
        named = (first or second for first, second in _CHOICE.findall(text))
        return {self._options[option] for option in named if option in self._options}

    def _only_phrase(self, text: str) -> set[int]:
        """Return classes whose word is all of a text; the only place for one-letter codes."""
        return set(self._phrases.get(_words(text), ()))

    def _mentions(self, text: str) -> Iterator[int]:
        """Return class indices of all mentions that are not negated."""
        parts = _PARTS.findall(text)
        negation = ""
        at = 0
        while at < len(parts):
            n_words, classes = self._phrase_at(parts, at)
            if n_words:
                if not negation and not _is_denied(parts[at + n_words : at + n_words + 2]):
                    yield from classes
                at += n_words
                continue
            word = parts[at]
            if word in _NEGATIONS or word.endswith("n't") or _pair(parts, at) in _NEGATING_PAIRS:
                negation = word
            elif word == "," and (negation == "neither" or parts[at + 1 : at + 2] == ["or"]):
                pass  # "neither angry, sad nor happy", "not angry, or sad"
            elif word in _NEGATION_ENDS or not word[0].isalnum():
                negation = ""
            at += 1

    def _phrase_at(self, parts: list[str], at: int) -> tuple[int, tuple[int, ...]]:
        """Return length and classes of the longest phrase that begins at a place; 0 for none."""
        for n_words in range(min(self._longest, len(parts) - at), 0, -1):
            phrase = tuple(parts[at : at + n_words])
            if phrase in self._phrases and len("".join(phrase)) > 1:
                return n_words, self._phrases[phrase]
        return 0, ()


def class_words(emotions: EmotionSet) -> tuple[str, ...]:
    """Return one lower-case word per class, in class order, for prompts that list the classes.

    They are the names of the classes. Answered alone, each is parsed as its class.

    Raises:
        BadValueError: if a name cannot be told from another class's name or code.

    Example:
        >>> from abhinaya.data.labels import MSP_PODCAST
        >>> ", ".join(class_words(MSP_PODCAST))
        'angry, contempt, disgust, fear, happy, neutral, sad, surprise'
    """
    parser = AnswerParser(emotions)
    words = tuple(" ".join(_words(name)) for name in map(_normalize, emotions.names))
    for idx, word in enumerate(words):
        if parser.parse(word).label != idx:
            raise BadValueError(
                f"The class {emotions.codes[idx]!r} has the name {emotions.names[idx]!r}, which an "
                "answer cannot be told by. Give each class a name of its own, made of letters."
            )
    return words


def _phrases_of(emotions: EmotionSet) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Return class indices by phrase; names and codes of the set come before synonyms."""
    own: dict[tuple[str, ...], list[int]] = {}
    for idx, pair in enumerate(zip(emotions.codes, emotions.names, strict=True)):
        for phrase in dict.fromkeys(_words(_normalize(text)) for text in pair):
            own.setdefault(phrase, []).append(idx)
    rows = {words[0]: words for words in map(str.split, _ROWS)}
    row_of = {word: key for key, words in rows.items() for word in words}
    classes_of: dict[str, set[int]] = {}
    for phrase, indices in own.items():
        key = row_of.get(" ".join(phrase), "")
        classes_of.setdefault(key, set()).update(indices)
    phrases: dict[tuple[str, ...], tuple[int, ...]] = {_words(text): () for text in _POLITE}
    for key, words in rows.items():
        classes = classes_of.get(key) or (key in _PART_OF and classes_of.get(_PART_OF[key]))
        if classes:
            phrases |= {(word,): tuple(classes) for word in words}
    phrases |= {phrase: tuple(indices) for phrase, indices in own.items()}
    phrases.pop((), None)  # a code without any letter; it counts where it is the whole answer
    return phrases


def _without_thoughts(answer: str) -> str:
    """Return what is said behind the last thought; nothing where a thought never ends."""
    last = _THOUGHT_ENDS.split(answer)[-1]
    begun = _THOUGHT_BEGINS.search(last)
    return last[: begun.start()] if begun else last


def _normalize(text: str) -> str:
    """Lower case, one form for each letter, without invisible characters and markup."""
    text = unicodedata.normalize("NFKC", text).translate(_REPLACED)
    return unicodedata.normalize("NFKC", text.casefold())


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORDS.findall(text))


def _pair(parts: list[str], at: int) -> str:
    return " ".join(parts[at : at + 2])


def _is_denied(behind: Sequence[str]) -> bool:
    """Tell whether a mention is denied by the two words behind it, as in "anger is not"."""
    words = list(behind)
    if words and words[0].endswith("n't"):
        return True
    return words[:1] in (["is"], ["was"], ["are"]) and words[1:] in (["not"], ["absent"])
