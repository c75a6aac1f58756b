"""Greedy cluster assignment: one emotion per cluster of a speaker's utterances.

A speaker's utterances are clustered, each cluster gets class probabilities, and classes are dealt
out to clusters one to one, the most certain pair first. What a model hears in a voice rather than
in an emotion is the same for all clusters of that voice, so it cancels.

Source: winning system of POL-EVAL 2025, task 4; there K = 6 and k-means only.

Beware: a speaker with at most k utterances has each of them in a cluster of its own, and one-to-one
assignment forces all of them into different classes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from abhinaya.errors import BadShapeError, BadValueError, UnknownNameError
from ensembling.speakers.clustering import Clustering, cluster_points
from ensembling.speakers.rows import (
    Adapted,
    Head,
    SpeakerRows,
    group_speakers,
    keep_all,
    require_min_utts,
    speaker_seed,
)
from ensembling.speakers.standardize import standardize_columns
from ensembling.voting.soft_votes import softmax

__all__ = [
    "Assignment",
    "ClusterSettings",
    "Evidence",
    "Space",
    "Standardised",
    "assign_greedily",
    "assign_optimally",
    "smooth_rows",
]

FloatArray = NDArray[np.float64]

Space = Literal["embedding", "logits", "probabilities"]
"""What is clustered: embeddings, what the head makes of them, or the table's probabilities."""

Assignment = Literal["greedy", "optimal", "soft"]
"""How clusters get classes; `soft` gives each utterance a mixture instead."""

Evidence = Literal["auto", "head", "probabilities"]
"""Where a cluster's class probabilities come from."""

Standardised = Literal["auto", "always", "never"]
"""Whether each column is standardised per speaker before clustering; `auto`: only embeddings."""

# Below this many speakers, starting processes takes longer than clustering.
_MIN_SPEAKERS_FOR_PROCESSES = 400


@dataclass(frozen=True)
class ClusterSettings:
    """How one speaker's utterances are clustered and get their classes.

    Args:
        n_clusters: k, at most; 0 stands for K, the number of classes.
        clustering: how to cluster, see `ensembling.speakers.clustering`.
        space: what is clustered.
        standardised: whether each of its columns gets mean 0 and standard deviation 1 per speaker
            first. `auto` does that to embeddings, as published; logits and probabilities have one
            scale for all classes already.
        assignment: `greedy` and `optimal` deal out classes one to one; `soft` gives each utterance
            mix * (its cluster's probabilities) + (1 - mix) * (its own), and their largest class.
        mix: weight of the cluster in `soft`, in [0, 1]; at 1 each cluster takes its own argmax.
        evidence: `head` applies the head to the cluster's mean embedding, `probabilities` takes the
            mean of the table's probabilities in the cluster. `auto` is `head` for a table with
            embeddings and head of its own, else `probabilities`: a fused table, even with a
            member's embeddings, shall not be overruled by that member.
        min_utts: smallest number of usable utterances of a speaker that is adapted to.
        seed: of the clustering; each speaker's own seed comes from it and the speaker's name.

    Raises:
        UnknownNameError: if a choice is unknown.
        BadValueError: if a number is out of range.
    """

    n_clusters: int = 0
    clustering: Clustering = "k-means"
    space: Space = "embedding"
    standardised: Standardised = "auto"
    assignment: Assignment = "greedy"
    mix: float = 0.5
    evidence: Evidence = "auto"
    min_utts: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        choices = (
            ("clustering", self.clustering, get_args(Clustering)),
            ("space", self.space, get_args(Space)),
            ("choice of standardised", self.standardised, get_args(Standardised)),
            ("assignment", self.assignment, get_args(Assignment)),
            ("evidence", self.evidence, get_args(Evidence)),
        )
        for kind, value, known in choices:
            if value not in known:
                raise UnknownNameError(kind, value, known)
        if self.n_clusters < 0:
            raise BadValueError(
                f"n_clusters is {self.n_clusters}, expected at least 1, or 0 for as many as there "
                "are classes."
            )
        if not 0 <= self.mix <= 1:
            raise BadValueError(
                f"mix is {self.mix}, expected 0 (only the utterance) to 1 (only its cluster)."
            )
        require_min_utts(self.min_utts)


