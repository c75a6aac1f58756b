from __future__ import annotations

import numpy as np
import pytest

from abhinaya.data.labels import ABSTAIN, EmotionSet
from abhinaya.data.predictions import PredictionTable
from abhinaya.errors import BadValueError, ClassOrderError
from abhinaya.evaluation.comparison import compare_tables
from abhinaya.evaluation.scoring import Truth, score_table
from abhinaya.evaluation.significance import holm

AB = EmotionSet(codes=("a", "b"), names=("anger", "boredom"), outside=("x",))


def table_of(name, labels, utterances=None, emotions=AB):
    utterances = utterances or [f"u{idx}" for idx in range(len(labels))]
    return PredictionTable(name, emotions, tuple(utterances), np.array(labels))


def truth_of(labels, speakers=None):
    utterances = tuple(f"u{idx}" for idx in range(len(labels)))
    return Truth(utterances, np.array(labels), AB, speakers or (None,) * len(labels))


TRUTH = truth_of([0, 0, 1, 1])
GOOD = table_of("good", [0, 0, 1, 1])
HALF = table_of("half", [0, 1, 1, 0])
BAD = table_of("bad", [1, 1, 0, 0])


def test_compare_tables_by_hand():
    report = compare_tables([HALF, GOOD], TRUTH, n_resamples=100)
    (comparison,) = report.comparisons
    assert (comparison.table, comparison.against) == ("good", "half")
    # See the test of `compare_labels`: all right against half right.
    assert (comparison.macro_f1.value, comparison.macro_f1.p) == (0.5, 0.5)
    assert (comparison.accuracy.value, comparison.accuracy.p) == (0.5, 0.5)
    assert (comparison.n_only_table, comparison.n_only_against) == (2, 0)
    assert [score.scores.accuracy for score in report.scores] == [0.5, 1.0]
    assert report.accuracy_intervals[1] == (1.0, 1.0)
    assert (report.unit, report.n_units, report.n_unknown) == ("utterance", 4, 4)


def test_compare_tables_each_against_the_first_or_all_pairs():
    tables = [HALF, GOOD, BAD]
    pairs = [(c.table, c.against) for c in compare_tables(tables, TRUTH).comparisons]
    assert pairs == [("good", "half"), ("bad", "half")]
    every = compare_tables(tables, TRUTH, all_pairs=True).comparisons
    assert [(c.table, c.against) for c in every] == [*pairs, ("bad", "good")]
    # The accuracy of bad against good: 4 discordant of 4, 2 / 16. The others 1/2 each.
    assert [c.accuracy.p for c in every] == pytest.approx([0.5, 0.5, 0.125])
    # Holm: 3 * .125, then max(.375, 2 * .5).
    assert [c.accuracy.p_holm for c in every] == pytest.approx([1.0, 1.0, 0.375])


def test_compare_tables_corrects_each_metric_on_its_own():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=(4, 60))
    tables = [table_of(f"t{idx}", row) for idx, row in enumerate(labels)]
    found = compare_tables(tables, truth_of(np.arange(60) % 2), n_resamples=500).comparisons
    for metric in ("macro_f1", "accuracy"):
        differences = [getattr(comparison, metric) for comparison in found]
        expected = holm([difference.p for difference in differences])
        assert [difference.p_holm for difference in differences] == expected
    assert found[0].macro_f1.p != found[0].accuracy.p


def test_compare_tables_result_of_a_pair_does_not_depend_on_the_others():
    alone = compare_tables([HALF, BAD], TRUTH).comparisons[0]
    among = compare_tables([HALF, GOOD, BAD], TRUTH).comparisons[1]
    assert among.macro_f1.interval == alone.macro_f1.interval
    assert among.macro_f1.p == alone.macro_f1.p


def test_compare_tables_rows_are_matched_by_name():
    shuffled = table_of("good", [1, 0, 1, 0], ["u3", "u1", "u2", "u0"])
    report = compare_tables([HALF, shuffled], TRUTH)
    assert report.comparisons[0].accuracy.value == 0.5


def test_compare_tables_rows_without_truth_are_left_out():
    truth = truth_of([0, ABSTAIN, 1, 1])
    report = compare_tables([HALF, GOOD], truth)
    # u0 and u2 are right in both, u3 in one of them: 1/3, p = 1.
    assert report.comparisons[0].accuracy.value == pytest.approx(1 / 3)
    assert report.comparisons[0].accuracy.p == 1.0
    assert report.n_units == 3
    assert report.scores[0].n_dropped == 1


def test_compare_tables_by_speaker_swaps_and_draws_speakers():
    # Two known speakers and one unknown utterance: three units. Both known speakers differ:
    # 4 assignments, of which none and both are as extreme: p = 1/2.
    truth = truth_of([0, 0, 1, 1, 0], ("s", "s", "t", "t", None))
    tables = [table_of("bad", [1, 1, 0, 0, 0]), table_of("good", [0, 0, 1, 1, 0])]
    report = compare_tables(tables, truth, by_speaker=True, n_resamples=200)
    assert (report.unit, report.n_units, report.n_unknown) == ("speaker", 3, 1)
    (comparison,) = report.comparisons
    assert (comparison.accuracy.p, comparison.accuracy.test) == (0.5, "exact randomisation")
    # Of the utterances alone: 2 / 2 ** 4.
    assert compare_tables(tables, truth).comparisons[0].accuracy.p == 0.125
    interval = score_table(tables[0], truth, by_speaker=True, n_resamples=200).interval
    assert report.scores[0].interval == interval


def test_compare_tables_wrong_input_raises():
    more = table_of("more", [0, 0, 1, 1, 1])
    other = EmotionSet.from_codes(("b", "a"))
    cases = [
        ([GOOD], {}, "needs at least two tables, got 1"),
        ([GOOD, HALF, GOOD], {}, "2 tables are named 'good'"),
        ([GOOD, more], {}, "'more' does not cover the same utterances as 'good'"),
        ([more, table_of("p", [0] * 5)], {}, "1 of 5 utterances of table 'more' are not in"),
        ([GOOD, HALF], {"by_speaker": True}, "names no speaker"),
    ]
    for tables, options, message in cases:
        with pytest.raises(BadValueError, match=message):
            compare_tables(tables, TRUTH, **options)
    with pytest.raises(ClassOrderError, match="permute the classes"):
        compare_tables([GOOD, table_of("p", [0] * 4, emotions=other)], TRUTH)
    with pytest.raises(BadValueError, match="All utterances belong to one group"):
        compare_tables([GOOD, HALF], truth_of([0, 0, 1, 1], ("s",) * 4), by_speaker=True)
    report = compare_tables([GOOD, more], TRUTH, rows="intersection")
    assert report.comparisons[0].accuracy.value == 0.0
