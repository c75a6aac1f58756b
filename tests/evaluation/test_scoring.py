from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from abhinaya.data.labels import ABSTAIN, MSP_PODCAST, EmotionSet
from abhinaya.data.manifest import make_manifest, write_manifest
from abhinaya.data.predictions import PredictionTable
from abhinaya.errors import BadValueError, ClassOrderError, MissingFileError, ProblemsError
from abhinaya.evaluation.scoring import (
    Truth,
    align_truth,
    labelled_rows,
    mean_and_sd,
    read_truth,
    score_table,
)

AB = EmotionSet(codes=("a", "b"), names=("anger", "boredom"), outside=("x",))


def truth_of(labels, speakers=None):
    utterances = tuple(f"u{idx}" for idx in range(len(labels)))
    return Truth(utterances, np.array(labels), AB, speakers or (None,) * len(labels))


def table_of(labels, utterances=None, emotions=AB):
    utterances = utterances or tuple(f"u{idx}" for idx in range(len(labels)))
    return PredictionTable("run", emotions, tuple(utterances), np.array(labels))


def test_score_table_by_hand():
    # truth a a b b, predicted a b b -: precision a 1/1, recall 1/2, F1 2/3;
    # precision b 1/2, recall 1/2, F1 1/2; macro (2/3 + 1/2) / 2 = 7/12; 2 of 4 right.
    score = score_table(table_of([0, 1, 1, ABSTAIN]), truth_of([0, 0, 1, 1]), n_resamples=50)
    assert score.scores.macro_f1 == pytest.approx(7 / 12)
    assert score.scores.accuracy == 0.5
    assert score.scores.n_abstained == 1
    assert (score.n_dropped, score.n_not_in_table) == (0, 0)
    low, high = score.interval
    assert 0 <= low <= 7 / 12 <= high <= 1


def test_score_table_class_absent_everywhere_counts_as_zero_in_macro_f1():
    """The mean goes over the whole emotion set: all right on one of eight classes is 1/8."""
    table = PredictionTable("run", MSP_PODCAST, ("u",), np.array([2]))
    truth = Truth(("u",), np.array([2]), MSP_PODCAST, (None,))
    assert score_table(table, truth, n_resamples=10).scores.macro_f1 == 0.125
    theirs = f1_score([2], [2], labels=range(8), average="macro", zero_division=0)
    assert theirs == 0.125


def test_score_table_rows_without_a_label_in_the_set_are_dropped_and_counted():
    score = score_table(table_of([0, 1, 1]), truth_of([0, ABSTAIN, 1]), n_resamples=10)
    assert score.n_dropped == 1
    assert score.scores.n_utts == 2
    assert score.scores.macro_f1 == 1.0


def test_score_table_truth_rows_not_covered_are_counted():
    # u1 has a label and no row; u2 has no label, so nothing is missing there.
    score = score_table(table_of([0], utterances=["u0"]), truth_of([0, 1, ABSTAIN]), n_resamples=10)
    assert score.n_not_in_table == 1


def test_score_table_matches_rows_by_name_not_by_place():
    score = score_table(table_of([1, 0], utterances=["u1", "u0"]), truth_of([0, 1]), n_resamples=10)
    assert score.scores.accuracy == 1.0


def test_score_table_utterance_not_in_the_truth_raises():
    with pytest.raises(BadValueError, match=r"1 of 2 utterances of table 'run' are not in .*'u9'"):
        score_table(table_of([0, 1], utterances=["u0", "u9"]), truth_of([0, 1]))


def test_score_table_nothing_labelled_raises():
    with pytest.raises(BadValueError, match=r"None of the 2 utterances.*nothing can be scored"):
        score_table(table_of([0, 1]), truth_of([ABSTAIN, ABSTAIN]))


def test_score_table_other_class_order_raises():
    permuted = EmotionSet(codes=("b", "a"), names=("boredom", "anger"))
    with pytest.raises(ClassOrderError, match="'run' has the class order b a"):
        score_table(table_of([0], emotions=permuted), truth_of([0]))


def test_score_table_interval_is_set_by_the_seed():
    rng = np.random.default_rng(5)
    table, truth = table_of(rng.integers(0, 2, 40)), truth_of(rng.integers(0, 2, 40))
    first = score_table(table, truth, n_resamples=200, seed=1).interval
    assert first == score_table(table, truth, n_resamples=200, seed=1).interval
    assert first != score_table(table, truth, n_resamples=200, seed=2).interval


def test_score_table_by_speaker_is_wider_when_a_speaker_is_all_right_or_all_wrong():
    # Four speakers of ten utterances each: two always right, two always wrong.
    truth_labels = [0, 1] * 20
    predicted = [0, 1] * 10 + [1, 0] * 10
    speakers = tuple(f"s{idx // 10}" for idx in range(40))
    truth, table = truth_of(truth_labels, speakers), table_of(predicted)
    low, high = score_table(table, truth, n_resamples=500).interval
    low_by_speaker, high_by_speaker = score_table(
        table, truth, n_resamples=500, by_speaker=True
    ).interval
    assert low_by_speaker < low
    assert high_by_speaker > high


