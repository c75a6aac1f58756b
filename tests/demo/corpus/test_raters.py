from collections import Counter

import numpy as np
import pytest

from abhinaya.demo.corpus.raters import Rating, find_plurality, rate


@pytest.mark.parametrize(
    ("codes", "label"),
    [("A", "A"), ("AAN", "A"), ("AN", "X"), ("AASSN", "X"), ("ANSUH", "X"), ("OOANS", "O")],
)
def test_plurality_needs_a_single_winner(codes, label):
    assert find_plurality(codes) == label


@pytest.mark.parametrize(
    ("label", "emotions"), [("F", ["F"]), ("O", ["H", "S"]), ("X", ["A", "N"])]
)
def test_ratings_have_the_wanted_plurality_and_still_disagree(label, emotions):
    rng = np.random.default_rng(0)
    rated = [rate(label, emotions, 1.0, rng) for _ in range(50)]
    for ratings in rated:
        assert 5 <= len(ratings) <= 7
        assert len({rating.worker for rating in ratings}) == len(ratings)
        counts = Counter(rating.code for rating in ratings).most_common()
        if label == "X":
            assert counts[0][1] == counts[1][1]
        else:
            assert counts[0][0] == label
            assert len(counts) == 1 or counts[0][1] > counts[1][1]
    assert sum(len({rating.code for rating in ratings}) > 1 for ratings in rated) > 20


def test_attributes_follow_emotion_and_intensity():
    def mean_of(emotion, intensity):
        rng = np.random.default_rng(1)
        ratings = [r for _ in range(60) for r in rate(emotion, [emotion], intensity, rng)]
        return np.mean([(r.arousal, r.valence, r.dominance) for r in ratings], axis=0)

    angry, faint, sad, neutral = mean_of("A", 1), mean_of("A", 0), mean_of("S", 1), mean_of("N", 1)
    np.testing.assert_allclose(angry, (5.6, 2.2, 5.4), atol=0.2)
    np.testing.assert_allclose(faint, neutral, atol=0.2)
    assert angry[0] > sad[0] + 2


def test_ratings_stay_on_the_scale():
    rng = np.random.default_rng(2)
    values = [
        value
        for _ in range(40)
        for rating in rate("A", ["A"], 3.0, rng)
        for value in (rating.arousal, rating.valence, rating.dominance)
    ]
    assert min(values) == 1
    assert max(values) == 7


def test_rating_is_written_in_the_published_dialects():
    rating = Rating("WORKER00000007", "S", "Sad", ("Sad", "Depressed"), 2, 3, 4)
    assert rating.to_line() == (
        "WORKER00000007; Sad; Sad,Depressed; A:2.000000; V:3.000000; D:4.000000;"
    )
    assert rating.to_fields() == {
        "EmoClass_Major": "Sad",
        "EmoClass_Second": "Sad,Depressed",
        "EmoAct": 2.0,
        "EmoVal": 3.0,
        "EmoDom": 4.0,
    }
