"""Scores of predicted labels, and intervals that say how sure the scores are.

Everything is computed from one table of counts: K rows of true classes, K columns of predicted
classes and a last column for abstentions. A bootstrap resample is such a table too, drawn directly
instead of row by row, which makes ten thousand resamples a matter of a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.labels import ABSTAIN
from abhinaya.errors import BadShapeError, BadValueError, UnknownNameError, list_some

__all__ = [
    "Metric",
    "Scores",
    "blocks",
    "bootstrap_interval",
    "confusion_matrix",
    "metric_of_counts",
    "number_groups",
    "resample",
    "resampling_units",
    "scores",
]

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float64]

Metric = Literal["macro_f1", "accuracy", "uar"]
"""Metrics with an interval."""

# Resamples drawn at a time: bounds the memory to some 100 MB at 3,200 groups.
_BLOCK = 2_000


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of one set of predictions; every rate lies in [0, 1].

    Args:
        macro_f1: mean F1 over all K classes; a class that is neither true nor predicted counts as
        0.
        accuracy: share of correct utterances; an abstention is not correct.
        uar: unweighted average recall: mean recall over the classes that have a true utterance.
        weighted_f1: mean F1, weighted by the number of true utterances of each class.
        precision: per class, shape (K,); 0 where the class was never predicted.
        recall: per class, shape (K,); 0 where the class has no true utterance.
        f1: per class, shape (K,); 0 where the class is neither true nor predicted.
        support: true utterances per class, shape (K,).
        confusion: counts, shape (K, K): row = true class, column = predicted class.
        n_utts: U, number of utterances, abstentions included.
        n_abstained: utterances without a prediction.
    """

    macro_f1: float
    accuracy: float
    uar: float
    weighted_f1: float
    precision: FloatArray
    recall: FloatArray
    f1: FloatArray
    support: NDArray[np.int64]
    confusion: NDArray[np.int64]
    n_utts: int
    n_abstained: int


def confusion_matrix(truth: IntArray, predicted: IntArray, n_classes: int) -> NDArray[np.int64]:
    """Count how often each true class (row) was taken for each class (column).

    Abstentions stand in no column, so a row may sum to less than the support of its class.

    Args:
        truth: true class index, shape (U,), values in [0, K).
        predicted: predicted class index, shape (U,), values in [0, K) or `ABSTAIN`.
        n_classes: K.

    Returns:
        Counts, shape (K, K).

    Raises:
        BadShapeError: if the arrays are not one-dimensional and of the same length.
        BadValueError: if there are no utterances or an index is out of range.

    Example:
        >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, -1]), 2).tolist()
        [[1, 1], [0, 0]]
    """
    return _count(truth, predicted, n_classes)[:, :n_classes]


def scores(truth: IntArray, predicted: IntArray, n_classes: int) -> Scores:
    """Score one set of predictions.

    Rows without a true label inside the emotion set must have been dropped before; they are refused
    here, so that nobody scores them by accident.

    Args:
        truth: true class index, shape (U,), values in [0, K).
        predicted: predicted class index, shape (U,), values in [0, K) or `ABSTAIN`, which counts as
            wrong and stands in no class's predictions.
        n_classes: K, also when some classes do not occur.

    Returns:
        The scores.

    Raises:
        BadShapeError: if the arrays are not one-dimensional and of the same length.
        BadValueError: if there are no utterances or an index is out of range.

    Example:
        >>> result = scores(np.array([0, 0, 1]), np.array([0, 1, 1]), n_classes=2)
        >>> round(result.macro_f1, 4), round(result.accuracy, 4), result.uar
        (0.6667, 0.6667, 0.75)
    """
    counts = _count(truth, predicted, n_classes)
    confusion = counts[:, :n_classes]
    correct, support, n_predicted = _margins(counts)
    f1 = _f1(counts)
    return Scores(
        macro_f1=float(_macro_f1(counts)),
        accuracy=float(_accuracy(counts)),
        uar=float(_uar(counts)),
        weighted_f1=float((f1 * support).sum() / support.sum()),
        precision=_ratio(correct, n_predicted),
        recall=_ratio(correct, support),
        f1=f1,
        support=support,
        confusion=confusion,
        n_utts=int(counts.sum()),
        n_abstained=int(counts[:, n_classes].sum()),
    )


