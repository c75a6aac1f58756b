from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from abhinaya.errors import BadValueError
from ensembling.ablation.gray_code import MAX_CLASSES, score_every_subset
from ensembling.voting.votes import plurality

quick = settings(max_examples=50, deadline=None)


def plain_loop(votes, truth, n_classes, order):
    """Scores of every subset from our plain vote and scikit-learn's metrics."""
    n_members = len(votes)
    macro_f1, accuracy = [0.0], [0.0]
    for mask in range(1, 1 << n_members):
        members = [m for m in range(n_members) if mask >> m & 1]
        restricted = [members.index(m) for m in order if m in members]
        voted = plurality(votes[members], n_classes, restricted).labels
        macro_f1.append(
            f1_score(truth, voted, labels=range(n_classes), average="macro", zero_division=0)
        )
        accuracy.append(accuracy_score(truth, voted))
    return np.array(macro_f1), np.array(accuracy)


def draw(n_members, n_utts, n_classes, seed=0):
    """Votes of which some are right, some wrong and some abstentions; few classes make ties."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(n_classes, size=n_utts)
    guesses = rng.integers(-1, n_classes, size=(n_members, n_utts))
    return np.where(rng.random((n_members, n_utts)) < 0.3, truth, guesses), truth


@st.composite
def ballots(draw):
    """Votes of shape (M, U), truth of shape (U,), K and a tiebreak order."""
    n_members, n_utts = draw(st.integers(1, 5)), draw(st.integers(1, 12))
    n_classes = draw(st.integers(2, 5))
    vote = st.integers(-1, n_classes - 1)
    votes = draw(
        st.lists(
            st.lists(vote, min_size=n_utts, max_size=n_utts),
            min_size=n_members,
            max_size=n_members,
        )
    )
    truth = draw(st.lists(st.integers(0, n_classes - 1), min_size=n_utts, max_size=n_utts))
    n_named = draw(st.integers(0, n_members))
    order = draw(st.permutations(range(n_members)))[:n_named]
    return np.array(votes), np.array(truth), n_classes, order


@pytest.mark.parametrize("order", [[], [5, 2]], ids=["in table order", "with tiebreakers"])
def test_all_255_subsets_of_8_tables_equal_a_plain_loop_with_sklearn(order):
    votes, truth = draw(n_members=8, n_utts=60, n_classes=4)
    votes[:, 7] = -1  # nobody votes here, whatever the subset

    ours = score_every_subset(votes, truth, 4, order)
    theirs = plain_loop(votes, truth, 4, order)

    assert len(ours[0]) == 256
    np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=1e-15)
    np.testing.assert_array_equal(ours[1], theirs[1])


@quick
@given(ballots())
def test_any_small_ballot_equals_the_plain_loop(drawn):
    ours = score_every_subset(*drawn)
    theirs = plain_loop(*drawn)

    np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=1e-15)
    np.testing.assert_array_equal(ours[1], theirs[1])


def test_many_classes_and_a_class_nobody_names():
    votes, truth = draw(n_members=4, n_utts=80, n_classes=30)
    truth[truth == 29], votes[votes == 29] = 0, 0

    ours = score_every_subset(votes, truth, 30, [2])
    theirs = plain_loop(votes, truth, 30, [2])

    np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=1e-15)


def test_blocks_of_the_subset_space_join_without_a_seam():
    # 13 members are four blocks; the subsets on both sides of each edge are checked.
    votes, truth = draw(n_members=13, n_utts=30, n_classes=3)
    macro_f1, _ = score_every_subset(votes, truth, 3, [12, 1])

    steps = np.array([edge + offset for edge in (2048, 4096, 6144) for offset in (-1, 0, 1)])
    for mask in steps ^ (steps >> 1):
        members = [m for m in range(13) if mask >> m & 1]
        restricted = [members.index(m) for m in (12, 1) if m in members]
        voted = plurality(votes[members], 3, restricted).labels
        theirs = f1_score(truth, voted, labels=range(3), average="macro", zero_division=0)
        assert macro_f1[mask] == pytest.approx(theirs, abs=1e-15)


@pytest.mark.slow
def test_twenty_members_that_all_agree_fill_every_bit():
    truth = np.array([0, 1, 127])
    votes = np.tile(truth, (20, 1))

    macro_f1, accuracy = score_every_subset(votes, truth, 128)

    # All three occurring classes are right in every subset but the empty one: 3 of 128.
    assert macro_f1[0] == accuracy[0] == 0
    assert (macro_f1[1:] == 3 / 128).all()
    assert (accuracy[1:] == 1).all()


def test_tie_goes_to_first_in_order_within_the_subset_only():
    # Member 2 settles ties first, then member 0; all are of different minds, 1 is right.
    votes, truth = np.array([[0], [1], [2]]), np.array([1])
    _, accuracy = score_every_subset(votes, truth, 3, [2, 0])

    # {1} decides alone; {0, 1} goes to 0, {1, 2} and {0, 1, 2} go to 2.
    assert accuracy.tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    # With member 1 as the tiebreaker it wins wherever it takes part.
    assert score_every_subset(votes, truth, 3, [1])[1].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]


@quick
@given(ballots(), st.randoms(use_true_random=False))
def test_order_of_utterances_changes_nothing(drawn, random):
    votes, truth, n_classes, order = drawn
    shuffled = list(range(len(truth)))
    random.shuffle(shuffled)

    before = score_every_subset(votes, truth, n_classes, order)
    after = score_every_subset(votes[:, shuffled], truth[shuffled], n_classes, order)

    np.testing.assert_array_equal(before, after)


@quick
@given(ballots())
def test_member_that_always_abstains_changes_nothing(drawn):
    votes, truth, n_classes, order = drawn
    silent = np.full((1, len(truth)), -1)

    before, _ = score_every_subset(votes, truth, n_classes, order)
    # As the last member it has the highest bit: the second half is the first one with it.
    after, _ = score_every_subset(np.concatenate([votes, silent]), truth, n_classes, order)

    np.testing.assert_array_equal(after, np.concatenate([before, before]))


@quick
@given(ballots(), st.randoms(use_true_random=False))
def test_relabelling_the_classes_changes_nothing(drawn, random):
    votes, truth, n_classes, order = drawn
    new = list(range(n_classes))
    random.shuffle(new)
    renamed = np.array([*new, -1])  # -1 looks up the last entry: itself

    before, _ = score_every_subset(votes, truth, n_classes, order)
    after, _ = score_every_subset(renamed[votes], renamed[truth], n_classes, order)

    np.testing.assert_allclose(before, after, rtol=0, atol=1e-15)


def test_too_many_members_or_classes_raise():
    truth = np.zeros(3, dtype=int)
    with pytest.raises(BadValueError, match=r"21 members .* at most 20 members .*--beam"):
        score_every_subset(np.zeros((21, 3), dtype=int), truth, 8)
    with pytest.raises(BadValueError, match=f"at most 20 members and {MAX_CLASSES} classes"):
        score_every_subset(np.zeros((2, 3), dtype=int), truth, MAX_CLASSES + 1)
