from __future__ import annotations

import numpy as np
import pytest

from abhinaya.errors import BadShapeError, BadValueError
from ensembling.speakers.pseudo_tests import draw_pseudo_test


def development(rng, n_speakers=150, shares=(0.55, 0.25, 0.15, 0.05)):
    """Labels and speakers of an unbalanced split: 10 to 80 clips each, moods of their own."""
    truth, speakers = [], []
    for idx in range(n_speakers):
        n_clips = int(rng.integers(10, 80))
        mood = rng.dirichlet(np.array(shares) * 5)
        truth += rng.choice(len(shares), n_clips, p=mood).tolist()
        speakers += [f"s{idx}"] * n_clips
    return np.array(truth), speakers


def test_pseudo_test_is_balanced_and_has_the_clips_per_speaker_asked_for():
    truth, speakers = development(np.random.default_rng(0))
    for seed, wanted in enumerate((12.5, 12.5, 6.0)):
        test = draw_pseudo_test(truth, speakers, clips_per_speaker=wanted, seed=seed)
        counts = np.bincount(truth[test.indices], minlength=4)
        assert len(set(counts.tolist())) == 1
        assert counts[0] >= 100
        names = [speakers[idx] for idx in test.indices]
        assert test.n_speakers == len(set(names))
        assert test.clips_per_speaker == len(names) / len(set(names))
        assert test.clips_per_speaker == pytest.approx(wanted, rel=0.1)


def test_pseudo_test_rare_classes_do_not_keep_speakers_small():
    # Rare clips keep bringing in speakers before the others are full; with rooms for 12.5 clips
    # each, as asked, the mean is 10.8.
    truth, speakers = development(np.random.default_rng(5), 400, (0.7, 0.2, 0.06, 0.04))
    test = draw_pseudo_test(truth, speakers)
    assert test.clips_per_speaker == pytest.approx(12.5, rel=0.06)


def test_pseudo_test_draws_each_row_at_most_once_and_other_rows_with_another_seed():
    truth, speakers = development(np.random.default_rng(1), n_speakers=40)
    first, again = (draw_pseudo_test(truth, speakers, seed=3) for _ in range(2))
    assert (np.diff(first.indices) > 0).all()
    assert first.indices.tolist() == again.indices.tolist()
    other = draw_pseudo_test(truth, speakers, seed=4)
    assert other.indices.tolist() != first.indices.tolist()


def test_pseudo_test_leaves_out_unknown_speakers_and_classes_that_do_not_occur():
    truth = np.array([0, 2] * 20 + [1] * 5)
    speakers = ["p", "p", "q", "q"] * 10 + [None] * 5
    test = draw_pseudo_test(truth, speakers, clips_per_speaker=8)
    # Class 1 is only spoken by nobody known.
    assert set(truth[test.indices].tolist()) == {0, 2}
    assert all(speakers[idx] is not None for idx in test.indices)


def test_pseudo_test_rows_that_cannot_give_more_give_what_they_have():
    # Eight clips of two speakers, four of each class: there are no 12.5 per speaker.
    truth = np.array([0, 1] * 4)
    test = draw_pseudo_test(truth, ["p"] * 4 + ["q"] * 4)
    assert test.indices.tolist() == list(range(8))
    assert test.clips_per_speaker == 4


def test_pseudo_test_any_clip_of_a_cell_can_be_drawn():
    # One of ten clips of class 0 goes with the only one of class 1.
    truth = np.array([0] * 10 + [1])
    drawn = {
        int(draw_pseudo_test(truth, ["p"] * 11, clips_per_speaker=2, seed=seed).indices[0])
        for seed in range(60)
    }
    assert drawn == set(range(10))


def test_pseudo_test_wrong_input_raises():
    truth = np.array([0, 1])
    with pytest.raises(BadShapeError, match="truth has 2 entries and speakers 1"):
        draw_pseudo_test(truth, ["p"])
    with pytest.raises(BadValueError, match="clips_per_speaker is 1, expected more than 1"):
        draw_pseudo_test(truth, ["p", "p"], clips_per_speaker=1)
    with pytest.raises(BadValueError, match="No speaker is known of the 2 labelled"):
        draw_pseudo_test(truth, [None, None])
