from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score

from abhinaya.data.labels import ABSTAIN, MSP_PODCAST, EmotionSet
from abhinaya.data.predictions import PredictionTable
from abhinaya.errors import BadValueError, ClassOrderError, ProblemsError, UnknownNameError
from abhinaya.evaluation.bootstrap import bootstrap_interval
from abhinaya.evaluation.scoring import Truth, score_table
from ensembling.ablation.ablate import ablate_tables, write_subsets
from ensembling.voting.vote_tables import vote_tables


def table(name, letters, start=0):
    labels = MSP_PODCAST.encode(None if letter == "-" else letter for letter in letters)
    utterances = tuple(f"u{idx}" for idx in range(start, start + len(letters)))
    return PredictionTable(name, MSP_PODCAST, utterances, labels)


def truth_of(letters, speakers=None):
    labels = MSP_PODCAST.encode(None if letter == "-" else letter for letter in letters)
    utterances = tuple(f"u{idx}" for idx in range(len(letters)))
    return Truth(
        utterances, labels, MSP_PODCAST, tuple(speakers or [None] * len(letters)), "truth.csv"
    )


def random_tables(n_tables, n_utts=40, n_abstained=2, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(8, size=n_utts)
    utterances = tuple(f"u{idx}" for idx in range(n_utts))
    tables = []
    for idx in range(n_tables):
        labels = np.where(rng.random(n_utts) < 0.4, truth, rng.integers(8, size=n_utts))
        labels[rng.permutation(n_utts)[:n_abstained]] = ABSTAIN
        tables.append(PredictionTable(f"t{idx}", MSP_PODCAST, utterances, labels))
    speakers = tuple(f"s{idx % 7}" for idx in range(n_utts))
    return tables, Truth(utterances, truth, MSP_PODCAST, speakers, "truth.csv")


# Macro-F1 over the eight classes by hand, truth A A H H, ties to the earlier table:
#   p   A A N H   A 1,   H 2 * 1 / (2 + 1)    5/24
#   q   A H H N   A 2/3, H 2 * 1 / (2 + 2)    7/48
#   r   N A H H   A 2/3, H 1                  5/24
#   pq = p, pr = p: of two minds the earlier decides; qr = A H H N = q
#   pqr A A H H                               1/4
P, Q, R, ALL = 5 / 24, 7 / 48, 5 / 24, 1 / 4
TRUTH = truth_of("AAHH")
TABLES = [table("p", "AANH"), table("q", "AHHN"), table("r", "NAHH")]


def test_three_tables_by_hand():
    result = ablate_tables(TABLES, TRUTH, n_resamples=20)

    assert result.search == "exhaustive"
    assert [best.members for best in result.best] == [("p",), ("p", "q"), ("p", "q", "r")]
    assert [best.macro_f1 for best in result.best] == pytest.approx([P, P, ALL])
    assert [best.accuracy for best in result.best] == [0.75, 0.75, 1]
    assert result.everybody == result.best[2]
    p, q, r = result.members
    assert [p.alone, q.alone, r.alone] == pytest.approx([P, Q, R])
    assert [p.without, q.without, r.without] == pytest.approx([Q, P, P])
    assert [p.change, q.change, r.change] == pytest.approx([Q - ALL, P - ALL, P - ALL])
    # Weights 1/3 for the first and the last place, 1/6 for each of the two in between.
    assert p.shapley == pytest.approx(P / 3 + (P - Q) / 6 + (P - R) / 6 + (ALL - Q) / 3)
    assert q.shapley == pytest.approx(Q / 3 + (P - P) / 6 + (Q - R) / 6 + (ALL - P) / 3)
    assert r.shapley == pytest.approx(R / 3 + (P - P) / 6 + (Q - Q) / 6 + (ALL - P) / 3)
    assert result.oracle == (0.25, 1)  # everything is right in some table: 2 of 8 classes
    assert result.optimism is not None
    assert result.optimism.n_candidates == len(result.subsets) == 7
    assert result.optimism.macro_f1 == result.best[2].macro_f1


def test_tiebreakers_settle_ties_in_the_combinations_they_belong_to():
    result = ablate_tables(TABLES, TRUTH, tiebreakers=["r"], n_resamples=20)
    scores = dict(zip(result.subsets.masks.tolist(), result.subsets.macro_f1, strict=True))
    # pr and qr now follow r; pq, without r, still follows p.
    assert scores[0b101] == pytest.approx(R)
    assert scores[0b110] == pytest.approx(R)
    assert scores[0b011] == pytest.approx(P)


def test_scores_are_those_of_vote_and_score():
    tables, truth = random_tables(5)
    combinations = {"all": ["t4", "t0", "t1", "t2", "t3"], "two": ["t3", "t1"]}
    result = ablate_tables(
        tables, truth, tiebreakers=["t3"], combinations=combinations, n_resamples=200
    )
    two, everybody = [tables[1], tables[3]], tables
    for ours, chosen in zip(result.combinations, (everybody, two), strict=True):
        voted = vote_tables(chosen, tiebreakers=["t3"], fallback="N")
        # The fallback is no vote: where everybody abstains the combination is wrong.
        labels = np.where(np.array(voted.decided_by) == "fallback", ABSTAIN, voted.labels)
        fused = PredictionTable("vote", MSP_PODCAST, voted.utterances, labels)
        theirs = score_table(fused, truth, n_resamples=200)
        assert ours.macro_f1 == pytest.approx(theirs.scores.macro_f1)
        assert ours.accuracy == theirs.scores.accuracy
        assert ours.interval == theirs.interval
    assert [named.name for named in result.combinations] == ["all", "two"]
    # Named in any order, tables stand and settle ties in the order they were given in.
    assert result.combinations[0].members == ("t0", "t1", "t2", "t3", "t4")
    assert result.combinations[0].macro_f1 == result.everybody.macro_f1


def test_rows_without_truth_are_dropped_and_counted():
    result = ablate_tables(
        [table("p", "AANHS"), table("q", "AAHHA")], truth_of("AAHH-"), n_resamples=20
    )
    assert (result.n_utts, result.n_dropped) == (4, 1)
    assert result.members[1].alone == 0.25


def test_one_table_has_nothing_to_choose_or_to_leave_out():
    result = ablate_tables([TABLES[0]], TRUTH, n_resamples=20)
    assert result.optimism is None
    assert len(result.subsets) == 1
    (member,) = result.members
    assert (member.without, member.change) == (None, None)
    assert member.alone == member.shapley == result.everybody.macro_f1 == pytest.approx(P)


def test_twenty_tables_are_searched_exhaustively_and_twenty_one_by_a_beam():
    tables, truth = random_tables(21, n_utts=24)
    every = ablate_tables(tables[:20], truth, n_resamples=2)
    assert (every.search, every.beam_width) == ("exhaustive", None)
    assert len(every.subsets) == 2**20 - 1

    beam = ablate_tables(tables, truth, n_resamples=2)
    assert (beam.search, beam.beam_width) == ("beam", 200)
    assert [len(best.members) for best in beam.best] == list(range(1, 22))
    # Estimated Shapley values still add up.
    total = sum(member.shapley for member in beam.members)
    assert total == pytest.approx(beam.everybody.macro_f1)
    assert beam.best[-1].macro_f1 == beam.everybody.macro_f1


def test_beam_on_request_and_max_size():
    tables, truth = random_tables(6)
    every = ablate_tables(tables, truth, max_size=2, n_resamples=20)
    beam = ablate_tables(tables, truth, max_size=2, beam_width=6, n_resamples=20)
    assert (every.max_size, every.search, beam.search) == (2, "exhaustive", "beam")
    assert every.best == beam.best
    assert every.everybody == beam.everybody  # all six, although the search stops at two
    assert len(every.best) == 2
    # The exact values do not depend on where the search stops.
    unlimited = ablate_tables(tables, truth, n_resamples=20)
    assert [m.shapley for m in every.members] == [m.shapley for m in unlimited.members]


def test_by_speaker_draws_speakers():
    tables, truth = random_tables(3)
    plain = ablate_tables(tables, truth, n_resamples=100)
    grouped = ablate_tables(tables, truth, by_speaker=True, n_resamples=100)

    voted = vote_tables(tables, fallback="N").labels
    arguments = {"n_resamples": 100, "seed": 0}
    assert plain.everybody.interval == bootstrap_interval(truth.labels, voted, 8, **arguments)
    assert grouped.everybody.interval == bootstrap_interval(
        truth.labels, voted, 8, groups=truth.speakers, **arguments
    )
    assert plain.optimism != grouped.optimism


def test_more_than_eight_classes_and_seven():
    for n_classes in (7, 12):
        rng = np.random.default_rng(n_classes)
        emotions = EmotionSet.from_codes([f"class{idx}" for idx in range(n_classes)])
        truth = rng.integers(n_classes, size=60)
        names = tuple(f"u{idx}" for idx in range(60))
        labels = np.where(rng.random((2, 60)) < 0.5, truth, rng.integers(n_classes, size=(2, 60)))
        tables = [
            PredictionTable(n, emotions, names, row) for n, row in zip("ab", labels, strict=True)
        ]
        result = ablate_tables(tables, Truth(names, truth, emotions, (None,) * 60), n_resamples=5)
        # A pair follows its first table.
        for found in (result.members[0].alone, result.everybody.macro_f1):
            assert found == pytest.approx(
                f1_score(
                    truth, labels[0], labels=range(n_classes), average="macro", zero_division=0
                )
            )


def test_subsets_are_written_from_the_best_to_the_worst(tmp_path):
    result = ablate_tables(TABLES, TRUTH, tiebreakers=["r"], n_resamples=20)
    path = tmp_path / "subsets.parquet"
    write_subsets(result, path)

    written = pq.read_table(path)
    rows = written.to_pylist()
    assert list(rows[0]) == ["bitmask", "size", "members", "macro_f1", "accuracy"]
    assert rows[0] == {
        "bitmask": 7,
        "size": 3,
        "members": "p+q+r",
        "macro_f1": pytest.approx(0.25),
        "accuracy": 1.0,
    }
    by_mask = {row["bitmask"]: row["members"] for row in rows}
    assert by_mask == {1: "p", 2: "q", 4: "r", 3: "p+q", 5: "p+r", 6: "q+r", 7: "p+q+r"}
    assert [row["macro_f1"] for row in rows] == sorted(row["macro_f1"] for row in rows)[::-1]
    stored = json.loads(written.schema.metadata[b"abhinaya"])
    assert (stored["kind"], stored["names"], stored["tiebreakers"]) == (
        "ablation",
        ["p", "q", "r"],
        ["r"],
    )
    with pytest.raises(BadValueError, match=r"must end in \.parquet"):
        write_subsets(result, tmp_path / "subsets.csv")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tiebreakers": ["s"]}, UnknownNameError, "Unknown tiebreaker 's'.*Known: p, q, r"),
        ({"tiebreakers": ["p", "p"]}, BadValueError, "names a member twice"),
        ({"max_size": 4}, BadValueError, "shall have 4 tables, expected 1 to 3"),
        ({"max_size": 0}, BadValueError, "shall have 0 tables, expected 1 to 3"),
        ({"beam_width": 0}, BadValueError, "width 0"),
        ({"combinations": {"x": ["s"]}}, ProblemsError, "'x' names 's', expected one of"),
        ({"by_speaker": True}, BadValueError, "names no speaker of the 4 scored utterances"),
        ({"n_resamples": 0}, BadValueError, "n_resamples is 0"),
    ],
)
def test_wrong_options_raise(options, error, message):
    with pytest.raises(error, match=message):
        ablate_tables(TABLES, TRUTH, **{"n_resamples": 20, **options})


