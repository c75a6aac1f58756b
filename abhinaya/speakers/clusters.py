"""Speakers where none are given: clips grouped by the voices that their embeddings describe.

Agglomerative clustering with average linkage on cosine distances, 1 - cos, the usual last step of
speaker diarisation. Where to stop merging is told by a known number of speakers, a threshold, or a
threshold tuned on clips of known speakers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from abhinaya.errors import BadShapeError, BadValueError

__all__ = [
    "NO_CLUSTER",
    "ClusterQuality",
    "TunedThreshold",
    "cluster_quality",
    "cluster_voices",
    "tune_threshold",
]

NO_CLUSTER = -1
"""Cluster of a clip that has no embedding."""

# Distances of all pairs are held twice: 20,000 clips need some 3.2 GB.
_MAX_CLIPS = 20_000

# Closer distances are the same one, up to rounding.
_SAME_DISTANCE = 1e-9


@dataclass(frozen=True)
class ClusterQuality:
    """How well clusters agree with known speakers. All rates lie in [0, 1] and count clips.

    Purity and coverage are those of pyannote.metrics (Bredin 2017), which weighs them by time.

    Args:
        purity: share of the clips whose speaker is the most frequent one of their cluster; 1 if no
            cluster mixes speakers.
        coverage: share of the clips whose cluster is the most frequent one of their speaker; 1 if
            no speaker is spread over clusters.
        pairwise_precision: share of the pairs in one cluster that are of one speaker.
        pairwise_recall: share of the pairs of one speaker that are in one cluster.
        pairwise_f1: harmonic mean of the two; 0 where no pair is in both.
        n_clips: clips with a cluster and a known speaker; only these count.
        n_clusters: clusters among them.
        n_speakers: true speakers among them.
    """

    purity: float
    coverage: float
    pairwise_precision: float
    pairwise_recall: float
    pairwise_f1: float
    n_clips: int
    n_clusters: int
    n_speakers: int


@dataclass(frozen=True)
class TunedThreshold:
    """Where merging should stop, and how well that works on the clips it was tuned on.

    Args:
        threshold: cosine distance, in [0, 2].
        quality: on the same clips; so it is better than what to expect elsewhere.
    """

    threshold: float
    quality: ClusterQuality


def cluster_voices(
    embeddings: NDArray[np.floating[Any]],
    *,
    n_speakers: int | None = None,
    threshold: float | None = None,
) -> NDArray[np.int64]:
    """Find which clips are of one voice.

    Args:
        embeddings: one per clip, shape (U, D); a row of NaN where there is none.
        n_speakers: how many clusters to make.
        threshold: largest mean cosine distance between two clusters that are merged, in [0, 2].
            Exactly one of the two must be given.

    Returns:
        Cluster of each clip, shape (U,), numbered from 0 in the order of the clips; `NO_CLUSTER`
        for clips without an embedding.

    Raises:
        BadShapeError: if `embeddings` is not two-dimensional.
        BadValueError: if not exactly one of the two is given, a value is out of range, an embedding
            is zero, or there are too many clips.

    Example:
        >>> points = np.array([[1.0, 0.1], [0.0, 2.0], [3.0, 0.0]])
        >>> cluster_voices(points, n_speakers=2).tolist()
        [0, 1, 0]
    """
    from scipy.cluster.hierarchy import cut_tree, fcluster

    if (n_speakers is None) == (threshold is None):
        raise BadValueError(
            "Clustering needs either a number of speakers or a threshold. Give exactly one of them."
        )
    has_voice = _check(embeddings)
    n_clips = int(has_voice.sum())
    if threshold is not None and not 0 <= threshold <= 2:
        raise BadValueError(
            f"threshold is {threshold:g}, expected a cosine distance from 0 to 2. "
            "Tune it on clips of known speakers."
        )
    if n_speakers is not None and not 1 <= n_speakers <= n_clips:
        raise BadValueError(
            f"n_speakers is {n_speakers}, expected 1 to {n_clips}, the number of clips with an "
            "embedding."
        )
    clusters = np.full(len(embeddings), NO_CLUSTER, dtype=np.int64)
    if n_clips < 2:
        clusters[has_voice] = 0
        return clusters
    tree = _merge(embeddings[has_voice])
    if threshold is not None:
        found = fcluster(tree, threshold, criterion="distance")
    else:
        assert n_speakers is not None
        # Unlike fcluster's maxclust it gives exactly this many, also where merges tie.
        found = cut_tree(tree, n_clusters=[n_speakers])[:, 0]
    clusters[has_voice] = pd.factorize(found)[0]  # in order of appearance
    return clusters


def tune_threshold(
    embeddings: NDArray[np.floating[Any]], speakers: Sequence[str | None]
) -> TunedThreshold:
    """Find the threshold of highest pairwise F1 on clips of known speakers.

    Every place where merging can stop is tried; the threshold is the middle between the merge
    before and the merge after. Of equally good places the first one counts, which merges least.

    Args:
        embeddings: one per clip, shape (U, D); rows of NaN are left out.
        speakers: U names; clips of an unknown speaker are left out.

    Raises:
        BadShapeError: if the lengths differ.
        BadValueError: if the clips are not of at least two speakers, one of them with two clips.
    """
    has_voice = _check(embeddings)
    if len(speakers) != len(embeddings):
        raise BadShapeError(
            f"{len(speakers)} speakers were given for {len(embeddings)} embeddings. "
            "Pass one per clip."
        )
    is_usable = has_voice & np.array([speaker is not None for speaker in speakers], dtype=bool)
    known = [speakers[idx] for idx in np.flatnonzero(is_usable).tolist()]
    sizes = Counter(known)
    if len(sizes) < 2 or max(sizes.values()) < 2:
        raise BadValueError(
            f"The threshold cannot be tuned on {len(known)} clips of {len(sizes)} known speakers: "
            "expected at least two speakers, one of them with two clips. Tune on another "
            "selection, or give the threshold."
        )
    tree = _merge(embeddings[is_usable])
    heights = tree[:, 2]
    scores = _pairwise_f1_after_merges(tree, known)  # (n_clips,): after 0, 1, ... merges
    # Equal distances cannot be cut between, nor clips of distance zero be kept apart.
    gaps = np.diff(heights, prepend=0.0, append=np.inf)
    scores[gaps <= _SAME_DISTANCE] = -1
    n_merges = int(scores.argmax())
    before = heights[n_merges - 1] if n_merges else 0.0
    after = heights[n_merges] if n_merges < len(heights) else before
    threshold = float((before + after) / 2)
    clusters = np.full(len(embeddings), NO_CLUSTER, dtype=np.int64)
    clusters[is_usable] = cluster_voices(embeddings[is_usable], threshold=threshold)
    return TunedThreshold(threshold, cluster_quality(clusters, speakers))


def cluster_quality(
    clusters: Sequence[int] | NDArray[np.int64], speakers: Sequence[str | None]
) -> ClusterQuality:
    """Measure how well clusters agree with speakers, over the clips that have both.

    With n[c, s] clips of speaker s in cluster c and N in all: purity is the sum over c of
    max_s n[c, s], divided by N; coverage the sum over s of max_c n[c, s], divided by N.

    Args:
        clusters: cluster of each clip, length U; `NO_CLUSTER` for none.
        speakers: true speaker of each clip, length U, None where unknown.

    Raises:
        BadShapeError: if the lengths differ.
        BadValueError: if no clip has both.

    Example:
        >>> quality = cluster_quality([0, 0, 0, 1], ["a", "a", "b", "b"])
        >>> quality.purity, quality.coverage
        (0.75, 0.75)
    """
    if len(clusters) != len(speakers):
        raise BadShapeError(
            f"{len(clusters)} clusters were given for {len(speakers)} speakers. Pass one per clip."
        )
    both = [
        (int(cluster), speaker)
        for cluster, speaker in zip(clusters, speakers, strict=True)
        if cluster != NO_CLUSTER and speaker is not None
    ]
    if not both:
        raise BadValueError(
            "No clip has both a cluster and a known speaker, so there is nothing to compare."
        )
    from sklearn.metrics.cluster import contingency_matrix

    of_cluster, of_speaker = zip(*both, strict=True)
    # Sparse: thousands of speakers would make the whole table too large.
    shared = contingency_matrix(of_cluster, of_speaker, sparse=True).tocsr()
    n_right = _pairs(shared.data)
    n_clustered, n_true = (_pairs(shared.sum(axis=axis)) for axis in (1, 0))
    return ClusterQuality(
        purity=float(shared.max(axis=1).sum() / len(both)),
        coverage=float(shared.max(axis=0).sum() / len(both)),
        # Nothing was claimed, or nothing was to be found: nothing is wrong with it.
        pairwise_precision=n_right / n_clustered if n_clustered else 1.0,
        pairwise_recall=n_right / n_true if n_true else 1.0,
        pairwise_f1=_f1(n_right, n_clustered, n_true),
        n_clips=len(both),
        n_clusters=shared.shape[0],
        n_speakers=shared.shape[1],
    )


def _check(embeddings: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """Check embeddings; return True where there is one, shape (U,)."""
    if embeddings.ndim != 2:
        raise BadShapeError(
            f"embeddings have shape {embeddings.shape}, expected (n_clips, n_features)."
        )
    has_voice = ~np.isnan(embeddings).all(axis=1)
    usable = embeddings[has_voice]
    if not np.isfinite(usable).all() or not usable.any(axis=1).all():
        raise BadValueError(
            "An embedding is zero or not finite, so it has no direction to compare. Leave the clip "
            "out by a row of NaN."
        )
    if len(usable) > _MAX_CLIPS:
        raise BadValueError(
            f"{len(usable)} clips are too many to compare each with each, expected at most "
            f"{_MAX_CLIPS}. Select fewer, for example one split."
        )
    return np.asarray(has_voice)


def _merge(embeddings: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Merge clips into SciPy's tree, shape (n_clips - 1, 4)."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import pdist

    # Rounding makes the distance of a vector to itself slightly negative.
    distances = np.maximum(pdist(embeddings.astype(np.float64), metric="cosine"), 0.0)
    return np.asarray(linkage(distances, method="average"))


def _pairwise_f1_after_merges(
    tree: NDArray[np.float64], speakers: Sequence[str | None]
) -> NDArray[np.float64]:
    """Return pairwise F1 after no merge, after the first one, ... after all, shape (n_clips,)."""
    members: dict[int, Counter[str | None]] = {
        idx: Counter([speaker]) for idx, speaker in enumerate(speakers)
    }
    n_true = _pairs(list(Counter(speakers).values()))
    n_right = n_clustered = 0
    scores = [_f1(0, 0, n_true)]
    for step, (first, second) in enumerate(tree[:, :2].astype(int).tolist()):
        one, other = members.pop(first), members.pop(second)
        if len(one) < len(other):
            one, other = other, one
        n_clustered += one.total() * other.total()
        n_right += sum(count * one[speaker] for speaker, count in other.items())
        one.update(other)
        members[len(speakers) + step] = one
        scores.append(_f1(n_right, n_clustered, n_true))
    return np.array(scores)


def _pairs(sizes: Sequence[int] | NDArray[np.integer[Any]]) -> int:
    """Number of pairs within groups of these sizes."""
    counts = np.asarray(sizes, dtype=np.int64)
    return int((counts * (counts - 1) // 2).sum())


def _f1(n_right: int, n_clustered: int, n_true: int) -> float:
    return 2 * n_right / (n_clustered + n_true) if n_right else 0.0
