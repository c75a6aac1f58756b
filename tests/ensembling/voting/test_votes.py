from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from abhinaya.errors import BadShapeError, BadValueError
from ensembling.voting.votes import MAJORITY, VoteResult, break_ties, majority_vote, plurality

N_CLASSES = 4

any_votes = hnp.arrays(
    np.int64,
    st.tuples(st.integers(1, 6), st.integers(0, 8)),
    elements=st.integers(-1, N_CLASSES - 1),
)
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=60, deadline=None)


def column(*votes: int) -> np.ndarray:
    """The votes of all members on one utterance, shape (M, 1)."""
    return np.array(votes)[:, np.newaxis]


def outcome(votes: np.ndarray, order: list[int]) -> tuple[int, int]:
    """Label and decider of the only utterance."""
    result = plurality(votes, N_CLASSES, order)
    return int(result.labels[0]), int(result.decided_by[0])


def assert_same(ours: VoteResult, other: VoteResult) -> None:
    np.testing.assert_array_equal(ours.labels, other.labels)
    np.testing.assert_array_equal(ours.decided_by, other.decided_by)
    np.testing.assert_array_equal(ours.shares, other.shares)
    np.testing.assert_array_equal(ours.all_abstained, other.all_abstained)


def test_majority_vote_smallest_tied_class_for_now() -> None:
    winners, tied = majority_vote(np.array([[3, 1, 2], [1, 1, 0], [3, 0, 0], [1, 2, 2]]), N_CLASSES)

    assert winners.tolist() == [1, 1, 0]
    assert tied.tolist() == [True, False, True]


def test_majority_vote_all_abstain_is_tied() -> None:
    winners, tied = majority_vote(column(-1, -1), N_CLASSES)

    assert winners.tolist() == [0]
    assert tied.tolist() == [True]


def test_majority_vote_other_abstain_value_is_not_counted() -> None:
    winners, tied = majority_vote(column(9, 9, 2), N_CLASSES, abstain=9)

    assert winners.tolist() == [2]
    assert tied.tolist() == [False]


def test_majority_vote_matches_scipy_mode() -> None:
    votes = np.random.default_rng(0).integers(0, N_CLASSES, size=(5, 300))

    ours, _ = majority_vote(votes, N_CLASSES)

    # SciPy too reports the smallest of equally frequent values.
    np.testing.assert_array_equal(ours, stats.mode(votes, axis=0).mode)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ([3], (1, 3)),
        ([1], (0, 1)),
        ([], (0, 0)),
        ([4], (0, 0)),  # voted 2, outside the tie: the first in table order decides
        ([4, 2], (1, 2)),  # the second tiebreaker comes before the table order
        ([4, 3, 0], (1, 3)),
    ],
)
def test_plurality_two_way_tie_goes_down_the_order(
    order: list[int], expected: tuple[int, int]
) -> None:
    assert outcome(column(0, 0, 1, 1, 2), order) == expected


@pytest.mark.parametrize(
    ("order", "expected"), [([], (2, 1)), ([5], (1, 5)), ([0], (2, 1)), ([0, 3], (0, 3))]
)
def test_plurality_three_way_tie_goes_down_the_order(
    order: list[int], expected: tuple[int, int]
) -> None:
    # Classes 0, 1 and 2 have two votes each; member 0 voted for class 3 alone.
    assert outcome(column(3, 2, 1, 0, 2, 1, 0), order) == expected


@pytest.mark.parametrize(("order", "expected"), [([], (2, 0)), ([3], (0, 3)), ([1, 3], (3, 1))])
def test_plurality_all_way_tie_goes_to_first_in_order(
    order: list[int], expected: tuple[int, int]
) -> None:
    assert outcome(column(2, 3, 1, 0), order) == expected


def test_plurality_abstaining_tiebreaker_passes_on() -> None:
    assert outcome(column(-1, 1, 0, -1, 0, 1), [0, 3, 4]) == (0, 4)
    assert outcome(column(-1, 1, 0), [0]) == (1, 1)


