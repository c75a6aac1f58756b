"""Other clusterings, spaces and kinds of evidence than the published ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from abhinaya.data.labels import EmotionSet
from abhinaya.errors import BadShapeError, BadValueError, UnknownNameError
from ensembling.aligned import AlignedTables
from ensembling.speakers.clustering import cluster_points
from ensembling.speakers.rows import (
    NO_VECTOR,
    Head,
    SpeakerRows,
    speaker_rows,
    speaker_seed,
)
from ensembling.speakers.smoothing import ClusterSettings, smooth_rows
from ensembling.voting.soft_votes import softmax

CLUSTERINGS = ("k-means", "agglomerative", "gaussian-mixture")


def make_rows(embeddings, probs, head=None, **fields):
    """One speaker's rows."""
    probs = None if probs is None else np.array(probs, dtype=float)
    n_utts = len(embeddings if probs is None else probs)
    return SpeakerRows(
        name="m",
        utterances=tuple(f"u{idx}" for idx in range(n_utts)),
        speakers=("p",) * n_utts,
        labels=np.zeros(n_utts, dtype=np.int64) if probs is None else probs.argmax(axis=1),
        n_classes=2,
        probs=probs,
        embeddings=None if embeddings is None else np.array(embeddings, dtype=float),
        head=head,
        **fields,
    )


@pytest.mark.parametrize("clustering", CLUSTERINGS)
@pytest.mark.parametrize("width", [2, 30], ids=["few dimensions", "more than points"])
def test_cluster_points_finds_clear_groups_numbered_by_appearance(clustering, width):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, width)) * 20
    group = [0, 1, 0, 2, 1, 0, 2, 2, 1, 0]
    points = centres[group] + rng.normal(size=(10, width)) / 10
    assert cluster_points(points, 3, clustering=clustering).tolist() == group


@pytest.mark.parametrize("clustering", CLUSTERINGS)
def test_cluster_points_never_makes_more_clusters_than_distinct_points(clustering):
    points = np.array([[1.0, 0.0], [1.0, -0.0], [2.0, 0.0], [1.0, 0.0]])
    assert cluster_points(points, 4, clustering=clustering).tolist() == [0, 0, 1, 0]
    assert cluster_points(points, 1, clustering=clustering).tolist() == [0, 0, 0, 0]


def test_cluster_points_same_seed_same_clusters():
    points = np.random.default_rng(1).normal(size=(12, 40))
    first = cluster_points(points, 5, seed=3)
    assert first.tolist() == cluster_points(points, 5, seed=3).tolist()
    assert first.max() == 4


def test_cluster_points_wrong_input_raises():
    with pytest.raises(UnknownNameError, match="Unknown clustering 'dbscan'"):
        cluster_points(np.zeros((2, 1)), 2, clustering="dbscan")
    with pytest.raises(BadValueError, match="2 clusters of 0 points cannot be made"):
        cluster_points(np.zeros((0, 1)), 2)


def test_smooth_rows_k_can_be_set():
    # One cluster: the mean embedding is (2, 1), so all are class 0.
    rows = make_rows([(0, 2), (3, 0), (3, 1)], [(0.4, 0.6)] * 3, Head(np.eye(2), np.zeros(2)))
    assert smooth_rows(rows, ClusterSettings(n_clusters=1)).labels.tolist() == [0, 0, 0]
    # Three clusters of two classes: u1 (by 3) takes 0, u0 (by 2) takes 1, u2 is left over: 0.
    assert smooth_rows(rows, ClusterSettings(n_clusters=3)).labels.tolist() == [1, 0, 0]


@pytest.mark.parametrize("clustering", CLUSTERINGS)
def test_smooth_rows_other_clusterings_follow_clear_clusters(clustering):
    # Two groups, heard as class 0 with .9 and with .6: the second takes class 1.
    embeddings = [(0, 0), (0, 1), (9, 9), (9, 8), (0, 0.5)]
    rows = make_rows(embeddings, [(0.9, 0.1), (0.9, 0.1), (0.6, 0.4), (0.6, 0.4), (0.9, 0.1)])
    result = smooth_rows(rows, ClusterSettings(clustering=clustering))
    assert result.labels.tolist() == [0, 0, 1, 1, 0]


