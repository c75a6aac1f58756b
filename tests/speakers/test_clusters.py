from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering

from abhinaya.errors import BadShapeError, BadValueError
from abhinaya.speakers.clusters import (
    NO_CLUSTER,
    cluster_quality,
    cluster_voices,
    tune_threshold,
)


def angles(*degrees):
    """Directions in the plane; the cosine distance of two is 1 - cos of the angle between."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def gaussian_voices(n_speakers, n_clips, spread, seed=0, n_features=32):
    """Clips around each speaker's mean, in shuffled order."""
    rng = np.random.default_rng(seed)
    speaker_idx = rng.permutation(np.repeat(np.arange(n_speakers), n_clips))
    means = rng.normal(size=(n_speakers, n_features))
    embeddings = means[speaker_idx] + spread * rng.normal(size=(len(speaker_idx), n_features))
    return embeddings, [f"s{idx}" for idx in speaker_idx]


def test_cluster_voices_threshold_by_hand():
    # 0 and 20 degrees: 1 - cos 20 = .060; 90 and 100 degrees: 1 - cos 10 = .015; between the
    # pairs on average 1 - (cos 90 + cos 100 + cos 70 + cos 80) / 4 = .914.
    points = angles(90, 0, 100, 20)
    assert cluster_voices(points, threshold=0.01).tolist() == [0, 1, 2, 3]
    assert cluster_voices(points, threshold=0.03).tolist() == [0, 1, 0, 2]
    assert cluster_voices(points, threshold=0.1).tolist() == [0, 1, 0, 1]
    assert cluster_voices(points, threshold=0.91).tolist() == [0, 1, 0, 1]
    assert cluster_voices(points, threshold=0.92).tolist() == [0, 0, 0, 0]


def test_cluster_voices_count_by_hand():
    points = angles(90, 0, 100, 20)
    assert cluster_voices(points, n_speakers=4).tolist() == [0, 1, 2, 3]
    assert cluster_voices(points, n_speakers=3).tolist() == [0, 1, 0, 2]
    assert cluster_voices(points, n_speakers=2).tolist() == [0, 1, 0, 1]
    assert cluster_voices(points, n_speakers=1).tolist() == [0, 0, 0, 0]


def test_cluster_voices_length_of_a_vector_does_not_matter():
    points = angles(90, 0, 100, 20)
    scaled = points * np.array([[1.0], [30.0], [0.01], [5.0]])
    assert cluster_voices(scaled, threshold=0.1).tolist() == [0, 1, 0, 1]


def test_cluster_voices_count_is_kept_where_merges_tie():
    # Three pairs of equal clips, all at the same distance: 4 clusters need one merge of three.
    points = np.repeat(np.eye(3), 2, axis=0)
    assert len(set(cluster_voices(points, n_speakers=4).tolist())) == 4
    assert cluster_voices(points, n_speakers=3).tolist() == [0, 0, 1, 1, 2, 2]


def test_cluster_voices_clips_without_embedding_are_in_no_cluster():
    points = np.insert(angles(90, 0, 100, 20), 1, np.nan, axis=0)
    found = cluster_voices(points, n_speakers=2)
    assert found.tolist() == [0, NO_CLUSTER, 1, 0, 1]
    assert cluster_voices(points[:2], n_speakers=1).tolist() == [0, NO_CLUSTER]
    assert cluster_voices(points[1:2], threshold=0.5).tolist() == [NO_CLUSTER]


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_cluster_voices_equals_scikit_learn(spread):
    embeddings, _ = gaussian_voices(8, 6, spread)
    for own, theirs in (
        ({"n_speakers": 9}, {"n_clusters": 9}),
        ({"threshold": 0.4}, {"n_clusters": None, "distance_threshold": 0.4}),
    ):
        ours = cluster_voices(embeddings, **own)
        model = AgglomerativeClustering(metric="cosine", linkage="average", **theirs)
        labels = model.fit_predict(embeddings)
        for one, other in combinations(range(len(ours)), 2):
            assert (ours[one] == ours[other]) == (labels[one] == labels[other])


def test_cluster_quality_by_hand():
    # Clusters: 0 has a a a b, 1 has b b, 2 has c; c's second clip has no cluster and the last
    # clip no speaker.
    # Purity (3 + 2 + 1) / 7. Coverage: a 3, b 2 of 3, c 1: 6 / 7.
    # Pairs in one cluster: 6 + 1 + 0 = 7, of one speaker among them 3 + 1 = 4. Pairs of one
    # speaker: 3 + 3 + 0 = 6. F1 = 2 * 4 / (7 + 6).
    clusters = [0, 0, 0, 0, 1, 1, 2, NO_CLUSTER, 2]
    speakers = ["a", "a", "a", "b", "b", "b", "c", "c", None]
    quality = cluster_quality(clusters, speakers)
    assert quality.purity == pytest.approx(6 / 7)
    assert quality.coverage == pytest.approx(6 / 7)
    assert quality.pairwise_precision == pytest.approx(4 / 7)
    assert quality.pairwise_recall == pytest.approx(4 / 6)
    assert quality.pairwise_f1 == pytest.approx(8 / 13)
    assert (quality.n_clips, quality.n_clusters, quality.n_speakers) == (7, 3, 3)


