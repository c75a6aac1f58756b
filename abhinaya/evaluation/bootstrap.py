"""Bootstrap of scores: how sure a score is.

A resample is a table of counts, as in `metrics`. It is drawn directly instead of row by row, which
makes ten thousand resamples a matter of a fraction of a second: utterances (or groups of them) with
the same outcome are interchangeable, so a resample is one draw of how many of each there are.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from abhinaya.data.texts import Texts
from abhinaya.errors import BadShapeError, BadValueError, UnknownNameError
from abhinaya.evaluation.metrics import Classes, Metric, count_cells, metric_of_counts

__all__ = ["blocks", "bootstrap_interval", "number_groups", "resample", "resampling_units"]

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float64]

# Resamples times units drawn at a time: bounds the memory to some 100 MB.
_BLOCK_CELLS = 6_400_000


def bootstrap_interval(
    truth: IntArray,
    predicted: IntArray,
    n_classes: int,
    *,
    groups: Sequence[Hashable] | None = None,
    metric: Metric = "macro_f1",
    classes: Classes = "all",
    n_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a metric, over utterances or groups of them.

    Drawing U utterances with replacement and counting them is one multinomial draw of U over the
    cells of the observed table of counts, with the observed frequencies as probabilities: the same
    distribution, without touching rows. A class that is missing from a resample counts as 0 in its
    macro-F1 and UAR, or is left out of both, as `classes` says.

    The utterances of one speaker resemble each other, so an interval over utterances is too
    narrow. With groups, a resample draws as many groups as there are, with replacement, each with
    all its utterances.

    Source: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3; for groups
    Davison & Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8.

    Args:
        truth: true class index, shape (U,), values in [0, K).
        predicted: predicted class index, shape (U,), values in [0, K) or `ABSTAIN`.
        n_classes: K.
        groups: group of each utterance such as its speaker, length U; None and NaN mean unknown:
            such an utterance is a group of its own. By default every utterance is.
        metric: "macro_f1", "accuracy", "uar" or "weighted_f1".
        classes: what macro-F1 and UAR are means over.
        n_resamples: number of resamples.
        confidence: probability between the two ends, in (0, 1).
        seed: the same seed gives the same interval.

    Returns:
        Lower and upper end.

    Raises:
        BadShapeError: if `truth`, `predicted` and `groups` differ in length, or the arrays are not
            one-dimensional.
        BadValueError: if there are no utterances or fewer than two groups, an index is out of
            range, or `n_resamples` or `confidence` is.
        UnknownNameError: if the metric is unknown.

    Example:
        >>> truth, predicted = np.array([0, 1, 0]), np.array([0, 1, 1])
        >>> bootstrap_interval(truth, truth, 2, metric="accuracy", seed=0)
        (1.0, 1.0)
        >>> bootstrap_interval(
        ...     truth, predicted, 2, groups=["a", "a", "b"], metric="accuracy", seed=0
        ... )
        (0.0, 1.0)
    """
    if metric not in get_args(Metric):
        raise UnknownNameError("metric", metric, get_args(Metric))
    if not 0 < confidence < 1:
        raise BadValueError(
            f"confidence is {confidence}, expected a number between 0 and 1, for example 0.95."
        )
    units, how_often = resampling_units(truth, [predicted], n_classes, groups)
    drawn = resample(units, how_often, n_resamples, np.random.default_rng(seed))
    values = np.concatenate([metric_of_counts(counts[:, 0], metric, classes) for counts in drawn])
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def resampling_units(
    truth: IntArray,
    predictions: Sequence[IntArray],
    n_classes: int,
    groups: Sequence[Hashable] | None,
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Count what a bootstrap draws: utterances, or groups of them, by what was made of them.

    Args:
        truth: true class index, shape (U,).
        predictions: P sets of predicted class indices, shape (U,) each.
        n_classes: K.
        groups: see `bootstrap_interval`.

    Returns:
        units: distinct ones, as a table of counts for each prediction, shape (N, P, K, K + 1).
        how_often: number of units that have these tables, shape (N,), all positive: a zero would
            let rounding in the multinomial draw leak into a cell that was never observed.

    Raises:
        BadShapeError: see `bootstrap_interval`.
        BadValueError: see `bootstrap_interval`.
    """
    cells = np.stack(
        [count_cells(truth, predicted, n_classes) for predicted in predictions]
    )  # (P, U)
    if groups is None:
        units, how_often = _kinds(cells, n_classes)
    else:
        group_idx = _check_groups(groups, cells.shape[1])
        is_alone = (np.bincount(group_idx) == 1)[group_idx]
        alone, n_alone = _kinds(cells[:, is_alone], n_classes)
        several = _count_groups(cells[:, ~is_alone], group_idx[~is_alone], n_classes)
        # Groups with equal tables are interchangeable: draw among the distinct ones.
        every = np.concatenate([alone, several])
        units, numbers = np.unique(every, axis=0, return_inverse=True)
        how_often = np.bincount(numbers, np.append(n_alone, np.ones(len(several))))
    shaped = units.reshape(-1, len(cells), n_classes, n_classes + 1)
    return shaped.astype(np.float64), how_often.astype(np.int64)


def _kinds(cells: NDArray[np.int64], n_classes: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return the kinds of utterance and how many there are of each; `cells` has shape (P, U).

    A kind is, for each table, a table of counts with a single 1: in its own cell. Flat, shape
    (N, P * K * (K + 1)).
    """
    n_cells = n_classes * (n_classes + 1)
    shape = (n_cells,) * len(cells)
    if n_cells ** len(cells) < 2**63:
        codes, how_often = np.unique(np.ravel_multi_index(tuple(cells), shape), return_counts=True)
        kinds = np.stack(np.unravel_index(codes, shape), axis=1)  # (N, P)
    else:  # predictions of many seeds: slower, in the same order
        columns, how_often = np.unique(cells, axis=1, return_counts=True)
        kinds = columns.T
    return np.eye(n_cells)[kinds].reshape(len(kinds), len(cells) * n_cells), how_often


def _count_groups(
    cells: NDArray[np.int64], group_idx: NDArray[np.int64], n_classes: int
) -> FloatArray:
    """Count the utterances of each group that occurs, flat, shape (G, P * K * (K + 1))."""
    numbers = np.unique(group_idx, return_inverse=True)[1]
    n_tables, n_cells = len(cells), n_classes * (n_classes + 1)
    places = (numbers * n_tables + np.arange(n_tables)[:, np.newaxis]) * n_cells + cells
    n_places = (int(numbers.max(initial=-1)) + 1) * n_tables * n_cells
    counts = np.bincount(places.ravel(), minlength=n_places).astype(np.float64)
    return counts.reshape(-1, n_tables * n_cells)


def resample(
    units: FloatArray, how_often: NDArray[np.int64], n_resamples: int, rng: np.random.Generator
) -> Iterator[FloatArray]:
    """Draw as many units as there are, with replacement, and add up their tables.

    Whole numbers far below 2 ** 53 stay exact as floats, whose matrix product is the fast one.

    Returns:
        Blocks of resamples, shape (R, P, K, K + 1) each.

    Raises:
        BadValueError: if `n_resamples` is not positive.
    """
    n_units, flat = int(how_often.sum()), units.reshape(len(units), -1)
    for n_draws in blocks(n_resamples, len(units)):
        drawn = rng.multinomial(n_units, how_often / n_units, size=n_draws)
        yield (drawn.astype(np.float64) @ flat).reshape(n_draws, *units.shape[1:])


def blocks(n_resamples: int, n_units: int) -> Iterator[int]:
    """Cut resamples of so many units into blocks that fit into memory.

    Raises:
        BadValueError: if `n_resamples` is not positive.
    """
    if n_resamples < 1:
        raise BadValueError(f"n_resamples is {n_resamples}, expected at least 1; 10000 is usual.")
    block = max(1, _BLOCK_CELLS // max(n_units, 3_200))
    for start in range(0, n_resamples, block):
        yield min(block, n_resamples - start)


def _check_groups(groups: Sequence[Hashable], n_utts: int) -> NDArray[np.int64]:
    """Number the groups that shall be resampled, one per utterance and at least two."""
    if len(groups) != n_utts:
        raise BadShapeError(
            f"groups has {len(groups)} entries, expected {n_utts}, one per utterance. "
            "Pass the groups of the same rows."
        )
    group_idx, n_groups = number_groups(groups)
    if n_groups < 2:
        raise BadValueError(
            "All utterances belong to one group, so resampling groups cannot vary anything; "
            "expected at least two. Resample utterances."
        )
    return group_idx


def number_groups(groups: Sequence[Hashable]) -> tuple[NDArray[np.int64], int]:
    """Return a number per utterance, equal for equal groups, and how many groups there are.

    None and NaN mean unknown: such an utterance is a group of its own.
    """
    if isinstance(groups, Texts):
        found = groups.arrow.dictionary_encode()
        numbers, n_known = np.array(found.indices.fill_null(-1)), len(found.dictionary)
    else:
        objects = np.empty(len(groups), dtype=object)  # np.array would make rows of tuples
        objects[:] = groups
        numbers, known = pd.factorize(objects)
        n_known = len(known)
    is_unknown, numbers = numbers < 0, numbers.astype(np.int64)
    numbers[is_unknown] = n_known + np.arange(is_unknown.sum())
    # By appearance, which folds and halves depend on.
    return pd.factorize(numbers)[0], n_known + int(is_unknown.sum())
