"""Predicted arousal, valence and dominance in tables and in their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.predictions import PredictionTable, read_table, write_table
from abhinaya.errors import BadShapeError, ProblemsError

NAN = float("nan")
VALUES = np.array([[1, 7, 3.3], [NAN, 2.5, NAN], [NAN, NAN, NAN]], dtype=np.float32)


def table_of(values: np.ndarray | None = VALUES) -> PredictionTable:
    names = ("a.wav", "b.wav", "c.wav")
    return PredictionTable("run", MSP_PODCAST, names, np.array([0, 1, -1]), attributes=values)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
@pytest.mark.parametrize("values", [VALUES, VALUES * NAN], ids=["some", "none"])
def test_attributes_come_back_from_a_file(tmp_path: Path, ending: str, values: np.ndarray) -> None:
    path = tmp_path / f"run.{ending}"
    write_table(table_of(values), path)
    found = read_table(path)
    assert found.attributes is not None
    assert found.attributes.dtype == np.float32
    np.testing.assert_array_equal(found.attributes, values)
    np.testing.assert_array_equal(found.take([2, 0]).attributes, values[[2, 0]])


def test_attributes_in_a_csv_have_the_names_of_msp_podcast(tmp_path: Path) -> None:
    write_table(table_of(), tmp_path / "run.csv")
    header, first, second, _ = (tmp_path / "run.csv").read_text().splitlines()
    assert header == "FileName,EmoClass,EmoAct,EmoVal,EmoDom"
    assert first.startswith("a.wav,A,1.0,7.0,3.29999")
    assert second == "b.wav,C,,2.5,"


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_table_without_attributes_has_no_columns_for_them(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"run.{ending}"
    write_table(table_of(None), path)
    assert read_table(path).attributes is None
    content = path.read_bytes()
    assert b"arousal" not in content
    assert b"EmoAct" not in content


def test_table_of_one_attribute_made_elsewhere_is_read(tmp_path: Path) -> None:
    path = tmp_path / "theirs.parquet"
    write_table(table_of(), path)
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["arousal", "dominance"]), path)
    np.testing.assert_array_equal(read_table(path).attributes[:, 1], VALUES[:, 1])
    assert np.isnan(read_table(path).attributes[:, [0, 2]]).all()
    pq.write_table(table.set_column(3, "arousal", pa.array(["4", "5", "6"])), path)
    with pytest.raises(ProblemsError, match="'arousal' holds string, expected float"):
        read_table(path)


def test_attributes_that_cannot_be_are_refused(tmp_path: Path) -> None:
    wrong = VALUES.copy()
    wrong[0, 1] = 7.5
    with pytest.raises(
        ProblemsError, match=r"valence of 1 rows is outside \[1, 7\]: '7.5 \(a.wav\)'"
    ):
        table_of(wrong)
    with pytest.raises(BadShapeError, match="attributes"):
        table_of(VALUES[:, :2])
    path = tmp_path / "theirs.csv"
    path.write_text("FileName,EmoClass,EmoAct,EmoDom\na.wav,A,high,0\nb.wav,A,3,inf\n")
    with pytest.raises(ProblemsError) as caught:
        read_table(path)
    assert caught.value.problems == (
        "EmoAct of 1 rows is not a number: 'high (a.wav)'",
        "dominance of 2 rows is outside [1, 7]: '0 (a.wav)', 'inf (b.wav)'",
    )
