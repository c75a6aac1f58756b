"""Members multiplied as independent witnesses, each freed from the class prior it learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.errors import BadValueError
from abhinaya.evaluation.metrics import scores
from ensembling.aligned import AlignedTables
from ensembling.learned.recipes import Fused, LearnedRule, fuse, read_options
from ensembling.voting.soft_votes import log_probs, require_probs, softmax

__all__ = ["LOG_ODDS", "add_log_odds", "class_shares", "remaining_log_priors"]

_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_MAX_ROUNDS = 5
_IMPROVEMENT = 1e-12


def add_log_odds(
    aligned: AlignedTables, log_priors: NDArray[np.float64], log_target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Add up the unnormalised log posterior of each class, shape (U, K).

    Sum over the members that take part of (log p_m - their log prior), plus the log target prior:
    Bayes' rule for members that err independently given the class.

    Source: Kittler et al., "On Combining Classifiers", 1998, eq. 7, there with one prior for all.

    Args:
        aligned: what the members say.
        log_priors: what is taken off each member's log probabilities, shape (M, K).
        log_target: log of the class prior where the result will be used, shape (K,).
    """
    takes_part = (aligned.has_voted & aligned.has_probs)[:, :, None]
    odds = log_probs(aligned.probs) - log_priors[:, None, :]
    return np.asarray(np.where(takes_part, odds, 0.0).sum(axis=0) + log_target)


def remaining_log_priors(
    aligned: AlignedTables, shares: NDArray[np.float64], prior: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return the log of the class prior still in each member's probabilities, shape (M, K).

    A member whose loss has absorbed a prior (`absorbed_prior` in its table) is freed from that
    already: of the training prior pi there remains pi / absorbed, which is one everywhere for logit
    adjustment at its usual strength. Without a training prior the shares in the labelled data stand
    in for it; as they need not be those the loss was told, nothing remains for such a member then.

    Args:
        aligned: the members.
        shares: class shares in the labelled data, shape (K,), all positive.
        prior: class shares in the members' training data, shape (K,), all positive.

    Raises:
        BadValueError: if a table's `absorbed_prior` is not one positive number per class.
    """
    remaining = np.tile(np.log(shares if prior is None else prior), (len(aligned.names), 1))
    for member, (name, meta) in enumerate(zip(aligned.names, aligned.metas, strict=True)):
        absorbed = meta.get("absorbed_prior")
        if absorbed is None:
            continue
        freed_from = class_shares(absorbed, aligned, f"The absorbed_prior of table {name!r}")
        remaining[member] = 0.0 if prior is None else np.log(prior) - np.log(freed_from)
    return remaining


class _LogOdds:
    """The members' log probabilities added up, less a fitted part of the prior they learned.

    The strength of the correction is chosen per member out of 0, 0.25, 0.5, 0.75 and 1: all start
    at 0, and one is changed only if macro-F1 on the labelled data rises. It therefore suits a test
    with the class shares of the labelled data; fit on a balanced selection for a balanced test.

    Options:
        prior: class shares or counts of the members' training data, in class order. Default: shares
            in the labelled data, with one utterance added to each class.
        target: class shares where the result will be used, in class order. Default: all alike.
    """

    name = "log-odds"

    def fit(
        self,
        aligned: AlignedTables,
        truth: NDArray[np.int64],
        speakers: Sequence[str | None],
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        settings = read_options(self.name, options, {"prior": [], "target": []})
        require_probs(aligned)
        n_members, n_classes = len(aligned.names), len(aligned.emotions)
        prior, target = (
            class_shares(settings[key], aligned, f"The option {key}") if settings[key] else None
            for key in ("prior", "target")
        )
        counts = np.bincount(truth, minlength=n_classes) + 1.0
        parameters: dict[str, Any] = {
            "strengths": [0.0] * n_members,
            "log_priors": remaining_log_priors(aligned, counts / counts.sum(), prior).tolist(),
            "log_target": [0.0] * n_classes if target is None else np.log(target).tolist(),
        }

        def macro_f1(strengths: list[float]) -> float:
            fused = self.apply({**parameters, "strengths": strengths}, aligned, speakers)
            return scores(truth, fused.labels, n_classes).macro_f1

        strengths = parameters["strengths"]
        best = macro_f1(strengths)
        for _ in range(_MAX_ROUNDS):
            before = best
            for member in range(n_members):
                for strength in _STRENGTHS:
                    candidate = [*strengths[:member], strength, *strengths[member + 1 :]]
                    value = macro_f1(candidate)
                    if value > best + _IMPROVEMENT:
                        strengths, best = candidate, value
            if best == before:
                break
        return {**parameters, "strengths": strengths}

    def apply(
        self, parameters: Mapping[str, Any], aligned: AlignedTables, speakers: Sequence[str | None]
    ) -> Fused:
        require_probs(aligned)
        taken_off = np.array(parameters["strengths"])[:, None] * np.array(parameters["log_priors"])
        odds = add_log_odds(aligned, taken_off, np.array(parameters["log_target"]))
        return fuse(softmax(odds), aligned)


def class_shares(values: Any, aligned: AlignedTables, what: str) -> NDArray[np.float64]:
    """Check positive numbers, one per class, and scale them to sum to one, shape (K,)."""
    codes = aligned.emotions.codes
    try:
        shares = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        shares = np.array(np.nan)
    if shares.shape != (len(codes),) or not (np.isfinite(shares).all() and (shares > 0).all()):
        raise BadValueError(
            f"{what} is {values!r}, expected {len(codes)} positive numbers, one each for "
            f"{' '.join(codes)}."
        )
    return np.asarray(shares / shares.sum())


LOG_ODDS: LearnedRule = _LogOdds()
"""Log probabilities added up with prior correction."""
