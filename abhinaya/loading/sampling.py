"""The order of training utterances: random, but with clips of similar length in one batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from abhinaya.loading.balance import EpochRows

__all__ = ["LengthGroupedSampler"]


class LengthGroupedSampler(Sampler[tuple[int, int]]):
    """Yields (index, epoch); what an epoch's order is depends on (seed, epoch) alone.

    The rows are shuffled, cut into pools of `pool_batches` batches, sorted by length within each
    pool and cut into batches; then the order of all batches is shuffled. The batch with the longest
    clip goes first, so that too large a batch fails at once and not after an hour. The epoch
    travels with the index because data-loading workers must draw the same crop whenever they were
    started.

    Every batch is full: a few rows drawn at random come twice where the rows do not suffice. A
    smaller batch could not be shared by processes or accumulation steps without weighing some of
    its rows more, so eight devices would not train what one does.

    Args:
        lengths: any length of each row, such as seconds.
        batch_size: rows per optimizer step over all processes.
        seed: seed of the order.
        pool_batches: batches per pool; larger means less padding and less mixing.
        rows: draws the rows of an epoch; None takes each once.
    """

    def __init__(
        self,
        lengths: Sequence[float],
        batch_size: int,
        seed: int,
        pool_batches: int = 50,
        rows: EpochRows | None = None,
    ) -> None:
        self.lengths = np.asarray(lengths, dtype=np.float64)
        self.batch_size = batch_size
        self.seed = seed
        self.pool_size = batch_size * pool_batches
        self.rows = rows
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def n_steps(self, epoch: int) -> int:
        """Return the optimizer steps of an epoch."""
        if self.rows is not None:
            return self.rows.n_steps(epoch, self.batch_size)
        return -(-len(self.lengths) // self.batch_size)

    def steps_before(self, epoch: int) -> int:
        """Return the optimizer steps of all epochs before one."""
        n_first = min(epoch, self._turn)
        return n_first * self.n_steps(0) + (epoch - n_first) * self.n_steps(epoch)

    def find_epoch(self, step: int) -> int:
        """Return the epoch that an optimizer step belongs to; both count from 0.

        The step may come from a damaged file, so no loop runs up to it.
        """
        n_before = self.steps_before(self._turn)
        if step < n_before:
            return step // self.n_steps(0)
        return self._turn + (step - n_before) // self.n_steps(self._turn)

    @property
    def _turn(self) -> int:
        """The epoch from which on epochs may have another number of steps."""
        second = self.rows.balance.second_stage if self.rows is not None else None
        return 0 if second is None else second.from_epoch

    def __len__(self) -> int:
        return self.n_steps(self.epoch) * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        # A loader draws such a number whenever its readers start. Drawn here, it is drawn once an
        # epoch however long they live, and dropout is the same with any number of them.
        torch.empty((), dtype=torch.int64).random_()
        rng = np.random.default_rng([self.seed, self.epoch])
        rows = self.rows
        drawn = rows.draw(self.epoch, rng) if rows else rng.permutation(len(self.lengths))
        # Fills up from the start, as often as it takes.
        order = np.resize(drawn, len(self))
        batches: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
        for start in range(0, len(order), self.pool_size):
            pool = order[start : start + self.pool_size]
            pool = pool[np.argsort(-self.lengths[pool], kind="stable")]
            batches += np.split(pool, len(pool) // self.batch_size)
        longest = max(
            range(len(batches)), key=lambda b: self.lengths[batches[b]].max(), default=None
        )
        first = [batches.pop(longest)] if longest is not None else []
        shuffled = [batches[b] for b in rng.permutation(len(batches))]
        for batch in [*first, *shuffled]:
            yield from ((int(idx), self.epoch) for idx in batch)
