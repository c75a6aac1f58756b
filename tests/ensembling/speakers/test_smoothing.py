from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.preprocessing import StandardScaler

from abhinaya.data.labels import ABSTAIN
from abhinaya.errors import BadShapeError, BadValueError, UnknownNameError
from ensembling.speakers.rows import (
    ABSTAINED,
    ADAPTED,
    ALONE,
    NO_SPEAKER,
    NO_VECTOR,
    Head,
    SpeakerRows,
    speaker_seed,
)
from ensembling.speakers.smoothing import (
    ClusterSettings,
    assign_greedily,
    assign_optimally,
    smooth_rows,
)
from ensembling.voting.soft_votes import softmax

IDENTITY = Head(np.eye(2), np.zeros(2))


def make_rows(embeddings, speakers, head=IDENTITY, probs=None, **fields):
    """Rows u0, u1, ... whose own predictions are the head's."""
    embeddings = np.asarray(embeddings, dtype=float)
    if probs is None:
        probs = softmax(head.logits(embeddings))
    return SpeakerRows(
        name="m",
        utterances=tuple(f"u{idx:03d}" for idx in range(len(embeddings))),
        speakers=tuple(speakers),
        labels=np.asarray(probs).argmax(axis=1),
        n_classes=np.shape(probs)[1],
        probs=np.asarray(probs, dtype=float),
        embeddings=embeddings,
        head=head,
        **fields,
    )


def random_rows(rng, n_speakers=6, n_classes=4, width=20, has_equal_classes=False):
    sizes = rng.integers(1, 12, n_speakers)
    speakers = [f"s{idx}" for idx, size in enumerate(sizes) for _ in range(size)]
    weight = rng.normal(size=(n_classes, width)) / 3
    if has_equal_classes:
        weight[1] = weight[2]
    head = Head(weight, np.zeros(n_classes))
    order = rng.permutation(len(speakers))
    return make_rows(
        rng.normal(size=(len(speakers), width)), [speakers[idx] for idx in order], head
    )


def two_speakers():
    """Both are heard by the head as one class throughout, each as another."""
    return make_rows(
        [(6, 0), (6, 1), (3, 2), (0, 6), (1, 6), (2, 3), (2, 3)],
        ["p", "p", "p", "q", "q", "q", "r"],
    )


def test_smooth_rows_follows_the_printed_algorithm_for_two_speakers():
    # The head is the identity, so the direct classes are the larger numbers: 0 0 0, 1 1 1, 1.
    rows = two_speakers()
    assert rows.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    result = smooth_rows(rows, ClusterSettings())
    # Speaker p: n = 3, k = min(3, 2) = 2.
    # 1. Standardise. First column 6 6 3: mean 5, sd sqrt((1 + 1 + 4) / 3) = 1.414, so .71 .71
    #    -1.41. Second 0 1 2: mean 1, sd sqrt(2 / 3) = .816, so -1.22 0 1.22.
    # 2. k-means. u0 to u1: 0 + 1.5; u1 to u2: 4.5 + 1.5; so {u0, u1} and {u2}.
    # 3. Centroids as they were: (6, .5) and (3, 2).
    # 4. Head and softmax: 1 / (1 + exp(-5.5)) = .9959, .0041; 1 / (1 + exp(-1)) = .7311, .2689.
    # 5. Triples: .9959 (0, class 0) counts; .7311 (1, class 0) has its class taken;
    #    .2689 (1, class 1) counts.
    # Speaker q is p with the columns exchanged; r has one utterance and keeps its class.
    assert result.labels.tolist() == [0, 0, 1, 1, 1, 0, 1]
    assert result.status == (ADAPTED,) * 6 + (ALONE,)
    np.testing.assert_allclose(
        result.probs,
        [
            [0.995930, 0.004070],
            [0.995930, 0.004070],
            [0.731059, 0.268941],
            [0.004070, 0.995930],
            [0.004070, 0.995930],
            [0.268941, 0.731059],
            [0.268941, 0.731059],
        ],
        atol=1e-6,
    )