def test_smooth_rows_spaces_cluster_different_things():
    # Embeddings pair u0 u1; the head, which sees only the second number, pairs u0 u2; the
    # probabilities pair u1 u2.
    head = Head(np.array([[0, 1.0], [0, 0]]), np.zeros(2))
    rows = make_rows([(0, 0), (0, 0.2), (9, 0.05)], [(0.9, 0.1), (0.6, 0.4), (0.59, 0.41)], head)
    by_space = {
        space: smooth_rows(rows, ClusterSettings(space=space, evidence="probabilities")).labels
        for space in ("logits", "probabilities")
    }
    # logits: (.745, .255) for u0 u2, (.6, .4) for u1 -> 0 1 0
    assert by_space["logits"].tolist() == [0, 1, 0]
    # probabilities: (.9, .1) for u0, (.595, .405) for the others -> 0 1 1
    assert by_space["probabilities"].tolist() == [0, 1, 1]
    embeddings = smooth_rows(rows.take([0, 1, 2]), ClusterSettings(evidence="probabilities"))
    # Standardised, u1 stands out in the second number (0 .2 .05), u2 in the first:
    # u0 (-.71, -.98), u1 (-.71, 1.37), u2 (1.41, -.39); u0 u1 5.5, u0 u2 4.8 -> as the logits
    assert embeddings.labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("space", "standardised", "pair"),
    [
        ("embedding", "auto", "u0 u2"),
        ("embedding", "never", "u0 u1"),
        ("logits", "auto", "u0 u1"),
        ("logits", "always", "u0 u2"),
    ],
)
def test_smooth_rows_standardizes_embeddings_only_unless_told(space, standardised, pair):
    # As they are, u0 u1 are 2 apart and u0 u2 6.02. Standardised, the columns 0 0 6 and 0 2 .5 have
    # sd sqrt(24 / 3) = 2.828 and sqrt(2.167 / 3) = .850: u0 u1 are 2 / .850 = 2.35 apart, and u0 u2
    # sqrt((6 / 2.828) ** 2 + (.5 / .850) ** 2) = 2.20.
    rows = make_rows(
        [(0, 0), (0, 2), (6, 0.5)],
        [(0.9, 0.1), (0.6, 0.4), (0.6, 0.4)],
        Head(np.eye(2), np.zeros(2)),
    )
    settings = ClusterSettings(space=space, standardised=standardised, evidence="probabilities")
    labels = smooth_rows(rows, settings).labels.tolist()
    assert labels == {"u0 u1": [0, 0, 1], "u0 u2": [0, 1, 0]}[pair]


def test_smooth_rows_probabilities_need_no_embeddings():
    rows = make_rows(None, [(0.9, 0.1), (0.9, 0.1), (0.6, 0.4)])
    result = smooth_rows(rows, ClusterSettings(space="probabilities"))
    assert result.labels.tolist() == [0, 0, 1]


def test_smooth_rows_evidence_of_a_fused_table_is_its_own_even_with_a_members_head():
    # By the head u2 is class 1, by the shares all are class 0 and u0 u1 the least.
    head = Head(np.eye(2), np.zeros(2))
    shares = [(0.6, 0.4), (0.6, 0.4), (1.0, 0.0)]
    embeddings = [(9, 0), (9, 1), (0, 9)]
    fused = make_rows(embeddings, shares, head, has_own_embeddings=False)
    assert smooth_rows(fused, ClusterSettings()).labels.tolist() == [1, 1, 0]
    assert smooth_rows(fused, ClusterSettings(evidence="head")).labels.tolist() == [0, 0, 1]
    own = replace(fused, has_own_embeddings=True)
    assert smooth_rows(own, ClusterSettings()).labels.tolist() == [0, 0, 1]


def test_smooth_rows_soft_mixes_cluster_and_own_probabilities():
    # Clusters {u0, u1} with mean (.5, .5) and {u2} with (.2, .8).
    rows = make_rows([(0, 0), (0, 1), (99, 99)], [(0.9, 0.1), (0.1, 0.9), (0.2, 0.8)])
    result = smooth_rows(rows, ClusterSettings(assignment="soft", mix=0.25))
    # u0: .25 * .5 + .75 * .9 = .8; u1: .25 * .5 + .75 * .1 = .2
    np.testing.assert_allclose(result.probs, [[0.8, 0.2], [0.2, 0.8], [0.2, 0.8]])
    assert result.labels.tolist() == [0, 1, 1]
    whole = smooth_rows(rows, ClusterSettings(assignment="soft", mix=1.0))
    np.testing.assert_allclose(whole.probs, [[0.5, 0.5], [0.5, 0.5], [0.2, 0.8]])


def test_smooth_rows_optimal_assignment_differs_from_greedy():
    # Two clusters of one utterance each; greedy takes .9 + .1, the optimum .8 + .7.
    rows = make_rows([(0, 0), (9, 9)], [(0.9, 0.8), (0.7, 0.1)])
    assert smooth_rows(rows, ClusterSettings()).labels.tolist() == [0, 1]
    optimal = smooth_rows(rows, ClusterSettings(assignment="optimal"))
    assert optimal.labels.tolist() == [1, 0]


