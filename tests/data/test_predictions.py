from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from abhinaya.data.labels import ABSTAIN, MSP_PODCAST, EmotionSet
from abhinaya.data.predictions import (
    PredictionTable,
    align_tables,
    read_table,
    read_tables,
    write_table,
)
from abhinaya.errors import (
    BadShapeError,
    BadValueError,
    ClassOrderError,
    MissingFileError,
    ProblemsError,
)

AB = EmotionSet(codes=("a", "b"), names=("anger", "boredom"))
BA = EmotionSet(codes=("b", "a"), names=("boredom", "anger"))


def table_of(labels=(0, 1), name="run", utterances=None, emotions=AB, **further):
    utterances = tuple(utterances or "uvwxyz"[: len(labels)])
    return PredictionTable(name, emotions, utterances, np.array(labels, dtype=np.int64), **further)


def full_table():
    """Every column, each with a gap: v has probabilities and nothing else, u the reverse."""
    nan = np.nan
    return table_of(
        (ABSTAIN, 1),
        reasons=("0.005 s is shorter than 0.025 s", None),
        probs=np.array([[nan, nan], [0.25, 0.75]], dtype=np.float32),
        embeddings=np.array([[1, 2, 3], [nan, nan, nan]], dtype=np.float32),
        raw=("I cannot say", None),
        decided_by=(None, "majority"),
        meta={"seed": 3, "head": {"weight": [[0.5]], "bias": [0.0]}},
    )


def test_parquet_round_trip_keeps_every_column_and_gap(tmp_path):
    table = full_table()
    write_table(table, tmp_path / "t.parquet")
    read = read_table(tmp_path / "t.parquet")
    assert (read.name, read.utterances, read.emotions) == ("run", ("u", "v"), AB)
    assert read.labels.tolist() == [ABSTAIN, 1]
    np.testing.assert_array_equal(read.probs, table.probs)
    np.testing.assert_array_equal(read.embeddings, table.embeddings)
    for column in ("reasons", "raw", "decided_by", "meta"):
        assert getattr(read, column) == getattr(table, column)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_marks_of_training_rows_survive_either_format(tmp_path, ending):
    path = tmp_path / f"t.{ending}"
    write_table(table_of(trained_on=np.array([False, True])), path)
    table = read_table(path, emotions=AB)
    assert table.trained_on.tolist() == [False, True]
    assert table.take([1]).trained_on.tolist() == [True]
    write_table(table_of(), path)
    assert read_table(path, emotions=AB).trained_on is None