def bootstrap_interval(
    truth: IntArray,
    predicted: IntArray,
    n_classes: int,
    *,
    groups: Sequence[Hashable] | None = None,
    metric: Metric = "macro_f1",
    n_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a metric, over utterances or groups of them.

    Drawing U utterances with replacement and counting them is one multinomial draw of U over the
    cells of the observed table of counts, with the observed frequencies as probabilities: the same
    distribution, without touching rows. A class that is missing from a resample counts as 0 in its
    macro-F1, and is left out of its UAR, as everywhere in this module.

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
        metric: "macro_f1", "accuracy" or "uar".
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
    values = np.concatenate([metric_of_counts(counts[:, 0], metric) for counts in drawn])
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
    cells = np.stack([_cells(truth, predicted, n_classes) for predicted in predictions])  # (P, U)
    n_tables, n_cells = len(cells), n_classes * (n_classes + 1)
    if groups is None:
        # Each kind of utterance is a table with a single 1: in its own cell.
        kinds, how_often = np.unique(cells, axis=1, return_counts=True)
        units = np.eye(n_cells)[kinds.T]
    else:
        group_idx, n_groups = _check_groups(groups, cells.shape[1])
        places = (group_idx * n_tables + np.arange(n_tables)[:, np.newaxis]) * n_cells + cells
        per_group = np.bincount(places.ravel(), minlength=n_groups * n_tables * n_cells)
        # Groups with equal tables are interchangeable: draw among the distinct ones.
        units, how_often = np.unique(per_group.reshape(n_groups, -1), axis=0, return_counts=True)
    shaped = units.reshape(-1, n_tables, n_classes, n_classes + 1)
    return shaped.astype(np.float64), how_often.astype(np.int64)


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
    for n_draws in blocks(n_resamples):
        drawn = rng.multinomial(n_units, how_often / n_units, size=n_draws)
        yield (drawn.astype(np.float64) @ flat).reshape(n_draws, *units.shape[1:])


def blocks(n_resamples: int) -> Iterator[int]:
    """Cut resamples into blocks that fit into memory.

    Raises:
        BadValueError: if `n_resamples` is not positive.
    """
    if n_resamples < 1:
        raise BadValueError(f"n_resamples is {n_resamples}, expected at least 1; 10000 is usual.")
    for start in range(0, n_resamples, _BLOCK):
        yield min(_BLOCK, n_resamples - start)


def metric_of_counts(counts: NDArray[Any], metric: Metric) -> FloatArray:
    """Compute a metric of tables of counts (..., K, K + 1), shape (...).

    Rows are true classes, columns predicted ones, the last column abstentions.
    """
    return _METRICS[metric](counts)


def _count(truth: IntArray, predicted: IntArray, n_classes: int) -> NDArray[np.int64]:
    """Count per true class and prediction, shape (K, K + 1); the last column is abstention."""
    cells = _cells(truth, predicted, n_classes)
    counts = np.bincount(cells, minlength=n_classes * (n_classes + 1))
    return counts.reshape(n_classes, n_classes + 1)


def _cells(truth: IntArray, predicted: IntArray, n_classes: int) -> NDArray[np.int64]:
    """Check labels and return each one's place in the flattened table of counts, shape (U,)."""
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.ndim != 1 or truth.shape != predicted.shape:
        raise BadShapeError(
            f"truth has shape {truth.shape} and predicted {predicted.shape}, expected (n_utts,) "
            "twice. Pass one class index per utterance."
        )
    if len(truth) == 0:
        raise BadValueError(
            "There is no utterance with a true label to score, expected at least one. "
            "Check the selection and the labels of its manifest."
        )
    for name, values, lowest in (("truth", truth, 0), ("predicted", predicted, ABSTAIN)):
        if not np.issubdtype(values.dtype, np.integer):
            raise BadValueError(
                f"{name} holds {values.dtype} values, expected integers. Encode the labels first."
            )
        wrong = np.flatnonzero((values < lowest) | (values >= n_classes))
        if len(wrong) > 0:
            raise BadValueError(
                f"{name} holds {list_some(np.unique(values[wrong]).tolist())} at {len(wrong)} of "
                f"{len(values)} utterances, expected {lowest} to {n_classes - 1}. "
                + ("Drop rows without a true label." if name == "truth" else "Check n_classes.")
            )
    column = np.where(predicted == ABSTAIN, n_classes, predicted).astype(np.int64)
    cells: NDArray[np.int64] = truth.astype(np.int64) * (n_classes + 1) + column
    return cells


def _check_groups(groups: Sequence[Hashable], n_utts: int) -> tuple[NDArray[np.int64], int]:
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
    return group_idx, n_groups


def number_groups(groups: Sequence[Hashable]) -> tuple[NDArray[np.int64], int]:
    """Return a number per utterance, equal for equal groups, and how many groups there are.

    None and NaN mean unknown: such an utterance is a group of its own.
    """
    numbers: dict[Hashable, int] = {}
    group_idx = []
    for utt_idx, group in enumerate(groups):
        # NaN is the one value that differs from itself.
        is_unknown = group is None or group != group
        key: Hashable = ("unknown", utt_idx) if is_unknown else ("known", group)
        group_idx.append(numbers.setdefault(key, len(numbers)))
    return np.array(group_idx, dtype=np.int64), len(numbers)


# The functions below take counts of shape (..., K, K + 1), so they serve one table and many
# resamples.


def _margins(counts: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return correct, true and predicted utterances per class, each of shape (..., K)."""
    by_class = counts[..., :-1]
    correct = np.diagonal(by_class, axis1=-2, axis2=-1)
    return correct, counts.sum(axis=-1), by_class.sum(axis=-2)


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> FloatArray:
    """Divide, with zero where that is undefined."""
    zeros = np.zeros(np.broadcast_shapes(part.shape, whole.shape), dtype=np.float64)
    return np.asarray(np.divide(part, whole, out=zeros, where=whole > 0))


def _f1(counts: NDArray[Any]) -> FloatArray:
    """Return F1 per class, shape (..., K)."""
    correct, support, n_predicted = _margins(counts)
    return _ratio(2 * correct, support + n_predicted)


def _macro_f1(counts: NDArray[Any]) -> FloatArray:
    return np.asarray(_f1(counts).mean(axis=-1))


def _accuracy(counts: NDArray[Any]) -> FloatArray:
    correct, support, _ = _margins(counts)
    return _ratio(correct.sum(axis=-1), support.sum(axis=-1))


def _uar(counts: NDArray[Any]) -> FloatArray:
    correct, support, _ = _margins(counts)
    return _ratio(_ratio(correct, support).sum(axis=-1), (support > 0).sum(axis=-1))


_METRICS: dict[str, Callable[[NDArray[Any]], FloatArray]] = {
    "macro_f1": _macro_f1,
    "accuracy": _accuracy,
    "uar": _uar,
}
