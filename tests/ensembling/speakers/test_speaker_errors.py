from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score

from abhinaya.data.labels import ABSTAIN, EmotionSet
from abhinaya.data.predictions import PredictionTable
from abhinaya.errors import BadValueError, UnknownNameError
from abhinaya.evaluation.scoring import Truth
from ensembling.speakers.rows import softmax
from ensembling.speakers.smooth_tables import smooth_table
from ensembling.speakers.speaker_errors import KINDS, corrupt_speakers, robustness_curve

TEN = [f"s{idx}" for idx in range(10) for _ in range(4)]


def test_merged_speakers_disappear_into_the_others():
    wrong = corrupt_speakers(TEN, "merged", 0.3)
    sizes = Counter(wrong)
    # Three of ten are gone, and no utterance with them.
    assert len(sizes) == 7
    assert set(sizes) < set(TEN)
    assert sum(sizes.values()) == 40
    # Utterances of one speaker stay together.
    assert all(len(set(wrong[at : at + 4])) == 1 for at in range(0, 40, 4))


def test_merged_leaves_one_speaker_at_least():
    assert len(set(corrupt_speakers(TEN, "merged", 1.0))) == 1


def test_split_speakers_fall_into_halves():
    wrong = corrupt_speakers(TEN, "split", 0.5)
    sizes = Counter(wrong)
    # Five stay whole, five become two of two.
    assert sorted(sizes.values()) == [2] * 10 + [4] * 5
    assert all(new.startswith(old) for old, new in zip(TEN, wrong, strict=True))
    assert len({new for new in wrong if new not in TEN}) == 5


def test_split_speaker_of_one_utterance_stays_whole_and_new_names_are_new():
    taken = ["a", "a", "a (second half)"]
    assert corrupt_speakers(["b"], "split", 1.0) == ("b",)
    wrong = corrupt_speakers(taken, "split", 1.0)
    assert len(set(wrong)) == 3
    assert wrong[2] == "a (second half)"


def test_shuffled_utterances_exchange_speakers():
    wrong = corrupt_speakers(TEN, "shuffled", 0.5)
    # Everybody has as many utterances as before, and at most half are somebody else's.
    assert Counter(wrong) == Counter(TEN)
    n_moved = sum(old != new for old, new in zip(TEN, wrong, strict=True))
    assert 10 <= n_moved <= 20


@pytest.mark.parametrize("kind", KINDS)
def test_corrupt_speakers_share_zero_changes_nothing_and_unknown_stays_unknown(kind):
    speakers = [*TEN, None, None]
    assert corrupt_speakers(speakers, kind, 0.0) == tuple(speakers)
    assert corrupt_speakers(speakers, kind, 0.7)[-2:] == (None, None)
    assert corrupt_speakers([None], kind, 1.0) == (None,)
    assert corrupt_speakers(TEN, kind, 0.4, seed=1) != corrupt_speakers(TEN, kind, 0.4, seed=2)
    assert corrupt_speakers(TEN, kind, 0.4, seed=1) == corrupt_speakers(TEN, kind, 0.4, seed=1)


@pytest.mark.parametrize("kind", ["merged", "split"])
def test_corrupt_speakers_a_larger_share_hits_those_of_a_smaller_one_too(kind):
    before = np.array(TEN)
    few, many = (np.array(corrupt_speakers(TEN, kind, share)) for share in (0.2, 0.6))
    assert set(before[few != before]) < set(before[many != before])


def test_corrupt_speakers_wrong_input_raises():
    with pytest.raises(UnknownNameError, match=r"kind of speaker error 'merge'. Did you mean"):
        corrupt_speakers(TEN, "merge", 0.1)
    with pytest.raises(BadValueError, match=r"share is 1.5, expected a number from 0"):
        corrupt_speakers(TEN, "merged", 1.5)


def voices():
    """A table of six speakers whose voices the head mistakes for emotions."""
    rng = np.random.default_rng(0)
    emotions = EmotionSet.from_codes("AHNS")
    speaker_idx, truth = np.repeat(np.arange(6), 12), np.tile(np.arange(4), 18)
    embeddings = np.eye(4)[truth] * 2 + rng.normal(size=(72, 4)) * 0.3
    embeddings += rng.normal(size=(6, 4))[speaker_idx] * 1.5
    probs = softmax(embeddings * 2)
    table = PredictionTable(
        "m",
        emotions,
        tuple(f"u{idx:02d}" for idx in range(72)),
        probs.argmax(axis=1),
        probs=probs.astype(np.float32),
        embeddings=embeddings.astype(np.float32),
        meta={"head": {"weight": (np.eye(4) * 2).tolist(), "bias": [0.0] * 4}},
    )
    truth[:2] = ABSTAIN
    return table, Truth(table.utterances, truth, emotions, tuple(f"s{i}" for i in speaker_idx))


def test_robustness_curve_begins_at_the_smoothed_tables_score_and_falls():
    table, truth = voices()
    points = robustness_curve(table, truth, variants=["cluster-embedding"], shares=(0.0, 0.5))
    assert [(p.kind, p.share, p.variant) for p in points] == [
        (kind, share, variant)
        for kind in ("merged", "split", "shuffled")
        for share in (0.0, 0.5)
        for variant in ("none", "cluster-embedding")
    ]
    scores = {(p.kind, p.share, p.variant): p.macro_f1 for p in points}
    smoothed, _ = smooth_table(table, truth)
    for labels, name in ((table.labels, "none"), (smoothed.labels, "cluster-embedding")):
        expected = f1_score(truth.labels[2:], labels[2:], average="macro")
        for kind in KINDS:
            assert scores[kind, 0.0, name] == pytest.approx(expected)
    for kind in KINDS:
        # Without adaptation the speakers do not matter.
        assert scores[kind, 0.5, "none"] == scores[kind, 0.0, "none"]
    assert scores["shuffled", 0.0, "cluster-embedding"] > scores["shuffled", 0.0, "none"] + 0.1
    for kind in ("merged", "shuffled"):
        best = scores[kind, 0.0, "cluster-embedding"]
        assert scores[kind, 0.5, "cluster-embedding"] < best - 0.05


def test_robustness_curve_tries_what_the_table_allows():
    table, truth = voices()
    fused = replace(table, embeddings=None, meta={})
    points = robustness_curve(fused, truth, kinds=["split"], shares=[0.1], n_repeats=1)
    names = ["none", "cluster-probabilities", "soft-probabilities", "prior"]
    assert [point.variant for point in points] == names
    borrowed = robustness_curve(
        fused, truth, embeddings=table, kinds=["split"], shares=[0.1], n_repeats=1
    )
    assert "cluster-embedding" in [point.variant for point in borrowed]


def test_robustness_curve_wrong_input_raises():
    table, truth = voices()
    fused = replace(table, embeddings=None, meta={})
    unlabelled = replace(truth, labels=np.full(72, ABSTAIN))
    cases = [
        (table, truth, {"n_repeats": 0}, "n_repeats is 0, expected at least 1"),
        (table, replace(truth, speakers=(None,) * 72), {}, "No speaker is known of the 72"),
        (fused, truth, {"variants": ["standardise"]}, "'standardise' cannot be tried: table 'm'"),
        (table, unlabelled, {}, "There is no utterance with a true label"),
    ]
    for given, labels, options, match in cases:
        with pytest.raises(BadValueError, match=match):
            robustness_curve(given, labels, **options)