def test_plurality_majority_is_not_decided_by_a_member() -> None:
    assert outcome(column(3, 3, 1, -1), [2]) == (3, MAJORITY)


def test_plurality_abstention_can_leave_a_majority() -> None:
    # One vote among three members is a plurality if the others abstain.
    assert outcome(column(-1, 2, -1), [0]) == (2, MAJORITY)


def test_plurality_all_abstain_is_flagged() -> None:
    result = plurality(np.array([[-1, 1], [-1, 1]]), N_CLASSES, [0])

    assert result.labels.tolist() == [-1, 1]
    assert result.decided_by.tolist() == [MAJORITY, MAJORITY]
    assert result.all_abstained.tolist() == [True, False]
    assert result.shares.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0]]


def test_plurality_shares_leave_abstentions_out() -> None:
    result = plurality(column(0, 0, 3, -1, 1), N_CLASSES)

    # Four votes were cast: 2, 1, 0 and 1.
    assert result.shares.tolist() == [[0.5, 0.25, 0, 0.25]]
    assert result.shares.dtype == np.float64


def test_plurality_single_member_keeps_its_votes() -> None:
    result = plurality(np.array([[3, -1, 0]]), N_CLASSES)

    assert result.labels.tolist() == [3, -1, 0]
    assert result.decided_by.tolist() == [MAJORITY] * 3
    assert result.all_abstained.tolist() == [False, True, False]


def test_plurality_no_utterances_is_empty() -> None:
    result = plurality(np.zeros((3, 0), dtype=int), N_CLASSES, [1])

    assert result.labels.shape == result.decided_by.shape == result.all_abstained.shape == (0,)
    assert result.shares.shape == (0, N_CLASSES)


@quick
@given(any_votes, seeds)
def test_plurality_equals_the_rule_read_aloud(votes: np.ndarray, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(votes)).tolist()
    result = plurality(votes, N_CLASSES, order)

    for utt_idx, ballots in enumerate(votes.T.tolist()):
        counts = Counter(vote for vote in ballots if vote != -1)
        tied = {vote for vote, n in counts.items() if n == max(counts.values())}
        deciders = [idx for idx in order if ballots[idx] in tied]
        expected = ballots[deciders[0]] if deciders else -1
        assert result.labels[utt_idx] == expected
        assert result.decided_by[utt_idx] == (deciders[0] if len(tied) > 1 else MAJORITY)