def test_csv_mark_that_says_neither_yes_nor_no_raises(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("FileName,EmoClass,trained_on\nu,a,TRUE\nv,b,maybe\n")
    with pytest.raises(ProblemsError, match="trained_on is 'maybe', expected true or false"):
        read_table(path, emotions=AB)


def test_parquet_columns_are_those_of_the_contract(tmp_path):
    write_table(full_table(), tmp_path / "t.parquet")
    arrow = pq.read_table(tmp_path / "t.parquet")
    assert arrow.column_names == [
        "utterance",
        "label",
        "reason",
        "probs",
        "embedding",
        "raw",
        "decided_by",
    ]
    assert arrow.column("label").to_pylist() == [None, "b"]
    assert arrow.column("probs").to_pylist() == [None, [0.25, 0.75]]
    assert arrow.schema.field("embedding").type == pa.list_(pa.float32(), 3)


def test_parquet_of_a_labels_only_table_reads_back_without_probs(tmp_path):
    write_table(table_of((0, 1)), tmp_path / "t.parquet")
    read = read_table(tmp_path / "t.parquet")
    assert read.probs is None
    assert read.embeddings is None
    assert read.raw is None
    assert read.has_probs.tolist() == [False, False]


def test_parquet_of_no_rows_round_trips(tmp_path):
    table = table_of((), probs=np.zeros((0, 2), dtype=np.float32))
    write_table(table, tmp_path / "t.parquet")
    read = read_table(tmp_path / "t.parquet")
    assert len(read) == 0
    assert read.probs.shape == (0, 2)


def test_parquet_written_twice_has_the_same_bytes(tmp_path):
    write_table(full_table(), tmp_path / "one.parquet")
    write_table(full_table(), tmp_path / "two.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_csv_has_the_columns_challenges_use(tmp_path):
    write_table(full_table(), tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == (
        "FileName,EmoClass,prob_a,prob_b\nu,,,\nv,b,0.25,0.75\n"
    )


def test_csv_round_trip_empty_class_is_an_abstention_and_name_is_the_stem(tmp_path):
    write_table(full_table(), tmp_path / "other name.csv")
    read = read_table(tmp_path / "other name.csv", emotions=AB)
    assert read.name == "other name"
    assert read.labels.tolist() == [ABSTAIN, 1]
    assert read.reasons == ("empty in the CSV", None)
    assert read.has_probs.tolist() == [False, True]


def test_csv_probability_columns_are_read_by_name_into_class_order(tmp_path):
    (tmp_path / "t.csv").write_text("FileName,prob_b,EmoClass,prob_a\nu,0.9,b,0.1\n")
    np.testing.assert_allclose(
        read_table(tmp_path / "t.csv", emotions=AB).probs, [[0.1, 0.9]], rtol=1e-6
    )


def test_csv_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfFileName,EmoClass\r\nu,A\r\n")
    read = read_table(tmp_path / "t.csv")
    assert (read.utterances, read.labels.tolist(), read.emotions) == (("u",), [0], MSP_PODCAST)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Name,EmoClass\nu,A\n", r"the column 'FileName' is missing, got \['Name', 'EmoClass'\]"),
        ("", r"2 problems.*the column 'FileName' is missing, got \[\]"),
        ("FileName,EmoClass\nu,O\nv, A\n", r"2 rows have an EmoClass outside.*'O \(u\)', ' A"),
        ("FileName,EmoClass\nu,A\nu,A\n", "1 utterances appear more than once: 'u'"),
        ("FileName,EmoClass,prob_A\nu,A,1\n", "the probability columns are for A, expected one"),
        ("FileName,EmoClass\nu\nv,A,3\n", "2 rows do not have 2 cells like the header: line 2, 3"),
        ("FileName,EmoClass\n ,A\n", "1 rows have an empty FileName: line 2"),
    ],
)
def test_csv_with_wrong_content_raises(tmp_path, content, message):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(ProblemsError, match=message):
        read_table(tmp_path / "t.csv")


def test_csv_probability_that_is_no_number_raises(tmp_path):
    (tmp_path / "t.csv").write_text("FileName,EmoClass,prob_a,prob_b\nu,a,high,0.1\n")
    with pytest.raises(ProblemsError, match=r"a probability is not a number.*'high'"):
        read_table(tmp_path / "t.csv", emotions=AB)


def test_csv_that_is_no_text_raises(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"FileName,EmoClass\n\xff\xfe,A\n")
    with pytest.raises(BadValueError, match=r"cannot be read as CSV.*UTF-8"):
        read_table(tmp_path / "t.csv")


def test_read_table_missing_file_raises(tmp_path):
    with pytest.raises(MissingFileError, match=r"There is no table .*abhinaya predict"):
        read_table(tmp_path / "none.parquet")


def test_read_table_other_ending_raises(tmp_path):
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(BadValueError, match=r"must end in \.parquet or \.csv"):
        read_table(tmp_path / "t.json")
    with pytest.raises(BadValueError, match=r"must end in \.parquet or \.csv"):
        write_table(table_of(), tmp_path / "t.json")


def test_read_table_broken_or_foreign_parquet_raises(tmp_path):
    (tmp_path / "broken.parquet").write_text("no parquet")
    pq.write_table(pa.table({"utterance": ["u"]}), tmp_path / "foreign.parquet")
    with pytest.raises(BadValueError, match="cannot be read as Parquet"):
        read_table(tmp_path / "broken.parquet")
    with pytest.raises(BadValueError, match="is a Parquet file but not a prediction table"):
        read_table(tmp_path / "foreign.parquet")


def test_read_table_other_class_order_raises(tmp_path):
    write_table(table_of(), tmp_path / "t.parquet")
    with pytest.raises(ClassOrderError, match="has the class order a b, but the rest has b a"):
        read_table(tmp_path / "t.parquet", emotions=BA)


@pytest.mark.parametrize(
    ("further", "message"),
    [
        (
            {"probs": np.zeros((2, 3), np.float32)},
            r"'probs': \(2, 3\).*expected.*'probs': \(2, 2\)",
        ),
        ({"embeddings": np.zeros(2, np.float32)}, r"'embeddings': \(2,\)"),
        ({"embeddings": np.zeros((3, 5), np.float32)}, r"'embeddings': \(3, 5\)"),
        ({"raw": ("one",)}, r"'raw': \(1,\)"),
        ({"reasons": (None,) * 3}, r"'reasons': \(3,\)"),
        ({"labels": [[0], [1]]}, r"'labels': \(2, 1\)"),
    ],
)
def test_table_with_columns_of_other_length_raises(further, message):
    with pytest.raises(BadShapeError, match=message):
        table_of(**{"labels": (0, 1), **further})


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ({"utterances": "uu"}, "1 utterances appear more than once: 'u'"),
        ({"labels": (0, 2)}, "1 labels are no class index"),
        ({"labels": (-2, 0)}, "1 labels are no class index"),
        ({"probs": np.array([[0.5, 0.6], [1, 0]])}, "1 rows of probabilities are negative or do"),
        ({"probs": np.array([[1.5, -0.5], [1, 0]])}, "1 rows of probabilities are negative"),
        ({"probs": np.array([[np.nan, 1], [1, 0]])}, "1 rows of probabilities"),
    ],
)
def test_table_with_wrong_values_raises(further, message):
    with pytest.raises(ProblemsError, match=message):
        table_of(**further)


