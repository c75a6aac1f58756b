"""Class probabilities from those of tokens, worked out by hand."""

from __future__ import annotations

from math import log

import pytest

from members.llama_zero_shot.probabilities import Place, find_probs

WORDS = ("fear", "sad", "surprise")


def place(token: str, **probs: float) -> Place:
    return Place(token, {name: log(prob) for name, prob in probs.items()})


def test_first_tokens_of_one_class_each_are_its_probability():
    # The last token of the answer needs no look.
    probs = find_probs([place("fe", fe=0.5, sad=0.3, sur=0.2), place("ar", ar=1.0)], WORDS)
    assert probs == pytest.approx((0.5, 0.3, 0.2))


def test_all_ways_to_begin_a_word_count_for_its_class():
    # f, fe and fear: .1 + .2 + .3; sa and sad: .1 + .2.
    probs = find_probs([place("fear", f=0.1, fe=0.2, fear=0.3, sa=0.1, sad=0.2, su=0.1)], WORDS)
    assert probs == pytest.approx((0.6, 0.3, 0.1))


def test_beginning_of_two_classes_is_divided_where_it_was_answered():
    # .8 go to "s": a quarter of it to sad, three quarters to surprise.
    answer = [place("s", s=0.8, fear=0.2), place("urp", ad=0.25, urp=0.5, ur=0.25)]
    assert find_probs(answer, WORDS) == pytest.approx((0.2, 0.2, 0.6))


def test_beginning_of_two_classes_that_was_not_answered_is_halved():
    # sad .2 + .08 / 2, surprise .22 + .08 / 2.
    answer = [place("fear", fear=0.5, s=0.08, sad=0.2, sur=0.22)]
    assert find_probs(answer, WORDS) == pytest.approx((0.5, 0.24, 0.26))
    # The server told only .96 of the whole: .48, .24 and .24 are scaled.
    answer = [place("fear", fear=0.48, s=0.04, sad=0.22, sur=0.22)]
    assert find_probs(answer, WORDS) == pytest.approx((0.5, 0.25, 0.25))


@pytest.mark.parametrize(
    "answer",
    [
        [place("fear", fear=0.6, s=0.2, sad=0.2)],  # .2 unknown
        [place("fear", fear=0.85)],  # the server told too few tokens
        [place("The", The=0.9, fear=0.1), place("emotion", emotion=1.0)],
        [],
    ],
)
def test_too_much_that_is_unknown_gives_none(answer):
    assert find_probs(answer, WORDS) is None


def test_word_that_begins_another_is_told_by_its_end():
    words = ("sad", "sadness")
    answer = [place("sad", sad=1.0), Place("<end>", {"<end>": log(0.7), "ness": log(0.3)})]
    assert find_probs(answer, words) == pytest.approx((0.7, 0.3))


def test_upper_case_blanks_and_marks_do_not_matter():
    answer = [Place(" Sad", {" Sad": log(0.5), "Fear.": log(0.3), "\nsurprise": log(0.2)})]
    assert find_probs(answer, WORDS) == pytest.approx((0.3, 0.5, 0.2))


def test_other_words_with_the_same_beginning_are_no_class():
    answer = [Place("sad", {"sad": log(0.95), "saddle": log(0.05)})]
    assert find_probs(answer, WORDS) == pytest.approx((0, 1, 0))


def test_token_without_any_letters_is_looked_behind():
    answer = [Place("\n", {"\n": log(1.0)}), place("sad", sad=0.9, fear=0.1)]
    assert find_probs(answer, WORDS) == pytest.approx((0.1, 0.9, 0))


def test_probability_of_zero_is_none():
    # What the grammar forbids comes as a very small number.
    answer = [Place("sad", {"sad": 0.0, "The": -9999.0, "fear": -9999.0})]
    assert find_probs(answer, WORDS) == (0, 1, 0)