def test_score_table_by_speaker_without_speakers_raises():
    with pytest.raises(BadValueError, match="names no speaker of the 2 scored utterances"):
        score_table(table_of([0, 1]), truth_of([0, 1]), by_speaker=True)


def test_align_truth_brings_it_into_the_order_of_the_utterances():
    truth = Truth(("u", "v", "w"), np.array([0, -1, 1]), AB, ("s", None, "t"))
    labels, speakers = align_truth(["w", "v"], truth)
    assert labels.tolist() == [1, -1]
    assert speakers == ("t", None)


def test_align_truth_that_lacks_an_utterance_raises():
    truth = Truth(("u",), np.array([0]), AB, (None,), where="m.parquet")
    with pytest.raises(BadValueError, match=r"1 of 2 utterances .* not in m.parquet: 'x'"):
        align_truth(["u", "x"], truth)


def test_labelled_rows_are_those_with_a_label_in_the_set():
    truth = Truth(("u", "v", "w", "x"), np.array([0, -1, 1, 1]), AB, ("s", "s", None, "t"))
    rows = labelled_rows(["w", "v", "u"], truth)
    assert rows.indices.tolist() == [0, 2]
    assert rows.labels.tolist() == [1, 0]
    assert (rows.speakers, rows.groups) == ((None, "s"), None)
    assert (rows.n_dropped, rows.n_not_in_tables) == (1, 1)
    assert labelled_rows(["w", "u"], truth, by_speaker=True).groups == (None, "s")


def test_labelled_rows_to_learn_from_are_needed():
    with pytest.raises(BadValueError, match=r"of the tables has a label .* nothing to learn from"):
        labelled_rows(["u0"], truth_of([ABSTAIN]), purpose="learn")


def test_read_truth_of_a_manifest_has_labels_and_speakers(tmp_path):
    rows = pd.DataFrame(
        {"utterance": ["u", "v", "w"], "label": ["b", "x", None], "speaker": ["1", None, "2"]}
    )
    path = tmp_path / "manifest.parquet"
    write_manifest(make_manifest(rows, AB, tmp_path), path)
    truth = read_truth(path)
    assert truth.utterances == ("u", "v", "w")
    assert truth.labels.tolist() == [1, ABSTAIN, ABSTAIN]
    assert truth.speakers == ("1", None, "2")
    assert truth.emotions.codes == ("a", "b")
    with pytest.raises(ClassOrderError, match="has the class order a b, but the tables"):
        read_truth(path, MSP_PODCAST)


def test_read_truth_tells_a_csv_manifest_from_a_csv_of_labels(tmp_path):
    (tmp_path / "manifest.csv").write_text("utterance,label,speaker\nu,A,7\nv,O,\n")
    (tmp_path / "labels.csv").write_text("FileName,EmoClass\nu,A\nv,O\nw,\n")
    manifest = read_truth(tmp_path / "manifest.csv")
    labels = read_truth(tmp_path / "labels.csv")
    assert manifest.labels.tolist() == [0, ABSTAIN]
    assert manifest.speakers == ("7", None)
    assert labels.labels.tolist() == [0, ABSTAIN, ABSTAIN]
    assert labels.speakers == (None, None, None)


def test_read_truth_labels_follow_the_set_asked_for(tmp_path):
    (tmp_path / "labels.csv").write_text("FileName,EmoClass\nu,b\n")
    assert read_truth(tmp_path / "labels.csv", AB).labels.tolist() == [1]


def test_read_truth_reports_all_faults_of_a_csv_at_once(tmp_path):
    (tmp_path / "labels.csv").write_text("FileName,EmoClass\nu,A\nu,N\nv,Q\n")
    with pytest.raises(
        ProblemsError, match=r"2 problems.*appear more than once: 'u'.*unknown EmoClass: 'Q \(v\)'"
    ):
        read_truth(tmp_path / "labels.csv")


def test_read_truth_missing_file_raises(tmp_path):
    with pytest.raises(MissingFileError, match="There is no file"):
        read_truth(tmp_path / "none.csv")


def test_mean_and_sd_by_hand():
    # 1, 2, 6: mean 3, deviations -2 -1 3, squares 4 + 1 + 9 = 14, 14 / 2 = 7
    mean, sd = mean_and_sd([1.0, 2.0, 6.0])
    assert mean == 3.0
    assert sd == pytest.approx(7**0.5)


def test_mean_and_sd_of_one_score_raises():
    with pytest.raises(BadValueError, match="needs at least two scores, got 1"):
        mean_and_sd([0.4])
