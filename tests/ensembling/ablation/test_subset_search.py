from __future__ import annotations

import numpy as np
import pytest

from abhinaya.errors import BadValueError
from ensembling.ablation.subset_search import Ballots, beam_search, every_subset, members_of


def draw(n_members, n_utts=40, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(n_classes, size=n_utts)
    guesses = rng.integers(-1, n_classes, size=(n_members, n_utts))
    votes = np.where(rng.random((n_members, n_utts)) < 0.3, truth, guesses)
    return Ballots(votes, truth, n_classes, [n_members - 1])


def by_mask(subsets):
    return dict(zip(subsets.masks.tolist(), subsets.macro_f1.tolist(), strict=True))


def test_masks_name_members_from_the_lowest_bit():
    masks = np.array([1, 6, 1 << 63], dtype=np.uint64)
    is_in = members_of(masks, 64)
    assert [np.flatnonzero(row).tolist() for row in is_in] == [[0], [1, 2], [63]]


def test_best_subset_stands_first_and_equals_prefer_fewer_and_earlier_members():
    # Members 1 and 2 are always right, member 0 never: every vote that 1 leads is right.
    ballots = Ballots(np.array([[1, 0], [0, 1], [0, 1]]), np.array([0, 1]), 2, [1])
    subsets, macro_f1 = every_subset(ballots, 3)

    # Right: {1}, {2}, {0, 1}, {1, 2}, {0, 1, 2}. Wrong: {0} and {0, 2}, where 0 comes first.
    assert subsets.masks.tolist() == [0b010, 0b100, 0b011, 0b110, 0b111, 0b001, 0b101]
    assert subsets.sizes.tolist() == [1, 1, 2, 2, 3, 1, 2]
    assert subsets.macro_f1.tolist() == subsets.accuracy.tolist() == [1, 1, 1, 1, 1, 0, 0]
    assert [subsets.masks[idx] for idx in subsets.best_of_each_size()] == [0b010, 0b011, 0b111]
    assert macro_f1.tolist() == [0, 0, 1, 1, 1, 0, 1, 1]


def test_max_size_leaves_larger_subsets_out():
    ballots = draw(5)
    everything, _ = every_subset(ballots, 5)
    small, macro_f1 = every_subset(ballots, 2)
    # 5 of one member, 10 of two
    assert len(everything) == 31
    assert len(small) == len(beam_search(ballots, 2, width=99)) == 15
    assert len(macro_f1) == 32
    assert by_mask(small).items() <= by_mask(everything).items()


def test_wide_beam_finds_the_same_as_the_exhaustive_search():
    ballots = draw(8)
    theirs, _ = every_subset(ballots, 8)
    ours = beam_search(ballots, 8, width=70)  # 70 = C(8, 4), the most of one size

    for field in ("masks", "sizes", "macro_f1", "accuracy"):
        np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))


def test_beam_of_one_adds_the_best_member_each_time():
    ballots = draw(6)
    scores = by_mask(every_subset(ballots, 6)[0])
    met = by_mask(beam_search(ballots, 6, width=1))

    # 6 single members, then 5, 4, 3, 2 and 1 ways to add one.
    assert len(met) == 21
    kept = 0
    for _ in range(6):
        grown = [kept | 1 << m for m in range(6) if not kept >> m & 1]
        assert all(met[mask] == scores[mask] for mask in grown)
        kept = max(grown, key=lambda mask: scores[mask])
    assert kept == 0b111111


def test_beam_over_64_members_uses_every_bit_and_65_raise():
    met = beam_search(draw(64, n_utts=10), 64, width=1)
    assert int(met.masks.max()) == 2**64 - 1
    assert met.sizes.max() == 64
    with pytest.raises(BadValueError, match=r"over 65 members .* at most 64 members"):
        beam_search(draw(65, n_utts=10), 65, width=1)


def test_beam_without_width_raises():
    with pytest.raises(BadValueError, match="beam search of width 0"):
        beam_search(draw(3), 3, width=0)


def test_equal_utterances_in_one_column_leave_every_score_as_it_is():
    ballots = draw(3, n_utts=2_000)
    merged = ballots.merge_equal()

    # 3 classes, and 4 votes for each of 3 members
    assert len(merged.truth) <= 3 * 4**3
    np.testing.assert_array_equal(merged.truth[merged.which], ballots.truth)
    np.testing.assert_array_equal(merged.votes[:, merged.which], ballots.votes)
    (ours, our_f1), (theirs, their_f1) = every_subset(merged, 3), every_subset(ballots, 3)
    np.testing.assert_array_equal(our_f1, their_f1)
    found = beam_search(merged, 3, width=9)
    for field in ("masks", "sizes", "macro_f1", "accuracy"):
        np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))
        np.testing.assert_array_equal(getattr(found, field), getattr(theirs, field))


def test_utterances_of_many_members_are_told_apart_beyond_64_bits():
    # 4 ** 40 codes would not fit; only the last of 40 members tells the two kinds apart.
    votes = np.zeros((40, 10), dtype=int)
    votes[-1, 3:] = 2
    merged = Ballots(votes, np.ones(10, dtype=int), 3).merge_equal()
    assert merged.votes[-1].tolist() == [0, 2]
    assert merged.how_often.tolist() == [3, 7]


def test_utterances_that_hardly_repeat_keep_their_columns():
    ballots = draw(8)
    assert ballots.merge_equal() is ballots