def literal(embeddings, n_classes, seed, head=None, shares=None):
    """The printed algorithm for one speaker, word by word."""
    n = len(embeddings)
    if n == 1:
        only = head.logits(embeddings[0]) if shares is None else shares[0]
        return [int(np.argmax(only))]
    k = min(n, n_classes)
    standardised = StandardScaler().fit_transform(embeddings)
    found = KMeans(k, n_init=10, random_state=seed).fit_predict(standardised).tolist()
    # A "lower" cluster is one whose first utterance comes first.
    names = list(dict.fromkeys(found))
    cluster_of = [names.index(cluster) for cluster in found]
    probability = {}
    for cluster in range(k):
        members = [i for i in range(n) if cluster_of[i] == cluster]
        if shares is None:
            centroid = np.mean([embeddings[i] for i in members], axis=0)
            of_class = softmax(head.weight @ centroid + head.bias)
        else:
            of_class = np.mean([shares[i] for i in members], axis=0)
        for emotion in range(n_classes):
            probability[cluster, emotion] = of_class[emotion]
    triples = [(p, cluster, emotion) for (cluster, emotion), p in probability.items()]
    triples.sort(key=lambda triple: (-triple[0], triple[1], triple[2]))
    assigned, used = {}, set()
    for _, cluster, emotion in triples:
        if cluster not in assigned and emotion not in used:
            assigned[cluster] = emotion
            used.add(emotion)
        if len(assigned) == k:
            break
    for cluster in range(k):
        if cluster not in assigned:
            assigned[cluster] = max(range(n_classes), key=lambda e: (probability[cluster, e], -e))
    return [assigned[cluster_of[i]] for i in range(n)]


def speakers_of(rows):
    for name in sorted(set(rows.speakers)):
        yield name, [idx for idx, speaker in enumerate(rows.speakers) if speaker == name]


@pytest.mark.parametrize("has_equal_classes", [False, True], ids=["plain", "ties"])
def test_smooth_rows_equals_the_algorithm_word_by_word(has_equal_classes):
    rng = np.random.default_rng(1)
    n_changed = 0
    for _ in range(8):
        # Two classes with one row of the head are equally probable in every cluster.
        rows = random_rows(rng, has_equal_classes=has_equal_classes)
        ours = smooth_rows(rows, ClusterSettings(seed=5)).labels
        for name, idx in speakers_of(rows):
            theirs = literal(rows.embeddings[idx], 4, speaker_seed(name, 5), head=rows.head)
            assert ours[idx].tolist() == theirs
        n_changed += int((ours != rows.labels).sum())
    assert n_changed > 20


def test_smooth_rows_of_a_fused_table_equals_the_algorithm_word_by_word():
    rng = np.random.default_rng(2)
    for _ in range(8):
        rows = random_rows(rng)
        # Shares of three votes, so equal probabilities abound.
        shares = rng.multinomial(3, np.full(4, 0.25), size=len(rows)) / 3
        fused = make_rows(
            rows.embeddings, rows.speakers, rows.head, probs=shares, has_own_embeddings=False
        )
        ours = smooth_rows(fused, ClusterSettings()).labels
        for name, idx in speakers_of(fused):
            theirs = literal(
                fused.embeddings[idx], 4, speaker_seed(name, 0), shares=fused.probs[idx]
            )
            assert ours[idx].tolist() == theirs


def test_smooth_rows_does_not_depend_on_the_order_of_rows_or_on_other_speakers():
    rng = np.random.default_rng(3)
    rows = random_rows(rng, n_speakers=8)
    whole = smooth_rows(rows, ClusterSettings())
    order = rng.permutation(len(rows))
    shuffled = smooth_rows(rows.take(order), ClusterSettings())
    assert shuffled.labels.tolist() == whole.labels[order].tolist()
    np.testing.assert_array_equal(shuffled.probs, whole.probs[order])
    for _, idx in speakers_of(rows):
        alone = smooth_rows(rows.take(idx), ClusterSettings())
        assert alone.labels.tolist() == whole.labels[idx].tolist()


def test_smooth_rows_in_two_processes_gives_the_same(monkeypatch):
    monkeypatch.setattr("ensembling.speakers.smoothing._MIN_SPEAKERS_FOR_PROCESSES", 2)
    rows = random_rows(np.random.default_rng(4), n_speakers=9)
    for jobs in (2, -1):
        parallel = smooth_rows(rows, ClusterSettings(), n_jobs=jobs)
        assert parallel.labels.tolist() == smooth_rows(rows, ClusterSettings()).labels.tolist()


def test_smooth_rows_at_most_k_utterances_get_as_many_classes():
    # All three are clearly class 0, but each is a cluster of its own.
    head = Head(np.eye(4), np.zeros(4))
    rows = make_rows([(9, 3, 2, 1), (8, 3, 2, 1), (7, 3, 2, 1)], "ppp", head)
    assert rows.labels.tolist() == [0, 0, 0]
    # Softmax: u0 exp(-6) for class 1, u1 exp(-5), u2 exp(-4): u0 takes 0 first, u2 takes 1, u1 2.
    assert smooth_rows(rows, ClusterSettings()).labels.tolist() == [0, 2, 1]


def test_smooth_rows_equal_embeddings_share_a_cluster():
    rows = make_rows([(5, 1), (5, 1), (5, 1)], "ppp")
    result = smooth_rows(rows, ClusterSettings())
    assert result.labels.tolist() == [0, 0, 0]
    assert result.status == (ADAPTED,) * 3


