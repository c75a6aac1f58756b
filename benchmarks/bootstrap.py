"""How much faster the bootstrap of `abhinaya.evaluation.metrics` is than resampling rows.

Three ways to the same interval of macro-F1: ours, a plain loop that draws rows with numpy and
counts them, and a loop that hands the drawn rows to scikit-learn. The loops run fewer resamples and
their time is scaled up; the output says so. Run: python benchmarks/bootstrap.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from abhinaya.evaluation.bootstrap import bootstrap_interval

N_UTTS = 3_200
N_CLASSES = 8
N_SPEAKERS = 200
N_RESAMPLES = 10_000
N_NUMPY_LOOP = 2_000
N_SKLEARN_LOOP = 200

IntArray = NDArray[np.int64]


def numpy_macro_f1(truth: IntArray, predicted: IntArray) -> float:
    cells = np.bincount(truth * N_CLASSES + predicted, minlength=N_CLASSES**2)
    confusion = cells.reshape(N_CLASSES, N_CLASSES)
    whole = confusion.sum(axis=0) + confusion.sum(axis=1)
    return float(np.mean(2 * confusion.diagonal() / np.maximum(whole, 1)))


def sklearn_macro_f1(truth: IntArray, predicted: IntArray) -> float:
    labels = range(N_CLASSES)
    return float(f1_score(truth, predicted, labels=labels, average="macro", zero_division=0))


def resample_rows(
    truth: IntArray,
    predicted: IntArray,
    metric: Callable[[IntArray, IntArray], float],
    n_resamples: int,
) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    values = []
    for _ in range(n_resamples):
        rows = rng.integers(N_UTTS, size=N_UTTS)
        values.append(metric(truth[rows], predicted[rows]))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def best_of(n_runs: int, work: Callable[[], tuple[float, float]]) -> tuple[float, str]:
    """Shortest wall time in seconds, and the interval as text."""
    times_s = []
    for _ in range(n_runs):
        start_s = time.perf_counter()
        low, high = work()
        times_s.append(time.perf_counter() - start_s)
    return min(times_s), f"[{low:.4f}, {high:.4f}]"


def main() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(N_CLASSES, size=N_UTTS)
    predicted = np.where(rng.random(N_UTTS) < 0.4, truth, rng.integers(N_CLASSES, size=N_UTTS))
    speakers = rng.integers(N_SPEAKERS, size=N_UTTS).tolist()

    ours_s, ours = best_of(3, lambda: bootstrap_interval(truth, predicted, N_CLASSES, seed=0))
    groups_s, groups = best_of(
        3, lambda: bootstrap_interval(truth, predicted, N_CLASSES, groups=speakers, seed=0)
    )
    rows = [
        ("bootstrap_interval", N_RESAMPLES, ours_s, ours),
        (f"bootstrap_interval by {N_SPEAKERS} speakers", N_RESAMPLES, groups_s, groups),
    ]
    for name, metric, n_resamples in (
        ("row loop, numpy", numpy_macro_f1, N_NUMPY_LOOP),
        ("row loop, scikit-learn", sklearn_macro_f1, N_SKLEARN_LOOP),
    ):
        loop = partial(resample_rows, truth, predicted, metric, n_resamples)
        loop_s, interval = best_of(1, loop)
        rows.append((name, n_resamples, loop_s, interval))

    print(f"{N_RESAMPLES} resamples of {N_UTTS} utterances, {N_CLASSES} classes, macro-F1, 95 %")
    for name, n_resamples, measured_s, interval in rows:
        scaled_s = measured_s * N_RESAMPLES / n_resamples
        note = "" if n_resamples == N_RESAMPLES else f"  (scaled up from {n_resamples} resamples)"
        print(f"{name:34} {scaled_s:8.3f} s  {scaled_s / ours_s:7.1f} x  {interval}{note}")


if __name__ == "__main__":
    main()