def test_cluster_quality_of_one_cluster_and_of_all_apart():
    speakers = ["a", "a", "b", "c"]
    together, apart = cluster_quality([5] * 4, speakers), cluster_quality(range(4), speakers)
    assert (together.purity, together.coverage) == (0.5, 1.0)
    assert (together.pairwise_precision, together.pairwise_recall) == (pytest.approx(1 / 6), 1.0)
    assert (apart.purity, apart.coverage) == (1.0, 0.75)
    assert (apart.pairwise_precision, apart.pairwise_recall, apart.pairwise_f1) == (1.0, 0.0, 0.0)
    assert cluster_quality([0, 1], ["a", "b"]).pairwise_recall == 1.0


def test_tune_threshold_by_hand():
    # 0 20 | 90 100 degrees are two speakers. Merges at .015, .060 and .914 (see above). F1 after
    # none: 0; one: 2 * 1 / (1 + 2); two: 1; three: 2 * 2 / (6 + 2). The middle of .060 and .914.
    tuned = tune_threshold(angles(90, 0, 100, 20), ["t", "s", "t", "s"])
    gaps = np.cos(np.radians([90, 100, 70, 80])).mean()
    assert tuned.threshold == pytest.approx(((1 - np.cos(np.radians(20))) + (1 - gaps)) / 2)
    assert tuned.quality.pairwise_f1 == 1.0
    assert (tuned.quality.n_clusters, tuned.quality.n_speakers) == (2, 2)


def test_tune_threshold_finds_the_best_of_all_cuts():
    embeddings, speakers = gaussian_voices(12, 5, 1.3)
    tuned = tune_threshold(embeddings, speakers)
    scores = [
        cluster_quality(cluster_voices(embeddings, n_speakers=n), speakers).pairwise_f1
        for n in range(1, len(embeddings) + 1)
    ]
    assert tuned.quality.pairwise_f1 == pytest.approx(max(scores))
    assert 0 < max(scores) < 1
    assert tuned.quality.n_clusters == 1 + int(np.argmax(scores))


def test_tune_threshold_works_for_other_speakers():
    embeddings, speakers = gaussian_voices(20, 8, 0.8, seed=1)
    threshold = tune_threshold(embeddings, speakers).threshold
    others, their_speakers = gaussian_voices(30, 12, 0.8, seed=2)
    quality = cluster_quality(cluster_voices(others, threshold=threshold), their_speakers)
    assert quality.purity > 0.95
    assert quality.coverage > 0.9
    assert 25 <= quality.n_clusters <= 40


def test_tune_threshold_leaves_out_clips_without_speaker_or_embedding():
    points = np.vstack([angles(90, 0, 100, 20), angles(45), [[np.nan, np.nan]]])
    tuned = tune_threshold(points, ["t", "s", "t", "s", None, "s"])
    assert tuned.threshold == tune_threshold(points[:4], ["t", "s", "t", "s"]).threshold
    assert tuned.quality.n_clips == 4


def test_tune_threshold_does_not_cut_between_equal_distances():
    # Both pairs merge at distance 0; one merge alone would already find one of the speakers.
    points = np.repeat(np.eye(2), 2, axis=0)
    tuned = tune_threshold(points, ["a", "a", "b", "b"])
    assert tuned.threshold == pytest.approx(0.5)  # between 0 and 1
    assert tuned.quality.pairwise_f1 == 1.0
    # One merge of the two at distance 0 is right and one wrong; only both can be had: 2 / (2 + 1).
    tuned = tune_threshold(points, ["a", "a", "b", "c"])
    assert tuned.threshold == pytest.approx(0.5)
    assert tuned.quality.pairwise_f1 == pytest.approx(2 / 3)
    # Where every clip of one point is another speaker, the best cut is all or nothing.
    tuned = tune_threshold(points, ["a", "b", "a", "b"])
    assert tuned.quality.n_clusters == 1


def test_wrong_values_raise(monkeypatch):
    points = angles(90, 0, 100, 20)
    cases = [
        (lambda: cluster_voices(points), "Give exactly one"),
        (lambda: cluster_voices(points, n_speakers=2, threshold=0.5), "Give exactly one"),
        (lambda: cluster_voices(points, n_speakers=5), "n_speakers is 5, expected 1 to 4"),
        (lambda: cluster_voices(points, n_speakers=0), "n_speakers is 0, expected 1 to 4"),
        (lambda: cluster_voices(points, threshold=-0.1), "expected a cosine distance from 0 to 2"),
        (lambda: cluster_voices(points * 0, n_speakers=1), "zero or not finite"),
        (lambda: tune_threshold(points, ["a"] * 4), "tuned on 4 clips of 1 known speakers"),
        (lambda: tune_threshold(points, list("abcd")), "tuned on 4 clips of 4 known speakers"),
        (lambda: tune_threshold(points, ["a", None, None, None]), "tuned on 1 clips of 1 known"),
        (lambda: cluster_quality([0, NO_CLUSTER], [None, "a"]), "No clip has both"),
    ]
    for call, message in cases:
        with pytest.raises(BadValueError, match=message):
            call()
    with pytest.raises(BadShapeError, match=r"shape \(2,\), expected \(n_clips, n_features\)"):
        cluster_voices(points[0], n_speakers=1)
    with pytest.raises(BadShapeError, match="1 speakers were given for 4 embeddings"):
        tune_threshold(points, ["a"])
    with pytest.raises(BadShapeError, match="1 clusters were given for 2 speakers"):
        cluster_quality([0], ["a", "b"])
    monkeypatch.setattr("abhinaya.speakers.clusters._MAX_CLIPS", 3)
    with pytest.raises(BadValueError, match=r"4 clips are too many .* most 3\. Select"):
        cluster_voices(points, n_speakers=2)
