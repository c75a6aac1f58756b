from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from abhinaya.data.labels import ABSTAIN, EmotionSet
from abhinaya.errors import BadValueError
from abhinaya.loading.balance import EpochRows
from abhinaya.loading.sampling import LengthGroupedSampler
from abhinaya.nn.recipe.balance import BalanceConfig

THREE = EmotionSet(codes=("A", "H", "N"), names=("angry", "happy", "neutral"), outside=("X",))
# 4 of A, 9 of H, 36 of N and 3 without a class, mixed.
TRUTH = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, ABSTAIN], [4, 9, 36, 3]))


def rows_of(truth: Any = TRUTH, **balance: Any) -> EpochRows:
    return EpochRows(np.asarray(truth), THREE, BalanceConfig.model_validate(balance))


def classes_of(drawn: list[int]) -> list[int]:
    counts = Counter(TRUTH[drawn].tolist())
    return [counts[key] for key in (0, 1, 2, ABSTAIN)]


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        ("natural", [4, 9, 36, 3]),
        # 49 labelled rows by 2 : 3 : 6, that is 8.9, 13.4 and 26.7.
        ("square-root", [9, 13, 27, 3]),
        # 16.3 each.
        ("class-balanced", [16, 17, 16, 3]),
    ],
)
def test_sampler_draws_classes_as_often_as_it_says(sampler: str, expected: list[int]) -> None:
    rows = rows_of(sampler=sampler)
    draws = [rows.draw(epoch, np.random.default_rng(epoch)).tolist() for epoch in range(3)]
    for epoch, drawn in enumerate(draws):
        assert classes_of(drawn) == rows.counts(epoch) == expected
        assert len(drawn) == len(TRUTH)
        for idx, count in enumerate(expected):
            own = np.flatnonzero(TRUTH == (idx if idx < 3 else ABSTAIN))
            times = Counter({int(row): 0 for row in own} | Counter(drawn))
            per_row = [times[int(row)] for row in own]
            assert {count // len(own), -(-count // len(own))} >= set(per_row)
    assert draws[0] != draws[1] != draws[2]


@pytest.mark.parametrize(("share", "n_outside"), [(0, 0), (0.5, 2), (1, 3)])
def test_second_stage_draws_as_many_of_each_class_as_the_rarest_has(
    share: float, n_outside: int
) -> None:
    second = {"from_epoch": 2, "learning_rate": 1e-6, "outside_share": share}
    rows = rows_of(second_stage=second)
    assert rows.counts(1) == [4, 9, 36, 3]
    # One class size of rows without a class would be four, but there are three.
    assert rows.counts(2) == [4, 4, 4, n_outside]
    draws = [rows.draw(epoch, np.random.default_rng(epoch)).tolist() for epoch in (2, 3)]
    for drawn in draws:
        assert len(set(drawn)) == len(drawn) == 12 + n_outside
        assert classes_of(drawn) == [4, 4, 4, n_outside]
    assert set(draws[0]) != set(draws[1])


def test_sampler_of_batches_follows_the_rows_of_each_epoch() -> None:
    rows = rows_of(second_stage={"from_epoch": 2, "learning_rate": 1e-6, "outside_share": 1})
    lengths = [float(idx % 7) for idx in range(52)]
    sampler = LengthGroupedSampler(lengths, 8, seed=5, rows=rows)
    # 52 rows are seven batches, 15 are two, of which one row comes twice.
    assert [sampler.n_steps(epoch) for epoch in range(4)] == [7, 7, 2, 2]
    # A damaged file may speak of any step, and is not counted up to.
    assert sampler.find_epoch(14 + 2 * 10**15) == 2 + 10**15
    plain = LengthGroupedSampler([1.0] * 52, 8, seed=0)
    assert plain.find_epoch(7 * 10**15 + 6) == 10**15
    assert [sampler.steps_before(epoch) for epoch in (0, 1, 2, 4)] == [0, 7, 14, 18]
    assert [sampler.find_epoch(step) for step in (0, 6, 7, 13, 14, 15, 16, 18)] == [
        *(0, 0, 1, 1, 2, 2, 3, 4)
    ]
    plain, orders = LengthGroupedSampler(lengths, 8, seed=5), []
    for epoch in range(4):
        for each in (sampler, plain):
            each.set_epoch(epoch)
        orders.append([idx for idx, _ in sampler])
        assert len(orders[-1]) == len(sampler) == 8 * sampler.n_steps(epoch)
        assert (orders[-1] == [idx for idx, _ in plain]) == (epoch < 2)
    assert len(set(orders[3])) == 15
    # Asked once more, in another order.
    again = LengthGroupedSampler(lengths, 8, seed=5, rows=rows)
    for epoch in (3, 0, 2):
        again.set_epoch(epoch)
        assert [idx for idx, _ in again] == orders[epoch]


@pytest.mark.parametrize(
    "balance",
    [
        {"sampler": "square-root"},
        {"sampler": "class-balanced"},
        {"second_stage": {"from_epoch": 1, "learning_rate": 1e-6}},
    ],
)
def test_class_without_a_row_cannot_be_balanced(balance: dict[str, Any]) -> None:
    with pytest.raises(BadValueError, match=r"No training row has the class 'H', .*Add rows to"):
        rows_of([0, 2, 2], **balance)
    assert rows_of([0, 2, 2]).counts(0) == [1, 0, 2, 0]


def test_rows_without_a_class_that_are_not_there_raise() -> None:
    second = {"from_epoch": 1, "learning_rate": 1e-6, "outside_share": 0.5}
    with pytest.raises(BadValueError, match=r"outside_share is 0\.5, but no .* or set it to 0"):
        rows_of([0, 1, 2], second_stage=second)
