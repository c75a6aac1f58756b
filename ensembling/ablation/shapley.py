"""Shapley values: what each member brings, averaged over all ways to build up the ensemble."""

from __future__ import annotations

from collections.abc import Callable
from math import comb

import numpy as np
from numpy.typing import NDArray

__all__ = ["sampled_shapley_values", "shapley_values"]

FloatArray = NDArray[np.float64]


def shapley_values(scores: FloatArray) -> FloatArray:
    """Compute each member's exact Shapley value; they add up to the score of all members together.

    The value of member i is the mean gain from adding i, over all orders in which M members can
    come together: the sum over subsets S without i of (score(S + i) - score(S)) / (M C(M-1, |S|)).

    Source: Shapley, "A value for n-person games", 1953, eq. 13.

    Args:
        scores: score of every subset, by bit mask, shape (2 ** M,); entry 0, of the empty subset,
            is what one has without members.

    Returns:
        Shape (M,), order of the bits.

    Example:
        >>> shapley_values(np.array([0.0, 0.25, 0.25, 1.0])).tolist()  # two of a kind
        [0.5, 0.5]
    """
    n_members = len(scores).bit_length() - 1
    sizes = np.zeros(1, dtype=np.int64)  # of all subsets of M - 1 members
    for _ in range(n_members - 1):
        sizes = np.concatenate([sizes, sizes + 1])
    weights = np.array([1 / (n_members * comb(n_members - 1, n)) for n in range(n_members)])
    values = []
    for member in range(n_members):
        # Bits above the member's, the member's, bits below; subsets without it keep their order.
        halves = scores.reshape(-1, 2, 1 << member)
        gains = (halves[:, 1] - halves[:, 0]).ravel()
        values.append(float(weights[sizes] @ gains))
    return np.array(values)


def sampled_shapley_values(
    score_subsets: Callable[[NDArray[np.bool_]], FloatArray],
    n_members: int,
    *,
    n_orders: int = 200,
    seed: int = 0,
) -> FloatArray:
    """Estimate Shapley values from some orders, for more members than can be enumerated.

    Every order is used forwards and backwards, which cancels part of the chance. The values still
    add up to the score of all members together.

    Source: Castro et al., "Polynomial calculation of the Shapley value based on sampling", 2009.

    Args:
        score_subsets: scores of N subsets, given as True where a member belongs to one, shape
            (N, M); that of the empty subset is taken as 0.
        n_members: M.
        n_orders: how many orders to draw; half of them are drawn, half are their reverses.
        seed: of the draws.

    Returns:
        Estimates, shape (M,).
    """
    rng = np.random.default_rng(seed)
    forwards = [rng.permutation(n_members) for _ in range(max(1, n_orders // 2))]
    orders = np.array([order for one in forwards for order in (one, one[::-1])])
    # place[o, m] < n: member m is among the first n of order o.
    place = orders.argsort(axis=1)
    is_in = place[:, np.newaxis, :] < np.arange(1, n_members + 1)[:, np.newaxis]  # (O, M, M)
    scores = score_subsets(is_in.reshape(-1, n_members)).reshape(orders.shape)
    gains = np.diff(scores, axis=1, prepend=0.0)  # of the member that came in at each place
    values: FloatArray = np.take_along_axis(gains, place, axis=1).mean(axis=0)
    return values