@quick
@given(any_votes, seeds)
def test_plurality_shuffled_utterances_shuffle_the_result(votes: np.ndarray, seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(votes.shape[1])
    result = plurality(votes, N_CLASSES)

    expected = VoteResult(
        result.labels[shuffled],
        result.decided_by[shuffled],
        result.shares[shuffled],
        result.all_abstained[shuffled],
    )
    assert_same(plurality(votes[:, shuffled], N_CLASSES), expected)


@quick
@given(any_votes, st.booleans())
def test_plurality_always_abstaining_member_changes_nothing(
    votes: np.ndarray, is_tiebreaker: bool
) -> None:
    silent = np.full((1, votes.shape[1]), -1)
    order = [len(votes)] if is_tiebreaker else []

    assert_same(
        plurality(np.vstack([votes, silent]), N_CLASSES, order), plurality(votes, N_CLASSES)
    )


@quick
@given(any_votes, seeds)
def test_plurality_relabelled_classes_relabel_the_result(votes: np.ndarray, seed: int) -> None:
    new_name = np.random.default_rng(seed).permutation(N_CLASSES)
    result = plurality(votes, N_CLASSES)

    renamed = plurality(np.where(votes == -1, -1, new_name[votes]), N_CLASSES)

    expected = np.where(result.labels == -1, -1, new_name[result.labels])
    np.testing.assert_array_equal(renamed.labels, expected)
    np.testing.assert_array_equal(renamed.decided_by, result.decided_by)
    np.testing.assert_array_equal(renamed.shares[:, new_name], result.shares)


@quick
@given(any_votes, seeds)
def test_plurality_reordered_members_change_tied_rows_only(votes: np.ndarray, seed: int) -> None:
    reordered = np.random.default_rng(seed).permutation(len(votes))
    before, after = plurality(votes, N_CLASSES), plurality(votes[reordered], N_CLASSES)

    is_majority = before.decided_by == MAJORITY
    np.testing.assert_array_equal(after.decided_by == MAJORITY, is_majority)
    np.testing.assert_array_equal(after.labels[is_majority], before.labels[is_majority])
    np.testing.assert_array_equal(after.shares, before.shares)


@quick
@given(any_votes, seeds)
def test_plurality_full_order_makes_row_order_irrelevant(votes: np.ndarray, seed: int) -> None:
    reordered = np.random.default_rng(seed).permutation(len(votes))
    # Row i of the reordered votes is member reordered[i]; the same ranking, in new row numbers.
    order = np.argsort(reordered).tolist()

    before = plurality(votes, N_CLASSES)
    after = plurality(votes[reordered], N_CLASSES, order)

    np.testing.assert_array_equal(after.labels, before.labels)


def test_break_ties_leaves_untied_rows_alone() -> None:
    votes = np.array([[0, 0], [0, 1]])
    winners, tied = majority_vote(votes, N_CLASSES)

    labels, decided_by = break_ties(votes, winners, tied, [1], N_CLASSES)

    assert labels.tolist() == [0, 1]
    assert decided_by.tolist() == [MAJORITY, 1]


def test_break_ties_other_abstain_value_marks_undecided_rows() -> None:
    votes = np.array([[9, 9], [9, 2]])
    winners, tied = majority_vote(votes, N_CLASSES, abstain=9)

    labels, decided_by = break_ties(votes, winners, tied, [0], N_CLASSES, abstain=9)

    assert labels.tolist() == [9, 2]
    assert decided_by.tolist() == [MAJORITY, MAJORITY]


def test_plurality_no_members_raises() -> None:
    with pytest.raises(BadShapeError, match=r"votes has shape \(0, 3\).*at least one member"):
        plurality(np.zeros((0, 3), dtype=int), N_CLASSES)


def test_plurality_one_dimensional_raises() -> None:
    with pytest.raises(BadShapeError, match=r"shape \(3,\), expected \(n_members, n_utts\)"):
        plurality(np.array([0, 1, 2]), N_CLASSES)


def test_plurality_vote_out_of_range_raises() -> None:
    votes = np.array([[0, 4, 4], [1, -2, -1]])
    with pytest.raises(
        BadValueError, match=r"votes holds -2, 4 \(3 of 6 entries\), expected 0 to 3"
    ):
        plurality(votes, N_CLASSES)


def test_plurality_float_votes_raises() -> None:
    with pytest.raises(BadValueError, match="votes holds float64 values, expected integers"):
        plurality(np.array([[0.0, np.nan]]), N_CLASSES)


def test_plurality_unknown_tiebreaker_raises() -> None:
    with pytest.raises(BadValueError, match="names member 5, expected indices from 0 to 1"):
        plurality(np.array([[0, 1], [1, 0]]), N_CLASSES, [5])


def test_plurality_repeated_tiebreaker_raises() -> None:
    with pytest.raises(BadValueError, match=r"\[1, 1\] names a member twice"):
        plurality(np.array([[0, 1], [1, 0]]), N_CLASSES, [1, 1])


def test_majority_vote_abstain_inside_the_classes_raises() -> None:
    with pytest.raises(BadValueError, match=r"abstain is 2.*no class index"):
        majority_vote(np.array([[0, 1]]), N_CLASSES, abstain=2)


def test_break_ties_other_length_raises() -> None:
    votes = np.array([[0, 1], [1, 0]])
    winners, tied = majority_vote(votes, N_CLASSES)

    with pytest.raises(BadShapeError, match=r"winners has shape \(1,\), expected \(2,\)"):
        break_ties(votes, winners[:1], tied, [], N_CLASSES)
    with pytest.raises(BadShapeError, match=r"tied has shape \(1,\), expected \(2,\)"):
        break_ties(votes, winners, tied[:1], [], N_CLASSES)