def test_take_picks_rows_of_every_column():
    taken = full_table().take([1])
    assert taken.utterances == ("v",)
    assert taken.labels.tolist() == [1]
    assert (taken.reasons, taken.raw, taken.decided_by) == ((None,), (None,), ("majority",))
    assert taken.probs.tolist() == [[0.25, 0.75]]
    assert taken.embeddings.shape == (1, 3)


def test_read_tables_csv_takes_the_class_order_of_the_parquet(tmp_path):
    write_table(table_of(name="p"), tmp_path / "p.parquet")
    (tmp_path / "q.csv").write_text("FileName,EmoClass\nu,b\nv,a\n")
    tables = read_tables([str(tmp_path / "q.csv"), str(tmp_path / "p.parquet")])
    assert [table.name for table in tables] == ["q", "p"]
    assert tables[0].emotions == AB
    assert tables[0].labels.tolist() == [1, 0]


def test_read_tables_name_before_equals_sign_renames(tmp_path):
    path = tmp_path / "lr=1e-5.parquet"
    write_table(table_of(name="p"), path)
    tables = read_tables([str(path), f"other={path}"])
    assert [table.name for table in tables] == ["p", "other"]


def test_read_tables_path_with_equals_sign_that_exists_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table(table_of(name="p"), tmp_path / "lr=1.parquet")
    assert read_tables(["lr=1.parquet"])[0].name == "p"


def test_read_tables_two_of_one_name_raise(tmp_path):
    path = str(tmp_path / "p.parquet")
    write_table(table_of(name="p"), tmp_path / "p.parquet")
    with pytest.raises(BadValueError, match=r"2 tables are named 'p'.*NAME=TABLE"):
        read_tables([path, path])


def test_read_tables_none_raises():
    with pytest.raises(BadValueError, match="No tables were given"):
        read_tables([])


def test_read_tables_other_class_order_raises(tmp_path):
    write_table(table_of(name="p"), tmp_path / "p.parquet")
    write_table(table_of(name="q", emotions=BA), tmp_path / "q.parquet")
    with pytest.raises(ClassOrderError, match=r"q\.parquet.*has the class order b a"):
        read_tables([str(tmp_path / "p.parquet"), str(tmp_path / "q.parquet")])


def test_align_tables_follows_the_order_of_the_first():
    aligned = align_tables([table_of((0, 1)), table_of((0, 1), utterances="vu")])
    assert [table.utterances for table in aligned] == [("u", "v")] * 2
    assert aligned[1].labels.tolist() == [1, 0]


def test_align_tables_other_rows_raise_and_name_both_sides():
    with pytest.raises(
        BadValueError,
        match=r"'q' does not cover .* as 'run': it lacks 1: 'u'; it has 1 more: 'w'",
    ):
        align_tables([table_of((0, 1)), table_of((0, 1), name="q", utterances="vw")])


def test_align_tables_intersection_keeps_what_all_have():
    tables = [table_of((0, 1)), table_of((0, 1), utterances="vw")]
    aligned = align_tables(tables, rows="intersection")
    assert [table.utterances for table in aligned] == [("v",), ("v",)]
    assert [table.labels.tolist() for table in aligned] == [[1], [0]]


def test_align_tables_sharing_nothing_raise():
    with pytest.raises(BadValueError, match="The tables run, q share no utterance"):
        align_tables(
            [table_of((0, 1)), table_of((0, 1), name="q", utterances="xy")], rows="intersection"
        )


