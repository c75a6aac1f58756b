"""Scores of predicted labels.

Everything is computed from one table of counts: K rows of true classes, K columns of predicted
classes and a last column for abstentions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.labels import ABSTAIN
from abhinaya.errors import BadShapeError, BadValueError, list_some

__all__ = [
    "Classes",
    "Metric",
    "Scores",
    "confusion_matrix",
    "count_cells",
    "metric_of_counts",
    "scores",
]

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float64]

Metric = Literal["macro_f1", "accuracy", "uar", "weighted_f1"]
"""Metrics with an interval."""

Classes = Literal["all", "present"]
"""What macro-F1 and UAR are means over: the whole emotion set, where an absent class counts as 0,
or the classes that have a true utterance."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of one set of predictions; every rate lies in [0, 1].

    Args:
        macro_f1: mean F1 over the classes asked for, see `Classes`.
        accuracy: share of correct utterances; an abstention is not correct.
        uar: unweighted average recall: mean recall over the classes asked for.
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


def scores(
    truth: IntArray, predicted: IntArray, n_classes: int, *, classes: Classes = "all"
) -> Scores:
    """Score one set of predictions.

    Rows without a true label inside the emotion set must have been dropped before; they are refused
    here, so that nobody scores them by accident.

    Args:
        truth: true class index, shape (U,), values in [0, K).
        predicted: predicted class index, shape (U,), values in [0, K) or `ABSTAIN`, which counts as
            wrong and stands in no class's predictions.
        n_classes: K, also when some classes do not occur.
        classes: what macro-F1 and UAR are means over.

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
    return Scores(
        macro_f1=float(_macro_f1(counts, classes)),
        accuracy=float(_accuracy(counts, classes)),
        uar=float(_uar(counts, classes)),
        weighted_f1=float(_weighted_f1(counts, classes)),
        precision=_ratio(correct, n_predicted),
        recall=_ratio(correct, support),
        f1=_f1(counts),
        support=support,
        confusion=confusion,
        n_utts=int(counts.sum()),
        n_abstained=int(counts[:, n_classes].sum()),
    )


def metric_of_counts(counts: NDArray[Any], metric: Metric, classes: Classes = "all") -> FloatArray:
    """Compute a metric of tables of counts (..., K, K + 1), shape (...).

    Rows are true classes, columns predicted ones, the last column abstentions.
    """
    return _METRICS[metric](counts, classes)


def _count(truth: IntArray, predicted: IntArray, n_classes: int) -> NDArray[np.int64]:
    """Count per true class and prediction, shape (K, K + 1); the last column is abstention."""
    cells = count_cells(truth, predicted, n_classes)
    counts = np.bincount(cells, minlength=n_classes * (n_classes + 1))
    return counts.reshape(n_classes, n_classes + 1)


def count_cells(truth: IntArray, predicted: IntArray, n_classes: int) -> NDArray[np.int64]:
    """Check labels; return each utterance's place in the flattened table of counts, shape (U,).

    Raises:
        BadShapeError: if the arrays are not one-dimensional and of the same length.
        BadValueError: if there are no utterances or an index is out of range.
    """
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


def _mean(values: FloatArray, counts: NDArray[Any], classes: Classes) -> FloatArray:
    """Average values per class, shape (..., K), over the classes asked for."""
    if classes == "all":
        return np.asarray(values.mean(axis=-1))
    is_present = counts.sum(axis=-1) > 0
    return _ratio((values * is_present).sum(axis=-1), is_present.sum(axis=-1))


def _macro_f1(counts: NDArray[Any], classes: Classes) -> FloatArray:
    return _mean(_f1(counts), counts, classes)


def _accuracy(counts: NDArray[Any], classes: Classes) -> FloatArray:
    correct, support, _ = _margins(counts)
    return _ratio(correct.sum(axis=-1), support.sum(axis=-1))


def _uar(counts: NDArray[Any], classes: Classes) -> FloatArray:
    correct, support, _ = _margins(counts)
    return _mean(_ratio(correct, support), counts, classes)


def _weighted_f1(counts: NDArray[Any], classes: Classes) -> FloatArray:
    _, support, _ = _margins(counts)
    return _ratio((_f1(counts) * support).sum(axis=-1), support.sum(axis=-1))


_METRICS: dict[str, Callable[[NDArray[Any], Classes], FloatArray]] = {
    "macro_f1": _macro_f1,
    "accuracy": _accuracy,
    "uar": _uar,
    "weighted_f1": _weighted_f1,
}
