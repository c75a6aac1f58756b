from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abhinaya.data.labels import EmotionSet
from abhinaya.data.manifest import make_manifest
from abhinaya.errors import BadValueError
from abhinaya.prompting.examples import ExamplePool, ExamplesConfig

THREE = EmotionSet.from_codes(["A", "H", "S"], ["angry", "happy", "sad"], outside=["X"])


def pool_of(tmp_path, rows, texts, *, seed=0, **settings):
    manifest = make_manifest([{"split": "train"} | row for row in rows], THREE, tmp_path)
    return ExamplePool(manifest, texts, ExamplesConfig(**settings), seed)


def names(examples):
    return [example.utterance for example in examples]


# Six clips of each class by as many speakers, and clips that cannot be shown.
ROWS = [
    {"utterance": f"{label}{number}", "label": label, "speaker": f"s{number}"}
    for label in "AHS"
    for number in range(6)
]
UNFIT = [
    {"utterance": "none", "label": "A"},
    {"utterance": "empty", "label": "H"},
    {"utterance": "odd", "label": "X"},
    {"utterance": "bare", "label": None},
    {"utterance": "dev", "label": "A", "split": "development"},
]
TEXTS = {row["utterance"]: f"text of {row['utterance']}" for row in [*ROWS, *UNFIT]}
TEXTS |= {"none": None, "empty": "  "}


def test_balanced_examples_are_as_many_of_each_class(tmp_path):
    found = pool_of(tmp_path, ROWS + UNFIT, TEXTS, per_class=2).pick("new", "?")
    assert Counter(example.label for example in found) == {0: 2, 1: 2, 2: 2}
    assert all(example.text == f"text of {example.utterance}" for example in found)
    assert all(THREE.codes[example.label] == example.utterance[0] for example in found)


def test_balanced_examples_are_the_same_for_everybody_and_follow_the_seed(tmp_path):
    def pick(utterance, seed):
        return names(pool_of(tmp_path, ROWS, TEXTS, seed=seed).pick(utterance, "?"))

    assert pick("new", 0) == pick("other", 0)
    assert len({tuple(pick("new", seed)) for seed in range(10)}) > 5


def test_balanced_examples_do_not_depend_on_the_order_of_the_rows(tmp_path):
    shuffled = ROWS[::-1]
    ours = pool_of(tmp_path, ROWS, TEXTS, per_class=3).pick("new", "?")
    assert ours == pool_of(tmp_path, shuffled, TEXTS, per_class=3).pick("new", "?")


def test_balanced_order_mixes_the_classes(tmp_path):
    """A block of one class at the end would pull the answer towards it."""
    orders = {
        tuple(e.label for e in pool_of(tmp_path, ROWS, TEXTS, seed=seed).pick("new", "?"))
        for seed in range(30)
    }
    assert len(orders) == 6  # all orders of three classes


@pytest.mark.slow
@given(seed=st.integers(0, 10_000), number=st.integers(0, 5))
def test_own_utterance_and_own_speaker_are_never_shown(tmp_path_factory, seed, number):
    pool = pool_of(tmp_path_factory.getbasetemp(), ROWS, TEXTS, seed=seed, per_class=5)
    found = names(pool.pick(f"H{number}", "?"))
    # Five of each class are left, and all are shown.
    assert sorted(found) == sorted(
        f"{label}{other}" for label in "AHS" for other in range(6) if other != number
    )


def test_own_recording_is_never_shown_and_another_clip_takes_its_place(tmp_path):
    rows = [row | {"recording": "r" if row["utterance"] == "A0" else None} for row in ROWS]
    asked = {"utterance": "asked", "recording": "r", "split": "test"}
    for seed in range(20):
        pool = pool_of(tmp_path, [*rows, asked], TEXTS, seed=seed)
        everybody, own = names(pool.pick("new", "?")), names(pool.pick("asked", "?"))
        assert "A0" not in own
        # The other classes keep theirs.
        assert [name for name in own if name[0] != "A"] == [
            name for name in everybody if name[0] != "A"
        ]


def test_unknown_speakers_are_not_taken_for_one(tmp_path):
    rows = [{"utterance": row["utterance"], "label": row["label"]} for row in ROWS]
    pool = pool_of(tmp_path, [*rows, {"utterance": "asked", "split": "test"}], TEXTS, per_class=6)
    assert len(pool.pick("asked", "?")) == 18


# Nearest: cosines of TF-IDF. All words of one text are equally frequent here, so that the idf of a
# word decides only where texts share words of different frequency.
NEAR = {"A0": "cat dog", "A1": "cat", "H0": "bird", "H1": "fish bird", "S0": "dog", "S1": "cow"}
NEAR_ROWS = [{"utterance": name, "label": name[0], "speaker": name} for name in NEAR]


def test_nearest_of_each_class_are_shown_with_the_nearest_last(tmp_path):
    pool = pool_of(tmp_path, NEAR_ROWS, NEAR, by="tfidf")
    # "cat dog": A0 is the same text (1), S0 shares one of two words (idf equal: 0.7071), no text of
    # class H shares any (0, either may come).
    first, second, third = pool.pick("new", "dog CAT")
    assert first.utterance in ("H0", "H1")
    assert (second.utterance, third.utterance) == ("S0", "A0")
    # "fish bird": H1 is the same text, H0 shares the commoner word of the two.
    found = names(
        pool_of(tmp_path, NEAR_ROWS, NEAR, by="tfidf", per_class=2).pick("n", "fish bird")
    )
    assert found[-2:] == ["H0", "H1"]


def test_nearest_counts_words_of_one_letter(tmp_path):
    texts = NEAR | {"S1": "i"}
    for seed in range(10):
        pool = pool_of(tmp_path, NEAR_ROWS, texts, by="tfidf", seed=seed)
        assert names(pool.pick("new", "I"))[-1] == "S1"


def test_nearest_never_shows_the_asked_text_itself(tmp_path):
    pool = pool_of(tmp_path, NEAR_ROWS, NEAR, by="tfidf")
    found = names(pool.pick("A0", "cat dog"))
    assert "A0" not in found
    # A1 "cat" and S0 "dog" are equally near.
    assert set(found[1:]) == {"A1", "S0"}


@pytest.mark.parametrize("texts", [NEAR, dict.fromkeys(NEAR, "😀 !")], ids=["words", "no words"])
@pytest.mark.parametrize("asked", ["", "unheard of", "😀"])
def test_nearest_of_a_text_without_known_words_are_those_of_the_draw(tmp_path, texts, asked):
    near = pool_of(tmp_path, NEAR_ROWS, texts, by="tfidf").pick("new", asked)
    assert near == pool_of(tmp_path, NEAR_ROWS, texts).pick("new", asked)


# Refusal


def test_check_too_few_examples_raises(tmp_path):
    pool = pool_of(tmp_path, ROWS, TEXTS, per_class=6)
    pool.check(["new"])
    with pytest.raises(
        BadValueError,
        match=r"6 of each class.* of 'angry' there are 5 with a transcript of the source 'human' "
        r"in 'train' that 'H2' shares neither speaker nor recording with \(of 6 in all\).* Set fil",
    ):
        pool.check(["new", "H2"])


def test_check_no_example_at_all_raises(tmp_path):
    with pytest.raises(BadValueError, match=r"of 'angry' there are 0 with.*\(of 0 in all\)"):
        pool_of(tmp_path, UNFIT, TEXTS).check(["new"])


def test_one_selection_may_be_given_as_a_word():
    assert ExamplesConfig(select="train").select == ("train",)