def test_read_tables_csv_alone_takes_its_classes_from_the_probability_columns(tmp_path):
    (tmp_path / "a.csv").write_text("FileName,EmoClass\nu,W\n")
    (tmp_path / "b.csv").write_text("FileName,EmoClass,prob_L,prob_W\nu,W,0.25,0.75\n")
    a, b = read_tables([str(tmp_path / "a.csv"), str(tmp_path / "b.csv")])
    assert a.emotions.codes == b.emotions.codes == ("L", "W")
    assert (a.labels.tolist(), b.labels.tolist()) == ([1], [1])


def test_read_tables_csv_probability_columns_in_another_order_keep_the_class_order(tmp_path):
    codes = "UCDFHNSA"
    header = ",".join(f"prob_{code}" for code in codes)
    (tmp_path / "a.csv").write_text(f"FileName,EmoClass,{header}\nu,U,1,0,0,0,0,0,0,0\n")
    (table,) = read_tables([str(tmp_path / "a.csv")])
    assert table.emotions == MSP_PODCAST
    assert table.probs is not None
    assert table.probs[0].tolist() == [0, 0, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    "header",
    ["FileName,EmoClass,EmoClass", "FileName,FileName,EmoClass", "FileName,EmoClass,prob_A,prob_A"],
)
def test_csv_with_a_column_twice_raises(tmp_path, header):
    """The last of two columns won."""
    (tmp_path / "t.csv").write_text(f"{header}\n{','.join('u' for _ in header.split(','))}\n")
    with pytest.raises(ProblemsError, match=r"the column '\w+' stands there 2 times.*remove"):
        read_table(tmp_path / "t.csv")


def test_csv_columns_without_a_name_may_repeat(tmp_path):
    (tmp_path / "t.csv").write_text("FileName,EmoClass,,\nu,A,,\n")
    assert read_table(tmp_path / "t.csv").labels.tolist() == [0]


def test_csv_row_whose_probabilities_contradict_its_label_raises(tmp_path):
    (tmp_path / "t.csv").write_text("FileName,EmoClass,prob_a,prob_b\nu,a,.1,.9\nv,b,.2,.8\n")
    expected = r"1 rows have another label than their highest probability: 'u: a, but b has 0\.9'"
    with pytest.raises(ProblemsError, match=expected):
        read_table(tmp_path / "t.csv", emotions=AB)


def test_label_that_a_rule_decided_against_the_probabilities_round_trips(tmp_path):
    """Cluster assignment and strict ties give labels that are not the highest share."""
    probs = np.array([[0.1, 0.9], [0.25, 0.75]], np.float32)
    table = table_of((0, 1), probs=probs, decided_by=("cluster", None))
    for ending in ("csv", "parquet"):
        write_table(table, tmp_path / f"t.{ending}")
        read = read_table(tmp_path / f"t.{ending}", emotions=AB)
        assert read.labels.tolist() == [0, 1]
    assert (tmp_path / "t.csv").read_text().splitlines()[1:] == ["u,a,,", "v,b,0.25,0.75"]


def test_tied_and_rounded_probabilities_are_no_contradiction(tmp_path):
    (tmp_path / "t.csv").write_text("FileName,EmoClass,prob_a,prob_b\nu,b,0.5,0.5\nv,,0.3,0.7\n")
    assert read_table(tmp_path / "t.csv", emotions=AB).labels.tolist() == [1, ABSTAIN]


@pytest.mark.parametrize("cells", ["nan,nan", "NaN,0.5", "0.5,", "nan,", "inf,0"])
def test_csv_probability_that_is_no_finite_number_raises(tmp_path, cells):
    (tmp_path / "t.csv").write_text(f"FileName,EmoClass,prob_a,prob_b\nu,b,{cells}\nv,b,0,1\n")
    with pytest.raises(ProblemsError, match=r"1 rows have a probability .* 'u'.*leave all"):
        read_table(tmp_path / "t.csv", emotions=AB)


@pytest.mark.parametrize("column", ["probs", "embedding"])
@pytest.mark.parametrize("row", [[np.nan, np.nan], [None, None], [np.nan, 1.0], [np.inf, 0.0]])
def test_parquet_numbers_that_are_not_finite_raise(tmp_path, column, row):
    """A list of NaN was read as a row without any."""
    path = tmp_path / "t.parquet"
    write_table(table_of((0, 1)), path)
    cells = pa.array([row, [0.0, 1.0]], type=pa.list_(pa.float32(), 2))
    pq.write_table(pq.read_table(path).append_column(column, cells), path)
    with pytest.raises(ProblemsError, match=rf"{column} of 1 rows .* finite.*'u'"):
        read_table(path)
