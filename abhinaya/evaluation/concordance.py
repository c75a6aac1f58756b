"""Lin's concordance correlation coefficient (CCC): how near numbers are to the true ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.errors import BadShapeError

__all__ = ["ccc"]

FloatArray = NDArray[np.floating[Any]]


def ccc(predicted: FloatArray, truth: FloatArray) -> float:
    """Return the concordance correlation coefficient of the rows where both are known.

    CCC = 2 cov(p, t) / (var(p) + var(t) + (mean(p) - mean(t))^2), with variances and covariance
    divided by the number of rows (ddof=0), as audmetric and the challenges compute it. It is 0
    where one of the two does not vary, and NaN where there is none: of fewer than two rows, or
    where both are one and the same number.

    Source: Lin, "A Concordance Correlation Coefficient to Evaluate Reproducibility", Biometrics
    45(1), 1989.

    Args:
        predicted: shape (U,), NaN where unknown.
        truth: shape (U,), NaN where unknown.

    Raises:
        BadShapeError: if the shapes differ.

    Example:
        >>> round(ccc(np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.0, 4.0])), 4)
        0.5714
    """
    if predicted.ndim != 1 or predicted.shape != truth.shape:
        raise BadShapeError(
            f"predicted has shape {predicted.shape} and truth {truth.shape}, expected (n_utts,) "
            "twice. Pass one number per utterance."
        )
    known = ~(np.isnan(predicted) | np.isnan(truth))
    p, t = predicted[known].astype(np.float64), truth[known].astype(np.float64)
    if len(p) < 2:
        return float("nan")
    spread = p.var() + t.var() + (p.mean() - t.mean()) ** 2
    if spread == 0:
        return float("nan")
    return float(2 * ((p - p.mean()) * (t - t.mean())).mean() / spread)