def smooth_rows(rows: SpeakerRows, settings: ClusterSettings, *, n_jobs: int = 1) -> Adapted:
    """Give each speaker's utterances the classes of their clusters.

    Per speaker of n >= 2 utterances: k = min(n, K) clusters of the standardised embeddings; the
    centroid of a cluster is the mean of its embeddings as they are; the head gives its class
    probabilities; `assign_greedily` gives the classes; every utterance takes its cluster's class.

    Kept as they are, and left out of the clustering: rows that abstained, lack a speaker, or lack
    the embedding or probabilities that the settings need; and speakers with fewer than `min_utts`
    of the others. Neither the order of the rows nor other speakers matter.

    Args:
        rows: the table.
        settings: the choices.
        n_jobs: processes; -1 for one per core. The result does not depend on it.

    Returns:
        Labels and status. `probs` of adapted rows are their cluster's (`soft`: the mixture); with
        one-to-one assignment the label need not be the largest of them.

    Raises:
        BadValueError: if no speaker is known, or the table lacks what the settings need.
    """
    rows.require_speakers()
    plan, is_usable = _make_plan(rows, settings)
    groups, status = group_speakers(rows, is_usable, settings.min_utts)
    speakers = [
        _Speaker(
            None if rows.embeddings is None else rows.embeddings[idx],
            None if rows.probs is None else rows.probs[idx],
            speaker_seed(name, settings.seed),
        )
        for name, idx in groups
    ]
    labels, probs = keep_all(rows)
    results = _run_all(plan, speakers, n_jobs)
    for (_, idx), (new_labels, new_probs) in zip(groups, results, strict=True):
        labels[idx], probs[idx] = new_labels, new_probs
    return Adapted(labels, probs, tuple(status))


def assign_greedily(evidence: FloatArray) -> NDArray[np.int64]:
    """Deal a class to each cluster: the most probable pair first, one to one while possible.

    All (probability, cluster, class) triples are gone through in descending order; equal ones by
    lower cluster, then lower class. A pair counts if neither its cluster nor its class is taken.
    With more clusters than classes, those left over take their own largest class.

    Args:
        evidence: class probabilities of each cluster, shape (k, K).

    Returns:
        Class indices, shape (k,).

    Raises:
        BadShapeError: if `evidence` is not two-dimensional.

    Example:
        Cluster 0 gets class 0 (.9), which clusters 1 (.8) and 2 (.6) may not have; cluster 2 gets
        class 1 (.4) before cluster 1 (.2), which is left over and takes its argmax.

        >>> assign_greedily(np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]])).tolist()
        [0, 0, 1]
    """
    _check_evidence(evidence)
    classes: NDArray[np.int64] = evidence.argmax(axis=1).astype(np.int64)
    n_clusters, n_classes = evidence.shape
    # A stable sort of the row-major triples keeps lower cluster, then lower class, first.
    order = np.argsort(-evidence, axis=None, kind="stable")
    is_cluster_free = np.ones(n_clusters, dtype=bool)
    is_class_free = np.ones(n_classes, dtype=bool)
    for place in order:
        cluster, class_idx = divmod(int(place), n_classes)
        if is_cluster_free[cluster] and is_class_free[class_idx]:
            classes[cluster] = class_idx
            is_cluster_free[cluster] = is_class_free[class_idx] = False
    return classes


def assign_optimally(evidence: FloatArray) -> NDArray[np.int64]:
    """Deal a class to each cluster: one to one with the largest sum of probabilities.

    With more clusters than classes, those left over take their own largest class.

    Source: Kuhn, "The Hungarian Method for the Assignment Problem", 1955.

    Args:
        evidence: class probabilities of each cluster, shape (k, K).

    Returns:
        Class indices, shape (k,).

    Raises:
        BadShapeError: if `evidence` is not two-dimensional.

    Example:
        >>> assign_optimally(np.array([[0.9, 0.8], [0.7, 0.1]])).tolist()
        [1, 0]
    """
    from scipy.optimize import linear_sum_assignment

    _check_evidence(evidence)
    classes: NDArray[np.int64] = evidence.argmax(axis=1).astype(np.int64)
    clusters, chosen = linear_sum_assignment(evidence, maximize=True)
    classes[clusters] = chosen
    return classes


