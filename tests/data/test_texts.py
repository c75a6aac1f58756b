"""Columns of text in Arrow: they read like tuples, and find, count and clean as Python would."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from abhinaya.data import label_csv
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest_cells import clean, speaker_or_none, text_or_none
from abhinaya.data.predictions import PredictionTable, align_tables, read_table, write_table
from abhinaya.data.texts import Texts, find_rows
from abhinaya.errors import AbhinayaError, BadValueError
from abhinaya.files import write_csv

WORDS = ("b", None, "äöü", "", "b")


def table_of(name, utterances, **columns):
    labels = np.arange(len(utterances)) % len(MSP_PODCAST)
    return PredictionTable(name, MSP_PODCAST, utterances, labels, **columns)


@pytest.mark.parametrize(
    "values",
    [
        WORDS,
        list(WORDS),
        iter(WORDS),
        Texts(WORDS),
        pa.array(WORDS),
        pa.chunked_array([WORDS[:2], WORDS[2:]], pa.string()),
        pa.array(WORDS).dictionary_encode(),
        pd.Series(WORDS, dtype="str"),
        np.array(WORDS, dtype=object),
    ],
    ids=lambda values: type(values).__name__,
)
def test_texts_from_anything_read_like_a_tuple(values):
    texts = Texts(values)
    assert texts == WORDS
    assert texts == list(WORDS)
    assert tuple(texts) == WORDS
    assert texts == Texts(WORDS)
    assert texts != WORDS[:-1]
    assert texts != (*WORDS[:-1], "x")
    assert (texts[0], texts[np.int64(2)], texts[-2]) == ("b", "äöü", "")
    assert texts[::-2] == WORDS[::-2]
    assert (len(texts), texts.count(None), texts.index("äöü"), "c" in texts) == (5, 1, 2, False)
    assert sum([texts, texts], ()) == WORDS + WORDS
    assert pickle.loads(pickle.dumps(texts)) == texts
    assert texts.take([4, 1]) == ("b", None)
    assert texts.replace("", None) == ("b", None, "äöü", None, "b")
    assert texts.count_each() == {"b": 2, None: 1, "äöü": 1, "": 1}
    numbers, found = texts.factorize()
    assert tuple(found[number] for number in numbers) == WORDS
    assert not texts.is_unique
    assert texts[:4].is_unique
    assert repr(texts) == "Texts('b', None, 'äöü', '', 'b')"


def test_no_texts_at_all_are_an_empty_tuple():
    assert Texts(()) == ()
    assert not Texts([])
    assert Texts(()).is_unique
    assert find_rows((), ("a",)).shape == (0,)


def test_an_index_beyond_the_end_raises():
    with pytest.raises(IndexError):
        Texts(WORDS)[5]


def test_rows_are_found_where_python_would_find_them():
    rng = np.random.default_rng(0)
    among = [f"ü{number}" for number in rng.permutation(500)]
    texts = [f"ü{number}" for number in rng.integers(700, size=300)]
    place = {text: idx for idx, text in enumerate(among)}
    assert find_rows(texts, among).tolist() == [place.get(text, -1) for text in texts]
    assert find_rows(among, tuple(among)).tolist() == list(range(500))


def test_labels_are_encoded_as_one_by_one():
    labels = ["A", None, "U", "O", "A"]
    assert (MSP_PODCAST.encode(Texts(labels)) == MSP_PODCAST.encode(labels)).all()
    with pytest.raises(BadValueError, match="Unknown label 'Q'"):
        MSP_PODCAST.encode(Texts(["A", "Q"]))


@pytest.mark.parametrize("cleaner", [text_or_none, speaker_or_none])
def test_texts_are_cleaned_as_cell_by_cell_whatever_blank_is_around_them(cleaner):
    signs = [chr(code) for code in range(0xD800)]
    blanks = [sign for sign in signs if not sign.strip()]
    cells = [*blanks, *(f"{sign}é{sign}" for sign in blanks), None, "", "12.0", "NaN", "x y"]
    for cell in cells:
        column = pd.Series([cell, "a"], dtype="str")
        assert Texts(clean(column, cleaner)) == (cleaner(cell), "a")
    others = pd.Series([sign for sign in signs if sign.strip()], dtype="str")
    assert clean(others, text_or_none).equals(others)


def test_tables_keep_their_texts_through_files_rows_and_other_orders(tmp_path):
    utterances = ("ä.wav", "b,c.wav", 'd"e.wav', "日本.wav")
    reasons = (None, "no sound", None, "größer")
    ours = table_of("ours", utterances, reasons=reasons, raw=("x", None, "", "ß"))
    write_table(ours, tmp_path / "t.parquet")
    read = read_table(tmp_path / "t.parquet", beside=ours)
    assert read.utterances is ours.utterances
    assert (read.reasons, read.raw, read.fold) == (reasons, ("x", None, "", "ß"), None)
    theirs = table_of("theirs", utterances[::-1])
    aligned = align_tables([read, theirs])
    assert aligned[1].utterances == utterances
    assert aligned[1].labels.tolist() == [3, 2, 1, 0]
    some = align_tables([read, theirs.take([3, 1])], rows="intersection")
    assert [table.utterances for table in some] == [("ä.wav", 'd"e.wav')] * 2
    write_table(ours.take([]), tmp_path / "empty.parquet")
    assert read_table(tmp_path / "empty.parquet").utterances == ()


CSV_FILES = [
    "FileName,EmoClass\na.wav,A\nb.wav,\n",
    "FileName,EmoClass\r\nä.wav,A\r\n\r\n b.wav ,N",
    "FileName,EmoClass\ra.wav,A\rb.wav,N\r",
    "\ufeffFileName,EmoClass\na.wav,null\nb.wav,NA\n",
    "\nFileName,EmoClass,prob_A\n\na.wav,A,0.50\nb.wav,N,1e-3\n",
    'FileName,EmoClass\n"a,b.wav",A\n"c ""d"".wav",N\n',
    "EmoClass,FileName\nA,a.wav\n",
    "FileName,EmoClass\n",
    "FileName,EmoClass",
    "FileName,EmoClass,,\na.wav,A,1,2\n",
    "FileName,EmoClass\na.wav\n",
    "FileName,EmoClass\na.wav,A,B\n",
    "FileName,EmoClass\n  ,A\n",
    "FileName,FileName,EmoClass\na,b,A\n",
    "FileName\na.wav\n\n",
    "",
    "\n",
    "FileName,EmoClass\na.wav,True\n007,1.0\n2020-01-01,A\n",
    f"FileName,EmoClass\n{'x' * 200_000},A\n",
    "FileName,EmoClass\na\0.wav,A\n",
    "FileName,EmoClass\na\x0b\x85\u2028.wav,A\n",
]


@pytest.mark.parametrize("number", range(len(CSV_FILES)))
def test_csv_is_read_by_column_as_row_by_row(tmp_path, monkeypatch, number):
    path = tmp_path / "t.csv"
    path.write_bytes(CSV_FILES[number].encode())

    def read():
        try:
            table = label_csv.read_csv_table(path)
        except AbhinayaError as error:
            return str(error)
        return {name: table[name].to_pylist() for name in table.column_names}

    by_column = read()
    monkeypatch.setattr(label_csv, "_read_plain", lambda *_: None)
    assert by_column == read()


def test_a_csv_that_is_no_text_raises_as_before(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"FileName,EmoClass\n\xff.wav,A\n")
    with pytest.raises(BadValueError, match="cannot be read as CSV"):
        label_csv.read_csv_table(tmp_path / "t.csv")


@pytest.mark.parametrize("name", ["a.wav", "ä b.wav", "a,b.wav", 'say "a".wav', "a\rb", "a\nb"])
def test_labels_are_written_with_the_bytes_of_python(tmp_path, name):
    label_csv.write_labels(tmp_path / "ours.csv", Texts([name, "z"]), Texts(["A", None]))
    write_csv(tmp_path / "theirs.csv", ["FileName", "EmoClass"], [(name, "A"), ("z", None)])
    assert (tmp_path / "ours.csv").read_bytes() == (tmp_path / "theirs.csv").read_bytes()
