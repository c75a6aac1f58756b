"""The planted speaker subspace is found and taken out; the emotions stay."""

from __future__ import annotations

import numpy as np
import pytest

from abhinaya.errors import BadValueError
from abhinaya.probing.inlp import decode_linearly, find_null_space, halve_within


def planted(seed: int = 0):
    """Five speakers in four directions of twenty, an emotion of two values in another one."""
    rng = np.random.default_rng(seed)
    speakers = np.array([f"s{k}" for k in np.arange(400) % 5])
    emotions = rng.integers(0, 2, 400)
    vectors = rng.standard_normal((400, 20))
    vectors[:, :4] += 4 * rng.standard_normal((5, 4))[np.arange(400) % 5]
    vectors[:, 10] += 5 * emotions
    return vectors, speakers, emotions


def test_fitted_speakers_end_at_chance_and_the_emotion_stays():
    vectors, speakers, emotions = planted()
    assert decode_linearly(vectors, speakers, seed=0)[0] > 0.9
    null = find_null_space(vectors, speakers, seed=0)
    assert null.is_at_chance
    accuracy, chance = decode_linearly(vectors @ null.projection, speakers, seed=0)
    assert accuracy <= null.threshold
    assert chance == pytest.approx(0.2)
    assert null.accuracies[0] > 0.9
    assert null.rank < 15
    cleaned = vectors @ null.projection
    assert decode_linearly(cleaned, emotions.astype(str), seed=0)[0] > 0.95
    # The planted directions are gone.
    assert np.abs(null.projection[:4, :4]).max() < 0.2


def test_what_is_found_is_a_projection():
    vectors, speakers, _ = planted(1)
    null = find_null_space(vectors, speakers, seed=1)
    np.testing.assert_allclose(null.projection @ null.projection, null.projection, atol=1e-10)
    np.testing.assert_allclose(null.projection, null.projection.T, atol=1e-12)
    assert np.linalg.matrix_rank(null.projection) == 20 - null.rank


def test_rounds_end_at_the_limit():
    vectors, speakers, _ = planted()
    null = find_null_space(vectors, speakers, seed=0, max_rounds=1)
    assert len(null.accuracies) == 2


def test_speakers_without_information_are_at_chance_at_once():
    rng = np.random.default_rng(0)
    null = find_null_space(rng.standard_normal((200, 3)), np.array(["a", "b"] * 100), seed=0)
    assert null.rank <= 3
    assert null.is_at_chance


def test_halves_are_seven_tenths_of_each_speaker():
    speakers = np.array(["a"] * 10 + ["b"] * 2)
    train, test = halve_within(speakers, seed=0)
    assert sorted(speakers[train]) == ["a"] * 7 + ["b"]
    assert sorted([*train, *test]) == list(range(12))


@pytest.mark.parametrize(
    ("speakers", "message"),
    [(["a", "a"], r"only where there are two.*\['a'\]"), (["a", "a", "b"], "'b' has one row")],
)
def test_too_few_speakers_or_rows_are_refused(speakers, message):
    with pytest.raises(BadValueError, match=message):
        find_null_space(np.zeros((len(speakers), 2)), np.array(speakers), seed=0)
