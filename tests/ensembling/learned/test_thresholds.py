from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abhinaya.data.labels import EmotionSet
from abhinaya.errors import BadValueError
from abhinaya.evaluation.metrics import scores
from ensembling.aligned import AlignedTables, align_predictions
from ensembling.learned.thresholds import THRESHOLDS, best_offset
from ensembling.voting.soft_votes import soft_vote

quick = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**16)


def macro_f1(truth, predicted, n_classes):
    return scores(truth, predicted, n_classes).macro_f1


def random_aligned(seed, n_utts=40, n_classes=4, n_members=2):
    """Members of a skewed corpus that know a little; class 0 has most rows."""
    rng = np.random.default_rng(seed)
    shares = np.array([0.7, 0.15, 0.1, 0.05])[:n_classes]
    truth = rng.choice(n_classes, size=n_utts, p=shares / shares.sum())
    logits = rng.normal(size=(n_members, n_utts, n_classes)) + np.log(shares)
    logits[:, np.arange(n_utts), truth] += 1.5
    probs = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    names = tuple(f"m{idx}" for idx in range(n_members))
    utterances = tuple(f"u{idx}" for idx in range(n_utts))
    aligned = AlignedTables(
        names,
        EmotionSet.from_codes("ACDF"[:n_classes]),
        utterances,
        probs.argmax(axis=2),
        probs,
        ({},) * n_members,
        (None,) * n_members,
    )
    return aligned, truth


def test_best_offset_by_hand():
    # Leads of class 0 over class 1 in log odds: 3, 2, 1 and 0.5; truth 0 0 1 1.
    # Offsets of class 1 between 1 and 2 turn just the last two: all right, middle 1.5.
    lead = np.array([3.0, 2.0, 1.0, 0.5])
    logs = np.stack([lead, np.zeros(4)], axis=1)
    assert best_offset(logs, np.array([0, 0, 1, 1]), np.zeros(2), 1) == pytest.approx(1.5)
    # Seen from class 0 its own offset must be between -2 and -1.
    assert best_offset(logs, np.array([0, 0, 1, 1]), np.zeros(2), 0) == pytest.approx(-1.5)
    # With an offset of 1 for class 0, class 1 needs one more.
    assert best_offset(logs, np.array([0, 0, 1, 1]), np.array([1.0, 7]), 1) == pytest.approx(2.5)


def test_best_offset_takes_the_widest_of_equal_steps():
    # Leads 4, 1, .9; truth 1 0 1. None turned: F1 (1/2, 0): .25. Last turned: (2/3 * .., ..):
    # class 0: 2 * 1 / (1 + 2), class 1: 2 * 1 / (2 + 1): .667 between .9 and 1.
    # All turned: class 1 2 * 2 / (2 + 3) = .8, macro .4.
    logs = np.stack([np.array([4.0, 1.0, 0.9]), np.zeros(3)], axis=1)
    assert best_offset(logs, np.array([1, 0, 1]), np.zeros(2), 1) == pytest.approx(0.95)
    # Truth 1 1 1: only all turned gives .5, beyond 4 by half the margin of 1.
    assert best_offset(logs, np.array([1, 1, 1]), np.zeros(2), 1) == pytest.approx(4.5)
    # Leads 1 and 5, truth 0 0: nothing turned is best, half a margin before the first.
    logs = np.stack([np.array([1.0, 5.0]), np.zeros(2)], axis=1)
    assert best_offset(logs, np.array([0, 0]), np.zeros(2), 1) == pytest.approx(0.5)


def test_best_offset_cannot_part_rows_that_turn_together():
    # Both lead by 1; truth 1 0. Turning the first alone would be right, but is impossible.
    logs = np.stack([np.array([1.0, 1.0]), np.zeros(2)], axis=1)
    offset = best_offset(logs, np.array([1, 0]), np.zeros(2), 1)
    assert offset in (pytest.approx(0.5), pytest.approx(1.5))


