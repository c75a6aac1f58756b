"""Answers with thoughts in front, and answers by the letters that a prompt gave the classes."""

from __future__ import annotations

import pytest

from abhinaya.data.labels import ABSTAIN, MSP_PODCAST
from abhinaya.prompting.answers import AnswerParser, Parsed


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("<think>angry or sad?</think> neutral", "neutral"),
        ("<THINK>\nIt is angry.\n</THINK>\n\n**Sad**", "sad"),
        ("angry, no: </think>N", "neutral"),
        ("<think>one: angry</think> hm <think>two: sad</think> fear", "fear"),
        ("<reasoning>angry</reasoning>happy", "happy"),
        ("sad <think>or angry", "sad"),
        ("<think>It must be angry, or", None),
        ("<think>angry</think>", None),
        ("I think it is sad.", "sad"),
    ],
)
def test_what_a_model_thinks_does_not_count(answer: str, expected: str | None) -> None:
    parsed = AnswerParser(MSP_PODCAST).parse(answer)
    assert (None if parsed.label == ABSTAIN else MSP_PODCAST.names[parsed.label]) == expected


@pytest.mark.parametrize(
    "asked",
    [
        "Choose: (A) neutral (B) sad (C) happy.",
        "A. Neutral\nB. Sad\nC. Happy\n{transcript}",
        "a) neutral; b) sad; c) happy",
        "A: neutral, B: sadness, C: happiness",
    ],
)
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("A", "neutral"),
        ("b", "sad"),
        ("(C)", "happy"),
        ("Answer: B", "sad"),
        ("The answer is (B).", "sad"),
        ("The answer is B", "sad"),
        ("(B) sad", "sad"),
        ("neutral", "neutral"),
        # No option of this prompt, so no code either.
        ("D", None),
        ("S", None),
    ],
)
def test_letters_mean_what_the_prompt_gave_them(
    asked: str, answer: str, expected: str | None
) -> None:
    parsed = AnswerParser(MSP_PODCAST, asked).parse(answer)
    assert (None if parsed.label == ABSTAIN else MSP_PODCAST.names[parsed.label]) == expected


def test_numbers_mean_what_the_prompt_gave_them() -> None:
    parser = AnswerParser(MSP_PODCAST, "1. angry 2. sad 10. neutral")
    assert [parser.parse(text).label for text in ("1", "2.", "10", "3")] == [0, 6, 5, ABSTAIN]


@pytest.mark.parametrize("asked", ["", "One of: angry, sad.", "Step 1: anger comes first."])
def test_letters_are_codes_where_the_prompt_gives_them_no_meaning(asked: str) -> None:
    assert AnswerParser(MSP_PODCAST, asked).parse("A") == Parsed(0)
