"""Splits keep speakers apart, cover all rows, and refuse what cannot be tested."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_rel

from abhinaya.errors import BadValueError
from abhinaya.probing.splits import Rows, draw_shots, make_splits, split_speakers
from abhinaya.probing.statistics import mean_interval, paired_difference


def rows_of(n_speakers: int = 10, per_speaker: int = 8, *, genders: str = "fm") -> Rows:
    speakers = np.repeat([f"s{k:02}" for k in range(n_speakers)], per_speaker)
    labels = np.arange(len(speakers)) % 4
    gender = np.array([genders[k % len(genders)] if genders else "" for k in range(n_speakers)])
    return Rows("mine", tuple("ahns"), labels, speakers, np.repeat(gender, per_speaker))


def test_sixty_percent_of_the_speakers_of_each_gender_train():
    rows = rows_of()
    train, test = split_speakers(rows, seed=1)
    names = set(rows.speakers[train])
    assert not names & set(rows.speakers[test])
    assert len(names) == 6
    assert sum(int(name[1:]) % 2 for name in names) == 3
    assert sorted([*train, *test]) == list(range(len(rows)))
    again, _ = split_speakers(rows, seed=1)
    np.testing.assert_array_equal(train, again)
    assert set(rows.speakers[split_speakers(rows, seed=2)[0]]) != names


def test_one_speaker_of_each_gender_leaves_one_to_test():
    train, test = split_speakers(rows_of(2), seed=0)
    assert len(train) == len(test) == 8


def test_each_speaker_is_left_out_once():
    splits = make_splits(rows_of(3), "leave-one-out", seed=0)
    assert [split.fold for split in splits] == ["s00", "s01", "s02"]
    assert sorted(np.concatenate([split.test for split in splits])) == list(range(24))


def test_random_folds_are_eight_one_and_one_tenth():
    splits = make_splits(rows_of(), "random", seed=0)
    assert sorted(np.concatenate([split.test for split in splits])) == list(range(80))
    assert {(len(split.train), len(split.test)) for split in splits} == {(64, 8)}
    assert all(not set(split.train) & set(split.test) for split in splits)


def test_shots_are_equal_by_class_and_filled_up():
    rows = rows_of()
    ten = draw_shots(rows, 10, seed=0)
    assert sorted(np.bincount(rows.labels[ten])) == [2, 2, 3, 3]
    rare = Rows("rare", rows.classes, np.where(np.arange(80) == 5, 0, 1 + np.arange(80) % 3),
                rows.speakers, rows.genders)  # fmt: skip
    shots = draw_shots(rare, 20, seed=0)
    assert len(set(shots)) == 20
    assert np.bincount(rare.labels[shots])[0] == 1  # it has no more
    assert len(draw_shots(rows, 0, seed=0)) == 0


@pytest.mark.parametrize("kind", ["speakers", "leave-one-out"])
def test_one_speaker_is_refused(kind):
    with pytest.raises(BadValueError, match=r"'mine' has one speaker, 's00'.*split"):
        make_splits(rows_of(1), kind, seed=0)


def test_a_class_missing_in_a_split_is_refused():
    rows = rows_of(4)
    labels = np.where(rows.labels == 3, 2, rows.labels)
    labels[rows.speakers == "s01"] = 3
    only_one = Rows("mine", rows.classes, labels, rows.speakers, rows.genders)
    with pytest.raises(BadValueError, match=r"training rows of leave-one-out s01.*class 's'"):
        make_splits(only_one, "leave-one-out", seed=0)
    with pytest.raises(BadValueError, match=r"rows of speakers, seed 0, of .*'mine'.* class 's'"):
        make_splits(only_one, "speakers", seed=0)


def test_too_few_rows_are_refused():
    with pytest.raises(BadValueError, match="has 6 rows, too few for 10 folds"):
        make_splits(rows_of(2, 3), "random", seed=0)
    with pytest.raises(BadValueError, match="has 6 rows, too few for 10 shots"):
        draw_shots(rows_of(2, 3), 10, seed=0)


def test_paired_differences_are_students():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(5), rng.standard_normal(5)
    ours, theirs = paired_difference(a, b), ttest_rel(a, b)
    assert (ours.t, ours.p) == pytest.approx((theirs.statistic, theirs.pvalue))
    assert ours.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert np.isnan(paired_difference([1, 2], [0, 1]).p)
    assert np.isnan(mean_interval([0.5])[1])