@dataclass(frozen=True, eq=False)
class _Speaker:
    """One speaker's n utterances: embeddings (n, D) and probabilities (n, K), where needed."""

    embeddings: FloatArray | None
    probs: FloatArray | None
    seed: int


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is the same for all speakers; `head` is there where it gives the evidence or vectors."""

    settings: ClusterSettings
    n_classes: int
    evidence_by_head: bool
    head: Head | None


def _make_plan(rows: SpeakerRows, settings: ClusterSettings) -> tuple[_Plan, NDArray[np.bool_]]:
    """Make the plan, and find which rows have the numbers that it needs, shape (U,)."""
    by_head = settings.evidence == "head"
    if settings.evidence == "auto":
        by_head = rows.has_own_embeddings and rows.head is not None and rows.embeddings is not None
    head = None
    is_usable = np.ones(len(rows), dtype=bool)
    if settings.space in ("embedding", "logits") or by_head:
        purpose = f"the space {settings.space!r}"
        if settings.space == "probabilities":
            purpose = "the evidence 'head'"
        rows.require_embeddings(purpose)
        is_usable &= rows.has_embedding
        if settings.space == "logits" or by_head:
            head = rows.require_head(purpose)
    purposes = [
        ("the space 'probabilities'", settings.space == "probabilities"),
        ("the evidence 'probabilities'", not by_head),
        ("the assignment 'soft'", settings.assignment == "soft"),
    ]
    for purpose, is_needed in purposes:
        if is_needed:
            rows.require_probs(purpose)
            is_usable &= rows.has_probs
    return _Plan(settings, rows.n_classes, by_head, head), is_usable


_Result = tuple[NDArray[np.int64], FloatArray]


def _run_all(plan: _Plan, speakers: Sequence[_Speaker], n_jobs: int) -> list[_Result]:
    if n_jobs == 1 or len(speakers) < _MIN_SPEAKERS_FOR_PROCESSES:
        return _run_some(plan, speakers)
    from sklearn.utils.parallel import Parallel, delayed

    # Some parts per process even out their lengths; more would only be more to send.
    n_parts = 4 * (n_jobs if n_jobs > 0 else os.cpu_count() or 1)
    size = -(-len(speakers) // n_parts)
    parts: list[list[_Result]] = Parallel(n_jobs)(
        delayed(_run_some)(plan, speakers[at : at + size]) for at in range(0, len(speakers), size)
    )
    return [result for part in parts for result in part]


def _run_some(plan: _Plan, speakers: Sequence[_Speaker]) -> list[_Result]:
    from sklearn import config_context
    from threadpoolctl import threadpool_limits

    # With a dozen points, checks of arguments take longer than the work, and so would more threads.
    with (
        config_context(skip_parameter_validation=True, assume_finite=True),
        threadpool_limits(1, "blas"),
    ):
        return [_smooth_speaker(plan, speaker) for speaker in speakers]


def _smooth_speaker(plan: _Plan, speaker: _Speaker) -> _Result:
    """Return labels (n,) and probabilities (n, K) of one speaker."""
    settings = plan.settings
    vectors = _vectors(plan, speaker)
    is_embedding = settings.space == "embedding"
    if settings.standardised == "always" or (settings.standardised == "auto" and is_embedding):
        vectors = standardize_columns(vectors)
    clusters = cluster_points(
        vectors,
        settings.n_clusters or plan.n_classes,
        clustering=settings.clustering,
        seed=speaker.seed,
    )
    if plan.evidence_by_head:
        assert plan.head is not None
        assert speaker.embeddings is not None
        evidence = softmax(plan.head.logits(_means(speaker.embeddings, clusters)))
    else:
        assert speaker.probs is not None
        evidence = _means(speaker.probs, clusters)
    if settings.assignment == "soft":
        assert speaker.probs is not None
        mixed = settings.mix * evidence[clusters] + (1 - settings.mix) * speaker.probs
        return mixed.argmax(axis=1), mixed
    assign = assign_greedily if settings.assignment == "greedy" else assign_optimally
    return assign(evidence)[clusters], evidence[clusters]


def _vectors(plan: _Plan, speaker: _Speaker) -> FloatArray:
    if plan.settings.space == "probabilities":
        assert speaker.probs is not None
        return speaker.probs
    assert speaker.embeddings is not None
    if plan.settings.space == "embedding":
        return speaker.embeddings
    assert plan.head is not None
    return plan.head.logits(speaker.embeddings)


def _means(values: FloatArray, clusters: NDArray[np.int64]) -> FloatArray:
    """Compute the mean row of each cluster, shape (k, K)."""
    members = np.eye(int(clusters.max()) + 1)[clusters]  # (n, k)
    return np.asarray(members.T @ values / members.sum(axis=0)[:, None])


def _check_evidence(evidence: NDArray[Any]) -> None:
    if evidence.ndim != 2 or 0 in evidence.shape:
        raise BadShapeError(
            f"The evidence has shape {evidence.shape}, expected (n_clusters, n_classes) with at "
            "least one of each. Give one row of class probabilities per cluster."
        )