def test_smooth_rows_row_without_probabilities_is_kept():
    rows = make_rows([(0, 0), (0, 1), (9, 9)], [(0.9, 0.1), (np.nan, np.nan), (0.6, 0.4)])
    result = smooth_rows(rows, ClusterSettings())
    assert result.status[1] == NO_VECTOR
    assert np.isnan(result.probs[1]).all()


@pytest.mark.parametrize(
    ("rows", "fields", "match"),
    [
        (make_rows(None, [(1, 0)]), {}, "'m' has no embeddings, which the space 'embedding'"),
        (make_rows(None, [(1, 0)]), {"space": "logits"}, "no embeddings, which the space 'logits'"),
        (
            make_rows([(0, 0)], [(1, 0)]),
            {"space": "logits"},
            "without the last layer of a head, which the space 'logits' needs. Predict it again",
        ),
        (
            make_rows([(0, 0)], [(1, 0)]),
            {"space": "probabilities", "evidence": "head"},
            "without the last layer of a head, which the evidence 'head' needs",
        ),
        (
            make_rows([(0, 0)], None),
            {},
            "no probabilities, which the evidence 'probabilities' needs.*vote over several",
        ),
        (
            make_rows([(0, 0)], None),
            {"space": "probabilities"},
            "no probabilities, which the space 'probabilities' needs",
        ),
        (
            make_rows([(0, 0)], None, Head(np.eye(2), np.zeros(2))),
            {"assignment": "soft"},
            "no probabilities, which the assignment 'soft' needs",
        ),
    ],
)
def test_smooth_rows_table_without_the_needed_numbers_raises(rows, fields, match):
    with pytest.raises(BadValueError, match=match):
        smooth_rows(rows, ClusterSettings(**fields))


def make_aligned(heads, embeddings, names=("a", "b")):
    n_members = len(heads)
    return AlignedTables(
        names=names[:n_members],
        emotions=EmotionSet.from_codes("AH"),
        utterances=("u0", "u1"),
        labels=np.array([[0, 1], [1, 0]])[:n_members],
        probs=np.array([[[1, 0], [0, 1]], [[0, 1.0], [1, 0]]])[:n_members],
        metas=tuple({} if head is None else {"head": head} for head in heads),
        embeddings=tuple(embeddings),
    )


HEAD = {"weight": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], "bias": [7.0, 8.0]}


def test_speaker_rows_reads_the_head_of_the_table():
    rows = speaker_rows(make_aligned([HEAD], [np.ones((2, 3))]), ["p", None])
    # 1 + 2 + 3 + 7 = 13; 4 + 5 + 6 + 8 = 23
    assert rows.head.logits(rows.embeddings).tolist() == [[13, 23], [13, 23]]
    assert rows.has_own_embeddings
    assert rows.labels.tolist() == [0, 1]


def test_speaker_rows_takes_embeddings_and_head_of_the_lender_only():
    aligned = make_aligned([None, HEAD], [np.zeros((2, 9)), np.ones((2, 3))])
    rows = speaker_rows(aligned, ["p", "p"], embeddings="b")
    assert rows.name == "a"
    assert rows.embeddings.shape == (2, 3)
    assert rows.labels.tolist() == [0, 1]
    assert not rows.has_own_embeddings
    assert speaker_rows(make_aligned([HEAD], [np.ones((2, 3))]), "pp", embeddings="a").name == "a"


def test_speaker_rows_wrong_tables_raise():
    aligned = make_aligned([None, HEAD], [None, np.ones((2, 3))])
    with pytest.raises(BadValueError, match=r"adapted to in one table, got 2: a, b. Vote first"):
        speaker_rows(aligned, ["p", "p"])
    with pytest.raises(UnknownNameError, match="Unknown table for the embeddings 'c'"):
        speaker_rows(aligned, ["p", "p"], embeddings="c")
    wrong = make_aligned([HEAD], [np.ones((2, 5))])
    with pytest.raises(BadShapeError, match=r"head of table 'a' .* \(2, 3\) .* expected \(2, 5\)"):
        speaker_rows(wrong, ["p", "p"])


def test_softmax_and_seeds():
    np.testing.assert_allclose(softmax(np.array([1000.0, 1000.0])), [0.5, 0.5])
    assert speaker_seed("p", 0) == speaker_seed("p", 0)
    assert len({speaker_seed("p", 0), speaker_seed("q", 0), speaker_seed("p", 1)}) == 3
