from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from abhinaya.data.labels import ABSTAIN
from abhinaya.errors import BadValueError
from ensembling.speakers.rows import (
    ABSTAINED,
    ADAPTED,
    ALONE,
    NO_SPEAKER,
    NO_VECTOR,
    Head,
    SpeakerRows,
)
from ensembling.speakers.standardize import (
    standardize_columns,
    standardize_rows,
    standardize_speakers,
)
from ensembling.voting.soft_votes import softmax


def make_rows(embeddings, speakers, head):
    embeddings = np.array(embeddings, dtype=float)
    probs = softmax(head.logits(embeddings))
    return SpeakerRows(
        name="m",
        utterances=tuple(f"u{idx}" for idx in range(len(embeddings))),
        speakers=tuple(speakers),
        labels=probs.argmax(axis=1),
        n_classes=probs.shape[1],
        probs=probs,
        embeddings=embeddings,
        head=head,
    )


# Logits 0 and x: class 1 where the one number is positive.
SIGN = Head(np.array([[0.0], [1.0]]), np.zeros(2))


@pytest.mark.parametrize("n_rows", [1, 2, 9, 50])
def test_standardize_columns_is_a_standard_scaler_to_the_bit(n_rows):
    vectors = np.random.default_rng(n_rows).normal(3, 5, size=(n_rows, 40))
    vectors[:, 7] = 0.1  # of which rounding makes a spread of 1e-17
    vectors[:, 8] *= 1e-30
    theirs = StandardScaler().fit_transform(vectors)
    np.testing.assert_array_equal(standardize_columns(vectors), theirs)


def test_standardize_speakers_by_hand():
    # 2 4 6: mean 4, sd sqrt(8 / 3); the whole: mean 1, sd 2 -> (x - 4) / 1.633 * 2 + 1
    (moved,) = standardize_speakers(
        [np.array([[2.0], [4.0], [6.0]])], np.array([1.0]), np.array([2.0])
    )
    np.testing.assert_allclose(moved.ravel(), [1 - 2.449490, 1, 1 + 2.449490], atol=1e-6)


def test_standardize_speakers_shrinks_towards_the_whole_by_hand():
    # n = 2, shrinkage 2: w = .5. Own mean 6, own variance 4; the whole has mean 2 and sd 4.
    # mean_s = .5 * 6 + .5 * 2 = 4; std_s = sqrt(.5 * 4 + .5 * 16) = sqrt(10)
    # 4 -> 2; 8 -> 4 / 3.162278 * 4 + 2 = 7.059644
    (moved,) = standardize_speakers(
        [np.array([[4.0], [8.0]])], np.array([2.0]), np.array([4.0]), shrinkage=2.0
    )
    np.testing.assert_allclose(moved.ravel(), [2, 7.059644], atol=1e-6)


def test_standardize_speakers_without_shrinkage_is_a_standard_scaler_per_speaker():
    rng = np.random.default_rng(0)
    whole = rng.normal(3, 2, size=(20, 5))
    target = StandardScaler().fit(whole)
    ours = standardize_speakers([whole[:8], whole[8:]], whole.mean(axis=0), whole.std(axis=0))
    for part, mine in zip((whole[:8], whole[8:]), ours, strict=True):
        theirs = target.inverse_transform(StandardScaler().fit_transform(part))
        np.testing.assert_allclose(mine, theirs, rtol=1e-10)


def test_standardize_speakers_dimension_without_spread_only_moves():
    (moved,) = standardize_speakers(
        [np.full((3, 1), 0.1)], np.array([5.0]), np.array([2.0]), shrinkage=0.0
    )
    np.testing.assert_allclose(moved, np.full((3, 1), 5.0))


def test_standardize_rows_removes_what_a_voice_adds():
    # Two speakers with the same four emotions, one 10 higher: the head hears class 1 throughout.
    rows = make_rows([[9], [11], [8], [12], [-1], [1], [-2], [2]], "qqqqpppp", SIGN)
    assert rows.labels.tolist() == [1, 1, 1, 1, 0, 1, 0, 1]
    # Centred on the whole's mean, 5, everything is class 1, so the head's threshold moves there.
    head = Head(SIGN.weight, np.array([0.0, -5.0]))
    rows = make_rows(rows.embeddings, rows.speakers, head)
    assert rows.labels.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    result = standardize_rows(rows, shrinkage=0.0)
    assert result.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    # p: mean 0, variance (1 + 1 + 4 + 4) / 4 = 2.5. Whole: variance 2.5 + 25, so sd 5.244.
    # -1 -> -1 / 1.5811 * 5.2440 + 5 = 1.6834; minus 5: logit -3.3166
    np.testing.assert_allclose(result.probs[4, 1], 1 / (1 + np.exp(3.316625)), rtol=1e-5)


def test_standardize_rows_keeps_what_cannot_be_adapted():
    rows = make_rows([[1], [3], [5], [np.nan], [7], [-9]], ["p", "p", "p", "p", None, "q"], SIGN)
    labels = np.array([1, ABSTAIN, 1, 0, 1, 0])
    rows = replace(rows, labels=labels)
    result = standardize_rows(rows)
    assert result.status == (ADAPTED, ABSTAINED, ADAPTED, NO_VECTOR, NO_SPEAKER, ALONE)
    assert result.labels[[1, 3, 4, 5]].tolist() == [ABSTAIN, 0, 1, 0]
    np.testing.assert_array_equal(result.probs[[1, 4, 5]], rows.probs[[1, 4, 5]])
    assert set(standardize_rows(rows, min_utts=3).status) == {
        ABSTAINED,
        NO_VECTOR,
        NO_SPEAKER,
        ALONE,
    }


def test_standardize_rows_does_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(1)
    head = Head(rng.normal(size=(3, 6)), np.zeros(3))
    rows = make_rows(rng.normal(size=(30, 6)), [f"s{i % 4}" for i in range(30)], head)
    order = rng.permutation(30)
    whole, shuffled = standardize_rows(rows), standardize_rows(rows.take(order))
    np.testing.assert_array_equal(shuffled.probs, whole.probs[order])


def test_standardize_rows_wrong_input_raises():
    rows = make_rows([[1], [3]], "pp", SIGN)
    cases = [
        (replace(rows, head=None), {}, "without the last layer of a head, which standardising"),
        (replace(rows, embeddings=None), {}, "no embeddings, which standardising per speaker"),
        (replace(rows, has_own_embeddings=False), {}, "another table's embeddings, whose head"),
        (replace(rows, speakers=(None, None)), {}, "No speaker is known of the 2"),
        (rows, {"shrinkage": -1.0}, "shrinkage is -1.0, expected 0 or more"),
        (rows, {"shrinkage": float("nan")}, "shrinkage is nan"),
        (rows, {"min_utts": 0}, "min_utts is 0, expected at least 2"),
    ]
    for wrong, options, match in cases:
        with pytest.raises(BadValueError, match=match):
            standardize_rows(wrong, **options)
