from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from abhinaya.errors import BadValueError
from ensembling.ablation.subset_votes import score_labels, vote_subsets
from ensembling.voting.votes import plurality


@pytest.mark.parametrize("order", [[], [3, 0]])
def test_votes_of_subsets_equal_plurality_of_their_members(order):
    rng = np.random.default_rng(0)
    votes = rng.integers(-1, 3, size=(5, 40))  # three classes: ties everywhere
    subsets = rng.random((50, 5)) < 0.5
    subsets[subsets.sum(axis=1) == 0, 0] = True

    labels = vote_subsets(votes, subsets, 3, order)

    for is_in, ours in zip(subsets, labels, strict=True):
        members = np.flatnonzero(is_in).tolist()
        restricted = [members.index(m) for m in order if m in members]
        np.testing.assert_array_equal(ours, plurality(votes[members], 3, restricted).labels)


def test_255_members_vote_and_256_raise():
    votes = np.zeros((256, 2), dtype=int)
    votes[:127, 0] = 1
    # 127 votes for class 1 against 128 for class 0; the second utterance is unanimous.
    everybody = np.ones((1, 255), dtype=bool)
    assert vote_subsets(votes[:255], everybody, 2).tolist() == [[0, 0]]
    with pytest.raises(BadValueError, match=r"256 members .* at most 255 members"):
        vote_subsets(votes, np.ones((1, 256), dtype=bool), 2)


def test_scores_of_labels_match_sklearn_with_and_without_weights():
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=50)
    labels = rng.integers(-1, 3, size=(4, 50))
    weights = rng.integers(0, 4, size=(6, 50)).astype(np.float32)

    macro_f1, accuracy = score_labels(labels, truth, 4, weights)  # class 3 never occurs

    for n in range(4):
        for r in range(6):
            theirs = {"sample_weight": weights[r]}
            assert accuracy[n, r] == pytest.approx(accuracy_score(truth, labels[n], **theirs))
            assert macro_f1[n, r] == pytest.approx(
                f1_score(
                    truth, labels[n], labels=range(4), average="macro", zero_division=0, **theirs
                )
            )
    np.testing.assert_array_equal(
        score_labels(labels, truth, 4)[0],
        score_labels(labels, truth, 4, np.ones((1, 50), dtype=np.float32))[0],
    )
