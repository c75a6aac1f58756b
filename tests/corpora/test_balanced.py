from __future__ import annotations

import pandas as pd

from abhinaya.corpora.balanced import draw_balanced
from abhinaya.data.labels import EmotionSet

TWO = EmotionSet(codes=("A", "N"), names=("angry", "neutral"), outside=("X",))


def rows_of(n_angry: int, n_neutral: int) -> pd.DataFrame:
    """Development clips a0, a1, ... and n0, n1, ..., and others that must not be drawn."""
    named: list[tuple[str, str, str | None]] = [
        (f"a{n}", "development", "A") for n in range(n_angry)
    ]
    named += [(f"n{n}", "development", "N") for n in range(n_neutral)]
    named += [("x0", "development", "X"), ("t0", "train", "A"), ("u0", "development", None)]
    return pd.DataFrame(named, columns=["utterance", "split", "label"])


def draw(rows: pd.DataFrame, n_per_class: int, seed: int = 0) -> list[str]:
    drawn, _ = draw_balanced(rows, TWO, split="development", n_per_class=n_per_class, seed=seed)
    return drawn


def test_equally_many_of_every_class_and_nothing_else() -> None:
    drawn = draw(rows_of(9, 20), 5)
    assert drawn == sorted(drawn)
    assert [name[0] for name in drawn] == ["a"] * 5 + ["n"] * 5
    assert len(set(drawn)) == 10


def test_smallest_class_bounds_all_and_is_reported() -> None:
    drawn, (problem,) = draw_balanced(
        rows_of(3, 20), TWO, split="development", n_per_class=5, seed=0
    )
    assert [name[0] for name in drawn] == ["a"] * 3 + ["n"] * 3
    assert problem.utterance == "balanced"
    assert problem.reason == (
        "3 instead of 5 clips per class, because class A has no more in development"
    )


def test_empty_class_gives_no_subset_and_is_reported() -> None:
    drawn, (problem,) = draw_balanced(
        rows_of(4, 0), TWO, split="development", n_per_class=5, seed=0
    )
    assert drawn == []
    assert problem.reason == "no subset, because class N has no clips in development"


def test_exactly_enough_is_no_problem() -> None:
    drawn, problems = draw_balanced(rows_of(2, 2), TWO, split="development", n_per_class=2, seed=0)
    assert drawn == ["a0", "a1", "n0", "n1"]
    assert problems == []


def test_same_seed_same_clips_whatever_the_order_of_rows() -> None:
    rows = rows_of(30, 30)
    assert draw(rows, 5) == draw(rows[::-1], 5)


def test_other_seed_other_clips() -> None:
    assert draw(rows_of(30, 30), 5, seed=0) != draw(rows_of(30, 30), 5, seed=1)


def test_smaller_subset_is_part_of_a_larger() -> None:
    assert set(draw(rows_of(30, 30), 5)) < set(draw(rows_of(30, 30), 6))


def test_choice_of_a_class_does_not_depend_on_another() -> None:
    few, many = draw(rows_of(30, 6), 5), draw(rows_of(30, 60), 5)
    assert few[:5] == many[:5]
