from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ensembling.voting.votes import MAJORITY, plurality, rank_members, settle_ties

N_CLASSES = 4
quick = settings(max_examples=50, deadline=None)
any_votes = st.tuples(st.integers(1, 6), st.integers(1, 8)).flatmap(
    lambda shape: hnp.arrays(np.int64, shape, elements=st.integers(-1, N_CLASSES - 1))
)
seeds = st.integers(0, 2**16)


def column(*votes):
    return np.array(votes)[:, None]


def outcome(votes, order):
    result = plurality(votes, N_CLASSES, order, strict=True)
    return result.labels[0], result.decided_by[0]


@pytest.mark.parametrize(
    ("votes", "order", "expected"),
    [
        # Two-way tie of 0 and 1: the tiebreaker wins with a tied class, and with its class 2 too.
        ((0, 0, 1, 1, 2), [0], (0, 0)),
        ((0, 0, 1, 1, 2), [4], (2, 4)),
        # Three-way tie of 0, 1 and 2, the tiebreaker alone with 3.
        ((3, 2, 1, 0, 2, 1, 0), [0], (3, 0)),
        # All-way tie.
        ((2, 3, 1, 0), [1], (3, 1)),
        # An abstaining tiebreaker passes on to the next in line, then to the members as given.
        ((-1, 0, 0, 1, 1, 2), [0, 5], (2, 5)),
        ((-1, 0, 0, 1, 1, 2), [0], (0, 1)),
        # A majority needs no tiebreaker, and an abstention can leave one.
        ((0, 0, 1, 2), [3], (0, MAJORITY)),
        ((-1, -1, 2), [0], (2, MAJORITY)),
    ],
)
def test_strict_tiebreaker_wins_any_tie(votes, order, expected):
    assert outcome(column(*votes), order) == expected


def test_strict_all_abstain_is_flagged():
    result = plurality(column(-1, -1), N_CLASSES, [1], strict=True)
    assert result.labels.tolist() == [-1]
    assert result.all_abstained.tolist() == [True]
    assert result.decided_by.tolist() == [MAJORITY]


@quick
@given(any_votes, seeds)
def test_strict_equals_the_rule_read_aloud(votes, seed):
    order = np.random.default_rng(seed).permutation(len(votes)).tolist()
    result = plurality(votes, N_CLASSES, order, strict=True)
    for utt, ballots in enumerate(votes.T.tolist()):
        counts = Counter(vote for vote in ballots if vote != -1)
        tied = {vote for vote, n in counts.items() if n == max(counts.values())}
        if len(tied) > 1:
            first = next(idx for idx in order if ballots[idx] != -1)
            expected = (ballots[first], first)
        else:
            expected = (tied.pop() if tied else -1, MAJORITY)
        assert (result.labels[utt], result.decided_by[utt]) == expected


@quick
@given(any_votes, seeds)
def test_strict_differs_from_the_plain_rule_in_tied_rows_only(votes, seed):
    order = np.random.default_rng(seed).permutation(len(votes)).tolist()
    plain = plurality(votes, N_CLASSES, order)
    strict = plurality(votes, N_CLASSES, order, strict=True)
    np.testing.assert_array_equal(strict.shares, plain.shares)
    is_majority = plain.decided_by == MAJORITY
    np.testing.assert_array_equal(strict.decided_by == MAJORITY, is_majority)
    np.testing.assert_array_equal(strict.labels[is_majority], plain.labels[is_majority])


@quick
@given(any_votes, seeds)
def test_strict_shuffled_utterances_renamed_classes_and_a_silent_member(votes, seed):
    rng = np.random.default_rng(seed)
    shuffled, new_name = rng.permutation(votes.shape[1]), rng.permutation(N_CLASSES)
    result = plurality(votes, N_CLASSES, strict=True)

    def renamed(labels):
        return np.where(labels == -1, -1, new_name[labels])

    silent = np.full((1, votes.shape[1]), -1)
    other = plurality(
        np.vstack([renamed(votes)[:, shuffled], silent]), N_CLASSES, [len(votes)], strict=True
    )
    # The silent member is the tiebreaker and passes every tie on, so the ranks are as before.
    np.testing.assert_array_equal(other.labels, renamed(result.labels)[shuffled])
    np.testing.assert_array_equal(other.decided_by, result.decided_by[shuffled])


def test_settle_ties_no_member_among_the_tied_takes_the_smallest():
    # Classes 1 and 3 share first place by some score, and the members said 0 and 2.
    is_first = np.array([[False, True, False, True]])
    labels, decided_by = settle_ties(is_first, column(0, 2), np.array([1, 0]))
    assert (labels.tolist(), decided_by.tolist()) == ([1], [MAJORITY])
    labels, decided_by = settle_ties(is_first, column(0, 2), np.array([1, 0]), strict=True)
    assert (labels.tolist(), decided_by.tolist()) == ([2], [1])


def test_rank_members_puts_the_others_behind():
    assert rank_members([2, 0], 4).tolist() == [2, 0, 1, 3]