@pytest.mark.parametrize(
    ("tables", "truth", "message"),
    [
        ([], TRUTH, "No tables were given"),
        ([TABLES[0], TABLES[0]], TRUTH, "Two tables are named 'p'"),
        ([TABLES[0], table("q", "AAHH", start=2)], TRUTH, "does not cover the same utterances"),
        ([table("p", "AAHHS")], TRUTH, "1 of 5 utterances of the tables are not in truth.csv"),
        ([TABLES[0]], truth_of("----"), "None of the 4 utterances .* so nothing can be scored"),
    ],
)
def test_wrong_tables_raise(tables, truth, message):
    with pytest.raises(BadValueError, match=message):
        ablate_tables(tables, truth)


def test_truth_of_another_class_order_raises():
    other = EmotionSet.from_codes(tuple("UACDFHNS"))
    truth = Truth(TRUTH.utterances, TRUTH.labels, other, TRUTH.speakers, "truth.parquet")
    with pytest.raises(
        ClassOrderError, match=r"class order A C D F H N S U, but truth\.parquet has U"
    ):
        ablate_tables(TABLES, truth)


def test_intersection_keeps_the_shared_utterances():
    tables = [TABLES[0], table("q", "HHN", start=1)]
    result = ablate_tables(tables, TRUTH, rows="intersection", n_resamples=20)
    assert (result.n_utts, result.n_not_in_tables) == (3, 1)


def test_65_tables_raise():
    tables, truth = random_tables(65, n_utts=10)
    with pytest.raises(BadValueError, match=r"65 members .* at most 64 members"):
        ablate_tables(tables, truth, max_size=1)
