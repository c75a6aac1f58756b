"""Which rows an epoch trains on, where classes are not drawn as they come."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.labels import ABSTAIN, EmotionSet
from abhinaya.errors import BadValueError, list_some
from abhinaya.nn.recipe.balance import BalanceConfig

__all__ = ["EpochRows"]


class EpochRows:
    """Draws the rows of an epoch; how many there are of each class is the same in each of a stage.

    Args:
        truth: class of each training row, shape (U,); `ABSTAIN` where it has none.
        emotions: the classes and their order.
        balance: how to draw.

    Raises:
        BadValueError: if a class that is to be balanced has no row, or there is no row without a
            class where some are asked for.
    """

    def __init__(
        self, truth: NDArray[np.int64], emotions: EmotionSet, balance: BalanceConfig
    ) -> None:
        self.balance = balance
        self._n_rows = len(truth)
        self._groups = [np.flatnonzero(truth == idx) for idx in (*range(len(emotions)), ABSTAIN)]
        *sizes, n_outside = map(len, self._groups)
        if balance.counts_rows and not all(sizes):
            codes = [emotions.codes[idx] for idx, size in enumerate(sizes) if not size]
            raise BadValueError(
                f"No training row has the class {list_some(codes)}, so balance cannot draw it as "
                "often as others. Add rows to data.train, or remove balance."
            )
        self._first = [*sizes, n_outside]
        if balance.sampler != "natural":
            weights = np.array(sizes) ** balance.sampler_exponent
            ends = np.rint(np.cumsum(weights / weights.sum()) * sum(sizes)).astype(np.int64)
            self._first[:-1] = np.diff(ends, prepend=0).tolist()
        self._second: list[int] = []
        if balance.second_stage is not None:
            share, smallest = balance.second_stage.outside_share, min(sizes)
            if share and not n_outside:
                raise BadValueError(
                    f"balance.second_stage.outside_share is {share:g}, but no training row with "
                    "votes is without a class. Add such rows to data.train, or set it to 0."
                )
            self._second = [smallest] * len(sizes) + [min(round(share * smallest), n_outside)]

    def counts(self, epoch: int) -> list[int]:
        """Return how many rows an epoch draws of each class, and at the end of those without."""
        return self._second if self.balance.is_second(epoch) else self._first

    def n_steps(self, epoch: int, batch_size: int) -> int:
        """Return the optimizer steps of an epoch."""
        return -(-sum(self.counts(epoch)) // batch_size)

    def require_steps(self, max_steps: int, batch_size: int) -> None:
        """Refuse a training that ends before what is to change in it.

        Args:
            max_steps: optimizer steps of the training; below 0 where epochs count.
            batch_size: rows per optimizer step.

        Raises:
            BadValueError: if it does.
        """
        for key, epoch in self.balance.changes.items():
            n_before = epoch * self.n_steps(0, batch_size)  # no epoch of these is of the second
            if 0 < max_steps <= n_before:
                raise BadValueError(
                    f"training.max_steps is {max_steps}, but balance.{key} is {epoch}, and there "
                    f"are {n_before} steps before that epoch. Lower it, or train longer."
                )

    def draw(self, epoch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the rows of an epoch in random order.

        No row of a class comes a second time before all others of it have come once.
        """
        if self.balance.prior_exponent(epoch) == 1:
            return rng.permutation(self._n_rows)
        pairs = zip(self._groups, self.counts(epoch), strict=True)
        drawn = [np.resize(rng.permutation(group), count) for group, count in pairs]
        return rng.permutation(np.concatenate(drawn))
