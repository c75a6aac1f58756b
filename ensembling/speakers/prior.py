"""Re-estimation of each speaker's class prior by expectation maximisation on the probabilities.

Somebody who is angry in most of an interview is probably angry in the unclear sentences too.

Source: Saerens, Latinne & Decaestecker, "Adjusting the Outputs of a Classifier to New a Priori
Probabilities: A Simple Procedure", Neural Computation 14(1), 2002, pages 21-41, equation 2.9.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from abhinaya.errors import BadShapeError, BadValueError, UnknownNameError
from ensembling.speakers.rows import (
    Adapted,
    SpeakerRows,
    group_speakers,
    keep_all,
    require_min_utts,
)

__all__ = ["TrainingPrior", "estimate_prior", "reestimate_rows"]

FloatArray = NDArray[np.float64]

TrainingPrior = Literal["auto", "balanced", "table"]
"""The prior under which the table's probabilities are posteriors."""

_MAX_STEPS = 1_000
_TOLERANCE = 1e-6


def reestimate_rows(
    rows: SpeakerRows,
    *,
    strength: float = 0.0,
    training_prior: TrainingPrior = "auto",
    min_utts: int = 2,
) -> Adapted:
    """Re-estimate probabilities under each speaker's own class prior.

    Kept as they are: rows that abstained or lack a speaker or probabilities, and speakers with
    fewer than `min_utts` of the others.

    Args:
        rows: a table with probabilities.
        strength: see `estimate_prior`.
        training_prior: `balanced` is the same for all classes, right where the loss has freed the
            logits from the prior; `table` is the mean probability over the table's rows, which for
            calibrated probabilities is the share of each class. `auto` is `balanced` where the
            table's metadata names an absorbed prior, else `table`.
        min_utts: smallest number of usable utterances of a speaker that is adapted to.

    Raises:
        BadValueError: if no speaker is known, the table has no probabilities, or a number is out of
            range.
        UnknownNameError: if the training prior is unknown.
    """
    require_min_utts(min_utts)
    if training_prior not in get_args(TrainingPrior):
        raise UnknownNameError("training prior", training_prior, get_args(TrainingPrior))
    rows.require_speakers()
    posteriors = rows.require_probs("re-estimating the class prior")
    has_probs = rows.has_probs
    if training_prior == "balanced" or (training_prior == "auto" and rows.absorbed_prior):
        before = np.full(rows.n_classes, 1 / rows.n_classes)
    else:
        # In the order of the names, so that rounding does not depend on the order of the table.
        order = rows.by_utterance
        before = posteriors[order[has_probs[order]]].mean(axis=0)
    groups, status = group_speakers(rows, has_probs, min_utts)
    labels, probs = keep_all(rows)
    for _, idx in groups:
        _, probs[idx] = estimate_prior(posteriors[idx], before, strength=strength)
        labels[idx] = probs[idx].argmax(axis=1)
    return Adapted(labels, probs, tuple(status))


def estimate_prior(
    posteriors: FloatArray, training_prior: FloatArray, *, strength: float = 0.0
) -> tuple[FloatArray, FloatArray]:
    """Estimate the class prior of a few utterances, and their posteriors under it.

    With t the training prior and p_i(c) the given posteriors, from q = t on, repeat:

        posterior:  r_i(c) = (q(c) / t(c)) p_i(c) / sum over c' of (q(c') / t(c')) p_i(c')
        prior:      q(c) = (sum over i of r_i(c) + strength * t(c)) / (n + strength)

    until q changes by less than 1e-6, at most 1,000 times. At strength 0 this is Saerens et al.:
    every step raises the likelihood, sum over i of log sum over c of (q(c) / t(c)) p_i(c), which
    has one maximum. A dozen utterances easily drive a class to zero; the strength counts as so
    many further utterances spread as in training (a Dirichlet prior; at a large one q stays t).
    A class with t(c) = 0 keeps q(c) = 0.

    Args:
        posteriors: class probabilities of n utterances, shape (n, K).
        training_prior: t, shape (K,), sums to 1.
        strength: pseudo-utterances, at least 0.

    Returns:
        prior: q, shape (K,).
        posteriors: r under that prior, shape (n, K).

    Raises:
        BadShapeError: if the shapes do not fit.
        BadValueError: if the strength is negative, or an utterance has no probability left in any
            class that the training prior allows.

    Example:
        One class is certain in two of three utterances, so their share is its prior.

        >>> certain = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> prior, _ = estimate_prior(certain, np.array([0.5, 0.5]))
        >>> prior.round(4).tolist()
        [0.6667, 0.3333]
    """
    if posteriors.ndim != 2 or training_prior.shape != posteriors.shape[1:] or not len(posteriors):
        raise BadShapeError(
            f"posteriors has shape {posteriors.shape} and training_prior {training_prior.shape}, "
            "expected (n_utts, n_classes) with at least one utterance, and (n_classes,)."
        )
    if not strength >= 0:
        raise BadValueError(
            f"strength is {strength}, expected 0 or more pseudo-utterances; 0 is the published "
            "procedure."
        )
    is_allowed = training_prior > 0
    likelihoods = np.zeros_like(posteriors)  # up to a factor per utterance: p_i(c) / t(c)
    np.divide(posteriors, training_prior, out=likelihoods, where=is_allowed)
    if (likelihoods.sum(axis=1) == 0).any():
        raise BadValueError(
            "An utterance has no probability in any class that the training prior allows, "
            f"{training_prior.tolist()}. Use a training prior without zeros, such as 'balanced'."
        )
    prior = training_prior
    for _ in range(_MAX_STEPS):
        joint = prior * likelihoods
        sums = (joint / joint.sum(axis=1, keepdims=True)).sum(axis=0)
        new = (sums + strength * training_prior) / (len(posteriors) + strength)
        has_settled = np.abs(new - prior).max() < _TOLERANCE
        prior = new
        if has_settled:
            break
    joint = prior * likelihoods
    return prior, joint / joint.sum(axis=1, keepdims=True)
