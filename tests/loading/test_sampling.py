from __future__ import annotations

from collections import Counter

import pytest

from abhinaya.loading.sampling import LengthGroupedSampler


def epoch_of(sampler: LengthGroupedSampler, epoch: int) -> list[int]:
    sampler.set_epoch(epoch)
    drawn = list(sampler)
    assert {at for _, at in drawn} <= {epoch}
    return [idx for idx, _ in drawn]


@pytest.mark.parametrize("n_rows", [8, 64, 104])
def test_sampler_draws_every_row_once_per_epoch(n_rows: int) -> None:
    # Pools of 3 batches of 8 rows: 104 rows are four pools and one batch.
    sampler = LengthGroupedSampler([idx % 13 for idx in range(n_rows)], 8, seed=1, pool_batches=3)
    assert len(sampler) == n_rows
    for epoch in range(3):
        assert sorted(epoch_of(sampler, epoch)) == list(range(n_rows))


@pytest.mark.parametrize(("n_rows", "n_drawn"), [(1, 8), (7, 8), (9, 16), (101, 104)])
def test_sampler_fills_the_last_batch_with_rows_of_the_epoch(n_rows: int, n_drawn: int) -> None:
    # A smaller batch could not be shared evenly by processes and accumulation steps.
    sampler = LengthGroupedSampler([idx % 13 for idx in range(n_rows)], 8, seed=1, pool_batches=3)
    assert len(sampler) == n_drawn
    repeated = set()
    for epoch in range(3):
        times = Counter(epoch_of(sampler, epoch))
        assert sorted(times) == list(range(n_rows))
        assert times.total() == n_drawn
        assert max(times.values()) - min(times.values()) <= 1
        repeated |= {idx for idx, n in times.items() if n > n_drawn // n_rows}
    if n_rows > 8:
        assert len(repeated) > n_drawn - n_rows  # not the same ones in every epoch


def test_sampler_without_rows_draws_none() -> None:
    assert list(LengthGroupedSampler([], 8, seed=1)) == []


def test_sampler_order_depends_on_seed_and_epoch_only() -> None:
    lengths = [float(idx % 7) for idx in range(40)]
    sampler = LengthGroupedSampler(lengths, 8, seed=5)
    orders = [epoch_of(sampler, epoch) for epoch in range(3)]
    # Asked in another order, from another object, twice: the history of a sampler must not matter.
    other = LengthGroupedSampler(lengths, 8, seed=5)
    assert [epoch_of(other, epoch) for epoch in (2, 0, 2, 1)] == [
        orders[epoch] for epoch in (2, 0, 2, 1)
    ]
    assert orders[0] != orders[1] != orders[2]
    assert epoch_of(LengthGroupedSampler(lengths, 8, seed=6), 0) != orders[0]


def test_sampler_yields_the_epoch_with_each_index() -> None:
    sampler = LengthGroupedSampler([1.0, 2.0, 3.0], 2, seed=0)
    sampler.set_epoch(4)
    assert {epoch for _, epoch in sampler} == {4}


def test_sampler_puts_rows_of_one_length_into_one_batch() -> None:
    # Eight rows of 1 s, eight of 2 s, eight of 3 s, in one pool: no batch of eight needs padding,
    # whatever the shuffling.
    lengths = [1.0, 2.0, 3.0] * 8
    sampler = LengthGroupedSampler(lengths, 8, seed=0)
    for epoch in range(5):
        order = epoch_of(sampler, epoch)
        batches = [[lengths[idx] for idx in order[at : at + 8]] for at in (0, 8, 16)]
        assert sorted(batches) == [[1.0] * 8, [2.0] * 8, [3.0] * 8]


def test_sampler_pads_less_than_random_order() -> None:
    # Rows of 1, 2, ..., 16 s in batches of 4: sorted they are 4 * (4 + 8 + 12 + 16) = 160 s long
    # when padded. In the rows' own order below each batch has one row of 13 s or more:
    # 4 * (13 + 14 + 15 + 16) = 232 s. The sum of what is real is 136 s.
    lengths = [1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 4, 8, 12, 16]

    def padded(order: list[int]) -> int:
        return sum(4 * max(lengths[idx] for idx in order[at : at + 4]) for at in (0, 4, 8, 12))

    assert sum(lengths) == 136
    assert padded(list(range(16))) == 232
    sampler = LengthGroupedSampler(lengths, 4, seed=0)
    assert [padded(epoch_of(sampler, epoch)) for epoch in range(5)] == [160] * 5


def test_sampler_pools_mix_more_than_a_sorted_list() -> None:
    # Two batches per pool: a batch is not always made of the same rows, as full sorting would.
    sampler = LengthGroupedSampler(list(range(32)), 4, seed=0, pool_batches=2)
    batches = set()
    for epoch in range(3):
        order = epoch_of(sampler, epoch)
        batches |= {frozenset(order[at : at + 4]) for at in range(0, 32, 4)}
    assert len(batches) > 8


def test_sampler_longest_row_is_in_the_first_batch() -> None:
    lengths = [1.0] * 40
    lengths[17] = 9.0
    sampler = LengthGroupedSampler(lengths, 8, seed=2, pool_batches=2)
    for epoch in range(4):
        assert 17 in epoch_of(sampler, epoch)[:8]