@quick
@given(seeds, st.integers(0, 3))
def test_best_offset_is_as_good_as_any_of_a_fine_grid(seed, class_idx):
    aligned, truth = random_aligned(seed, n_members=1)
    logs = np.log(aligned.probs[0])
    offsets = np.random.default_rng(seed).normal(size=4)

    def at(offset):
        changed = offsets.copy()
        changed[class_idx] = offset
        return macro_f1(truth, (logs + changed).argmax(axis=1), 4)

    found = at(best_offset(logs, truth, offsets, class_idx))
    assert found >= max(at(offset) for offset in np.linspace(-8, 8, 161)) - 1e-12


@quick
@given(seeds, st.sampled_from(["arithmetic", "geometric"]))
def test_thresholds_never_lower_macro_f1_on_their_own_rows(seed, mean):
    aligned, truth = random_aligned(seed)
    plain = soft_vote(aligned, geometric=mean == "geometric")
    fitted = THRESHOLDS.fit(aligned, truth, [None] * 40, {"mean": mean})
    fused = THRESHOLDS.apply(fitted, aligned, [None] * 40)
    assert macro_f1(truth, fused.labels, 4) >= macro_f1(truth, plain.labels, 4)
    np.testing.assert_allclose(fused.probs.sum(axis=1), 1, rtol=1e-12)


def test_thresholds_leave_ties_that_the_first_member_settles_rightly(aligned_of):
    # Both rows are tied, and m0 is right on both; any offset would decide them alike.
    aligned = aligned_of([[0.6, 0.4, 0.0], [0.4, 0.6, 0.0]], [[0.4, 0.6, 0.0], [0.6, 0.4, 0.0]])
    truth = np.array([0, 1])
    fitted = THRESHOLDS.fit(aligned, truth, [None] * 2, {})
    assert THRESHOLDS.apply(fitted, aligned, [None] * 2).labels.tolist() == [0, 1]


def test_thresholds_help_rare_classes_on_unseen_rows():
    aligned, truth = random_aligned(0, n_utts=3000)
    half = np.arange(1500)
    fitted = THRESHOLDS.fit(aligned.take(half), truth[half], [None] * 1500, {})
    rest = aligned.take(half + 1500)
    fused = THRESHOLDS.apply(fitted, rest, [None] * 1500)
    gain = macro_f1(truth[1500:], fused.labels, 4) - macro_f1(
        truth[1500:], soft_vote(rest).labels, 4
    )
    assert gain > 0.02
    # The commonest class is pushed back against every other.
    assert np.argmin(fitted["offsets"]) == 0


def test_thresholds_apply_by_hand(aligned_of):
    # (.6, .3, .1) times (1, 3, 1): .6, .9, .1, sum 1.6
    aligned = aligned_of([[0.6, 0.3, 0.1], None])
    fitted = {"offsets": [0.0, np.log(3), 0.0], "mean": "arithmetic"}
    fused = THRESHOLDS.apply(fitted, aligned, [None] * 2)
    np.testing.assert_allclose(fused.probs[0], [0.375, 0.5625, 0.0625], rtol=1e-12)
    assert fused.labels.tolist() == [1, -1]


def test_thresholds_with_abstentions_and_a_class_that_never_occurs(make_corpus):
    tables, truth, speakers = make_corpus(n_abstained=15, strengths=(2.0,))
    truth = np.where(truth == 3, 0, truth)
    fitted = THRESHOLDS.fit(align_predictions(tables), truth, speakers, {})
    assert np.isfinite(fitted["offsets"]).all()
    fused = THRESHOLDS.apply(fitted, align_predictions(tables), speakers)
    assert (fused.labels == -1).sum() == 15


def test_thresholds_when_every_member_abstains_everywhere_stay_at_zero(aligned_of):
    fitted = THRESHOLDS.fit(aligned_of([None, None]), np.array([0, 1]), [None] * 2, {})
    assert fitted["offsets"] == [0, 0, 0]


def test_thresholds_of_labels_alone_raise(aligned_of):
    with pytest.raises(BadValueError, match="only labels from 'm0' on 2 of 2"):
        THRESHOLDS.fit(aligned_of([0, 1]), np.array([0, 1]), [None] * 2, {})
