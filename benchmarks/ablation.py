"""How fast every combination of tables is scored, and how that grows.

The search of `ensembling.ablation.gray_code` on 20 members, 3,200 utterances and 8 classes, against
a plain loop of our own vote and scikit-learn's macro-F1, by turns in one process; the loop runs
some random combinations only. The ratio is of combinations per second of processor time, so neither
a second core nor other people's work counts; the rate on the clock, with all cores, stands beside
it. Run it
with:

    python benchmarks/ablation.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from ensembling.ablation.gray_code import score_every_subset
from ensembling.voting.votes import plurality

N_MEMBERS = 20
N_UTTS = 3_200
N_CLASSES = 8
N_ROUNDS = 3
N_LOOP = 100

IntArray = NDArray[np.int64]


def draw(n_members: int, n_utts: int, n_classes: int) -> tuple[IntArray, IntArray]:
    rng = np.random.default_rng(0)
    truth = rng.integers(n_classes, size=n_utts)
    guesses = rng.integers(-1, n_classes, size=(n_members, n_utts))
    return np.where(rng.random((n_members, n_utts)) < 0.35, truth, guesses), truth


def timed(n_combinations: int, work: Callable[[], object]) -> tuple[float, float]:
    """Combinations per second, on the clock and of processor time over all cores."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return (
        n_combinations / (time.perf_counter() - clock),
        n_combinations / (time.process_time() - processor),
    )


def loop(votes: IntArray, truth: IntArray, expected: NDArray[np.float64]) -> None:
    """The plain loop over some combinations; its scores must be the expected ones."""
    for mask in np.random.default_rng(1).integers(1, 1 << len(votes), size=N_LOOP):
        members = [m for m in range(len(votes)) if mask >> m & 1]
        voted = plurality(votes[members], N_CLASSES).labels
        labels = range(N_CLASSES)
        score = f1_score(truth, voted, labels=labels, average="macro", zero_division=0)
        assert abs(score - expected[mask]) < 1e-12


def search(n_members: int, n_utts: int, n_classes: int = N_CLASSES) -> tuple[float, float]:
    votes, truth = draw(n_members, n_utts, n_classes)
    return timed(1 << n_members, lambda: score_every_subset(votes, truth, n_classes))


def spread(values: list[float]) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{low:,.0f} / {middle:,.0f} / {high:,.0f}"


def main() -> None:
    """Print the rates, their ratio to the loop, and the growth."""
    start = time.perf_counter()
    score_every_subset(*draw(2, 10, N_CLASSES), N_CLASSES)
    print(f"first call, compiled or read from disk: {time.perf_counter() - start:.2f} s")
    votes, truth = draw(N_MEMBERS, N_UTTS, N_CLASSES)
    expected, _ = score_every_subset(votes, truth, N_CLASSES)

    rates, ratios = [], []
    for _ in range(N_ROUNDS):
        _, loop_rate = timed(N_LOOP, lambda: loop(votes, truth, expected))
        rates.append(search(N_MEMBERS, N_UTTS))
        ratios.append(rates[-1][1] / loop_rate)
    print(f"{N_MEMBERS} members, {N_UTTS} utterances, {N_CLASSES} classes (min / median / max)")
    print(f"combinations per second: {spread([rate for rate, _ in rates])}")
    print(f"per second of processor time: {spread([rate for _, rate in rates])}")
    print(f"ratio to the plain loop: {spread(ratios)}")

    print("growth: combinations per second, and per second of processor time")
    sizes = [(n_members, N_UTTS, N_CLASSES) for n_members in (10, 12, 14, 16, 18)]
    sizes += [(14, n_utts, N_CLASSES) for n_utts in (800, 1_600, 6_400, 12_800)]
    sizes += [(14, N_UTTS, n_classes) for n_classes in (4, 16, 32)]
    for size in sizes:
        clock, processor = search(*size)
        name = "{} members, {} utterances, {} classes".format(*size)
        print(f"{name:42} {clock:12,.0f} {processor:12,.0f}")


if __name__ == "__main__":
    main()