def test_smooth_rows_keeps_what_cannot_be_adapted_and_leaves_it_out():
    base = two_speakers()
    embeddings = np.vstack([base.embeddings[:3], [(9, 9), (50, 50), (np.nan, np.nan)]])
    rows = make_rows(embeddings, ["p", "p", "p", None, "p", "p"])
    labels = rows.labels.copy()
    labels[4] = ABSTAIN
    labels[5] = 1
    rows = SpeakerRows(**{**rows.__dict__, "labels": labels})
    result = smooth_rows(rows, ClusterSettings())
    # The first three come out as without the others; (50, 50) would have been a cluster.
    assert result.labels.tolist() == [0, 0, 1, 0, ABSTAIN, 1]
    assert result.status == (*(ADAPTED,) * 3, NO_SPEAKER, ABSTAINED, NO_VECTOR)
    np.testing.assert_array_equal(result.probs[3:], rows.probs[3:])


def test_smooth_rows_unknown_speakers_are_not_one_speaker():
    rows = two_speakers()
    rows = SpeakerRows(**{**rows.__dict__, "speakers": (None,) * 3 + ("q",) * 3 + (None,)})
    result = smooth_rows(rows, ClusterSettings())
    assert result.labels.tolist() == [0, 0, 0, 1, 1, 0, 1]


def test_smooth_rows_smallest_speaker_can_be_set():
    result = smooth_rows(two_speakers(), ClusterSettings(min_utts=4))
    assert result.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert set(result.status) == {ALONE}


def test_smooth_rows_needs_a_known_speaker():
    rows = SpeakerRows(**{**two_speakers().__dict__, "speakers": (None,) * 7})
    with pytest.raises(BadValueError, match=r"No speaker is known of the 7 .* abhinaya speakers"):
        smooth_rows(rows, ClusterSettings())


def test_assign_greedily_equals_the_sorted_triples_with_many_ties():
    rng = np.random.default_rng(6)
    for _ in range(200):
        shape = rng.integers(1, 7, 2)
        evidence = rng.integers(0, 4, shape) / 4
        triples = sorted((-evidence[c, e], c, e) for c in range(shape[0]) for e in range(shape[1]))
        classes, used = {}, set()
        for _, cluster, emotion in triples:
            if cluster not in classes and emotion not in used:
                classes[cluster] = emotion
                used.add(emotion)
        expected = [classes.get(c, int(evidence[c].argmax())) for c in range(shape[0])]
        assert assign_greedily(evidence).tolist() == expected


def test_assign_greedily_ties_go_to_the_lower_cluster_then_the_lower_class():
    # All equal: cluster 0 gets class 0, cluster 1 class 1; cluster 2 is left over: argmax 0.
    assert assign_greedily(np.full((3, 2), 0.5)).tolist() == [0, 1, 0]


def test_assign_optimally_may_give_up_the_most_certain_pair():
    # Greedy takes .9 and is left with .1: 1.0. The optimum is .8 + .7 = 1.5.
    evidence = np.array([[0.9, 0.8], [0.7, 0.1]])
    assert assign_greedily(evidence).tolist() == [0, 1]
    assert assign_optimally(evidence).tolist() == [1, 0]


def test_assign_optimally_leftover_clusters_take_their_argmax():
    # Best sum: cluster 1 with class 0 (.8), cluster 2 with class 1 (.7); cluster 0: argmax 0.
    evidence = np.array([[0.6, 0.4], [0.8, 0.2], [0.3, 0.7]])
    assert assign_optimally(evidence).tolist() == [0, 0, 1]


@pytest.mark.parametrize("assign", [assign_greedily, assign_optimally])
def test_assign_without_clusters_raises(assign):
    with pytest.raises(BadShapeError, match=r"evidence has shape \(0, 2\), expected \(n_clusters"):
        assign(np.zeros((0, 2)))


@pytest.mark.parametrize(
    ("fields", "error", "match"),
    [
        ({"clustering": "kmeans"}, UnknownNameError, "clustering 'kmeans'. Did you mean 'k-means'"),
        ({"space": "embeddings"}, UnknownNameError, "Unknown space 'embeddings'"),
        ({"assignment": "hungarian"}, UnknownNameError, "Unknown assignment 'hungarian'"),
        ({"evidence": "vote"}, UnknownNameError, "Unknown evidence 'vote'"),
        ({"standardised": "no"}, UnknownNameError, "Unknown choice of standardised 'no'"),
        ({"n_clusters": -1}, BadValueError, "n_clusters is -1, expected at least 1, or 0"),
        ({"mix": 1.5}, BadValueError, "mix is 1.5, expected 0 .* to 1"),
        ({"min_utts": 1}, BadValueError, "min_utts is 1, expected at least 2"),
    ],
)
def test_cluster_settings_out_of_range_raises(fields, error, match):
    with pytest.raises(error, match=match):
        ClusterSettings(**fields)
