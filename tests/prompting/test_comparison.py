from __future__ import annotations

import numpy as np
import pytest

from abhinaya.data.labels import EmotionSet
from abhinaya.data.predictions import PredictionTable, write_table
from abhinaya.errors import BadValueError, MissingFileError
from abhinaya.evaluation.scoring import Truth
from abhinaya.prompting.comparison import compare_prompts, find_tables, mean_agreement

TWO = EmotionSet.from_codes(["L", "W"])


def table(name, letters, **meta):
    """A table of one letter per utterance u0, u1, ...; "-" abstains."""
    labels = np.array(TWO.encode(None if letter == "-" else letter for letter in letters))
    utterances = tuple(f"u{idx}" for idx in range(len(letters)))
    return PredictionTable(name, TWO, utterances, labels, meta=meta)


def truth_of(letters):
    labels = TWO.encode(None if letter == "-" else letter for letter in letters)
    n_utts = len(letters)
    return Truth(tuple(f"u{i}" for i in range(n_utts)), labels, TWO, (None,) * n_utts)


TRUTH = truth_of("LLLLLWWWWW")
BEST = "LLLLLWWWWL"
MIDDLE = "LLLLWWWWLL"
WORST = "WWWLLWWLL-"


def test_compare_prompts_by_hand():
    tables = [table("middle", MIDDLE), table("worst", WORST), table("best", BEST)]
    found = compare_prompts(tables, TRUTH, n_resamples=50)
    assert [score.name for score in found] == ["best", "middle", "worst"]
    best, middle, worst = found
    # best: L 5 right of 6 said (F1 10/11), W 4 of 4 said (8/9).
    assert best.score.scores.macro_f1 == pytest.approx((10 / 11 + 8 / 9) / 2)
    # middle: L 4 of 6 (8/11), W 3 of 4 (6/9).
    assert middle.score.scores.macro_f1 == pytest.approx((8 / 11 + 6 / 9) / 2)
    # worst: L 2 of 4 (4/9), W 2 of 5 (4/10).
    assert worst.score.scores.macro_f1 == pytest.approx((4 / 9 + 4 / 10) / 2)
    assert best.score.interval[0] <= best.score.scores.macro_f1 <= best.score.interval[1]
    assert [score.n_abstained for score in found] == [0, 0, 1]
    # Equal labels: best and middle 8 of 10; with worst, which has none on u9, best shares u3, u4,
    # u5 and u6 of 9, and middle u3, u5, u6 and u8 of 9.
    assert best.agreement == pytest.approx((8 / 10 + 4 / 9) / 2)
    assert middle.agreement == pytest.approx((8 / 10 + 4 / 9) / 2)
    assert worst.agreement == pytest.approx((4 / 9 + 4 / 9) / 2)
    # McNemar: best is right and middle is not on u4, u8, never the reverse: 2 / 2^2. Worst: u0, u1,
    # u2, u7, u8: 2 / 2^5. Holm: the smaller twice, the larger once.
    assert (best.p, best.p_holm) == (None, None)
    assert (middle.p, middle.p_holm) == (0.5, 0.5)
    assert (worst.p, worst.p_holm) == (0.0625, 0.125)


def test_compare_prompts_tokens_and_cost_are_per_thousand_clips():
    price = {"input": 0.5, "output": 2.0, "currency": "EUR"}
    spent = {"n_prompt_tokens": 3000, "n_answer_tokens": 20, "price": price}
    found = compare_prompts([table("a", BEST, **spent)], TRUTH, n_resamples=5)
    (score,) = found
    # Ten clips: 300,000 and 2,000 tokens per thousand; 0.3 x 0.5 + 0.002 x 2.
    assert (score.prompt_tokens_per_1000, score.answer_tokens_per_1000) == (300_000, 2_000)
    assert score.cost_per_1000 == pytest.approx(0.154)
    assert score.currency == "EUR"
    # Alone it is the best and agrees with nobody.
    assert (score.agreement, score.p, score.p_holm) == (None, None, None)


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"n_prompt_tokens": None, "n_answer_tokens": None, "price": None},
        {"price": {"input": 1, "output": 1}},
        {"n_prompt_tokens": 5, "price": {"input": 1, "output": 1}},
    ],
)
def test_compare_prompts_unknown_tokens_or_price_have_no_cost(meta):
    (score,) = compare_prompts([table("a", BEST, **meta)], TRUTH, n_resamples=5)
    assert (score.answer_tokens_per_1000, score.cost_per_1000) == (None, None)


def test_compare_prompts_free_tokens_cost_nothing():
    spent = {"n_prompt_tokens": 5, "n_answer_tokens": 0, "price": {"input": 0, "output": 0}}
    (score,) = compare_prompts([table("a", BEST, **spent)], TRUTH, n_resamples=5)
    assert (score.cost_per_1000, score.currency) == (0.0, None)


@pytest.mark.parametrize("price", [0.5, {"input": 1}])
def test_compare_prompts_other_price_raises(price):
    with pytest.raises(
        BadValueError, match=r"'a' has the price .*expected input and output per mil"
    ):
        compare_prompts([table("a", BEST, price=price)], TRUTH)


def test_compare_prompts_equal_ones_keep_their_order():
    found = compare_prompts([table(name, MIDDLE) for name in "ba"], TRUTH, n_resamples=5)
    assert [score.name for score in found] == ["b", "a"]
    assert found[1].p == 1.0


def test_compare_prompts_tokens_count_the_whole_table_in_an_intersection():
    half = table("half", BEST[:5], n_prompt_tokens=50, n_answer_tokens=5)
    whole = table("whole", BEST, n_prompt_tokens=200, n_answer_tokens=10)
    found = compare_prompts([half, whole], TRUTH, rows="intersection", n_resamples=5)
    assert [(s.prompt_tokens_per_1000, s.score.scores.n_utts) for s in found] == [
        (10_000, 5),
        (20_000, 5),
    ]
    with pytest.raises(BadValueError, match="or use --rows intersection"):
        compare_prompts([half, whole], TRUTH)


def test_mean_agreement_without_a_common_row_is_unknown():
    assert mean_agreement(table("a", "LW--"), [table("b", "--LW")]) is None
    assert mean_agreement(table("a", "LW--"), []) is None
    # The pair without a common row does not count.
    assert mean_agreement(table("a", "LW--"), [table("b", "--LW"), table("c", "LLLL")]) == 0.5


def test_find_tables_takes_folders_and_files(tmp_path):
    for name in ("b", "a"):
        write_table(table(name, "L"), tmp_path / "runs" / f"{name}.parquet")
    (tmp_path / "runs" / "a.problems.csv").write_text("")
    folder = str(tmp_path / "runs")
    assert find_tables([folder, "x=other.csv"]) == [
        f"{folder}/a.parquet",
        f"{folder}/b.parquet",
        "x=other.csv",
    ]
    (tmp_path / "none").mkdir()
    with pytest.raises(MissingFileError, match=r"no tables in '.*none'.*abhinaya prompts run"):
        find_tables([str(tmp_path / "none")])
