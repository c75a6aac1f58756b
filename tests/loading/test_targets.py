from __future__ import annotations

import numpy as np
import pandas as pd

from abhinaya.data.labels import ABSTAIN, EmotionSet
from abhinaya.loading.targets import hard_targets, soft_targets

EMOTIONS = EmotionSet(codes=("A", "H", "N"), names=("angry", "happy", "neutral"), outside=("O",))


def make_rows(*rows: tuple[str | None, list[int] | None]) -> pd.DataFrame:
    labels, votes = zip(*rows, strict=True)
    return pd.DataFrame(
        {"label": labels, "votes": [None if v is None else np.array(v) for v in votes]}
    )


def test_hard_targets_outside_and_null_abstain() -> None:
    rows = make_rows(("N", None), ("O", None), (None, None), ("A", None))
    assert hard_targets(rows, EMOTIONS).tolist() == [2, ABSTAIN, ABSTAIN, 0]


def test_soft_targets_are_shares_of_the_votes_without_other() -> None:
    # The fourth count is O: 3 of 4 votes for a class are for A, 1 of 4 for N.
    rows = make_rows(("A", [3, 0, 1, 4]), ("H", [0, 2, 0, 0]))
    assert soft_targets(rows, EMOTIONS).tolist() == [[0.75, 0, 0.25], [0, 1, 0]]


def test_soft_targets_follow_the_votes_and_not_the_label() -> None:
    rows = make_rows((None, [1, 1, 0, 0]), ("O", [0, 1, 3, 9]))
    assert soft_targets(rows, EMOTIONS).tolist() == [[0.5, 0.5, 0], [0, 0.25, 0.75]]


def test_soft_targets_without_votes_are_one_hot_if_labelled() -> None:
    rows = make_rows(("H", None), ("N", [0, 0, 0, 2]))
    assert soft_targets(rows, EMOTIONS).tolist() == [[0, 1, 0], [0, 0, 1]]


def test_soft_targets_without_votes_and_label_are_nan() -> None:
    rows = make_rows(("O", None), (None, [0, 0, 0, 5]))
    targets = soft_targets(rows, EMOTIONS)
    assert targets.dtype == np.float32
    assert np.isnan(targets).all()
