from __future__ import annotations

import sys

import jiwer
import numpy as np
import pytest

from abhinaya.asr.wer import count_word_errors, load_normalizer, score_transcripts
from abhinaya.errors import BadShapeError, BadValueError, MissingPackageError

# Reference, hypothesis, and by hand: substitutions, deletions, insertions, words.
PAIRS = [
    ("i never said that", "i never said that", [0, 0, 0, 4]),
    ("i never said that", "i ever said", [1, 1, 0, 4]),
    ("well", "oh well then", [0, 0, 2, 1]),
    ("so what now", "", [0, 3, 0, 3]),
    ("", "thanks for watching", [0, 0, 3, 0]),
    ("", "", [0, 0, 0, 0]),
    ("a b c d e f", "a x c e f g h", [1, 1, 2, 6]),
]


def test_counts_of_hand_made_pairs():
    references, hypotheses, expected = zip(*PAIRS, strict=True)
    assert count_word_errors(references, hypotheses).tolist() == list(expected)


@pytest.mark.parity
def test_counts_sum_to_those_of_jiwer():
    references, hypotheses, _ = zip(*PAIRS, strict=True)
    theirs = jiwer.process_words(list(references), list(hypotheses))
    ours = count_word_errors(references, hypotheses).sum(axis=0)
    assert ours[:3].tolist() == [theirs.substitutions, theirs.deletions, theirs.insertions]
    assert ours[:3].sum() / ours[3] == theirs.wer
    for reference, hypothesis, _ in PAIRS[:4]:
        [[*errors, n_words]] = count_word_errors([reference], [hypothesis]).tolist()
        assert sum(errors) / n_words == jiwer.wer(reference, hypothesis)


def test_no_utterances_have_no_counts():
    assert count_word_errors([], []).shape == (0, 4)


def test_different_numbers_of_texts_raise():
    with pytest.raises(BadShapeError, match="2 references and 1 hypotheses"):
        count_word_errors(["a", "b"], ["a"])


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "Well, I'm NOT colour-blind [laughter]!", "well i am not color blind"),
        ("en", "Mr. Smith paid twenty five dollars", "mister smith paid $25"),
        ("de", "Am Mittwoch: der Lappen!", "am mittwoch der lappen"),
        ("de", "zwanzig (lacht) Äpfel", "zwanzig äpfel"),
        (None, "I'm here", "i m here"),
        ("zh", "你好。", "你 好"),
    ],
)
def test_texts_are_normalized_as_in_whispers_evaluation(language, text, expected):
    assert load_normalizer(language)(text).split() == expected.split()


REFERENCES = {"a": "Never mind.", "b": "I won't go!", "c": "", "d": "so", "e": None, "f": "what"}
HYPOTHESES = {"a": "never mind", "b": "I will not stay", "c": "you", "e": "um", "f": None}
LANGUAGES = dict.fromkeys("abcdefg", "en")


def test_score_counts_by_hand():
    # a: right, 2 words. b: "i will not go" / "i will not stay", 1 of 4. c: 1 insertion, no words.
    result = score_transcripts(REFERENCES, HYPOTHESES, LANGUAGES, n_resamples=200)
    assert list(result) == ["all"]
    errors = result["all"]
    assert (errors.n_utts, errors.n_words) == (3, 6)
    assert (errors.n_substitutions, errors.n_deletions, errors.n_insertions) == (1, 0, 1)
    assert errors.wer == 2 / 6
    # d and f have a reference but no text; e has a text but no reference; g has neither.
    assert (errors.n_without_reference, errors.n_not_transcribed) == (1, 2)
    low, high = errors.interval
    assert 0 <= low < 2 / 6 < high


def test_score_per_group_adds_up():
    groups = {"a": "train", "b": "dev", "c": "train", "d": "dev", "e": "dev", "f": "x", "g": "x"}
    result = score_transcripts(REFERENCES, HYPOTHESES, LANGUAGES, groups, n_resamples=50)
    assert list(result) == ["train", "dev", "x"]
    train, dev, without = result.values()
    assert (train.wer, dev.wer) == (1 / 2, 1 / 4)
    assert (dev.n_without_reference, dev.n_not_transcribed) == (1, 1)
    assert (without.n_utts, without.wer, without.interval, without.n_not_transcribed) == (
        0,
        None,
        None,
        1,
    )


def test_interval_is_that_of_drawing_utterances_one_by_one():
    rng = np.random.default_rng(0)
    n_utts = 60
    words = rng.integers(1, 9, n_utts)
    wrong = rng.binomial(words, 0.3)
    names = [str(number) for number in range(n_utts)]
    references = {
        name: " ".join(["yes"] * n) for name, n in zip(names, words.tolist(), strict=True)
    }
    hypotheses = {
        name: " ".join(["so"] * bad + ["yes"] * (n - bad))
        for name, n, bad in zip(names, words.tolist(), wrong.tolist(), strict=True)
    }
    result = score_transcripts(references, hypotheses, dict.fromkeys(names, "en"))["all"]
    drawn = rng.integers(n_utts, size=(20_000, n_utts))
    rates = wrong[drawn].sum(axis=1) / words[drawn].sum(axis=1)
    expected = np.quantile(rates, [0.025, 0.975])
    assert result.wer == wrong.sum() / words.sum()
    np.testing.assert_allclose(result.interval, expected, atol=0.006)
    # The same seed gives the same interval.
    again = score_transcripts(references, hypotheses, dict.fromkeys(names, "en"))["all"]
    assert again == result


def test_resamples_without_a_word_are_left_out_of_the_interval():
    # A third of the utterances has the only word, so (2/3)^3 of the resamples have none.
    texts = {"a": "so", "b": "", "c": ""}
    result = score_transcripts(texts, {**texts, "c": "you"}, dict.fromkeys("abc", "en"))["all"]
    assert result.wer == 1.0
    # "a" once and "c" twice: 2 errors for 1 word; "a" alone: none.
    assert result.interval == (0.0, 2.0)


def test_nothing_in_common_raises_with_both_counts():
    with pytest.raises(BadValueError, match=r"None of the 2 utterances .* 1 have a .* and 1 were"):
        score_transcripts({"a": "x"}, {"b": "y"}, {"a": "en", "b": "en"})


def test_no_resamples_raise():
    with pytest.raises(BadValueError, match="n_resamples is 0"):
        score_transcripts({"a": "x"}, {"a": "y"}, {"a": "en"}, n_resamples=0)


@pytest.mark.parametrize(
    ("package", "call", "purpose"),
    [
        ("jiwer", lambda: count_word_errors(["a"], ["a"]), "The word error rate needs"),
        ("whisper.normalizers", lambda: load_normalizer("en"), "Normalising transcripts needs"),
    ],
)
def test_missing_package_names_the_extra(monkeypatch, package, call, purpose):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"{purpose}.*abhinaya\[asr\]"):
        call()
