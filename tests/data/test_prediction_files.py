from __future__ import annotations

import contextlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from abhinaya.data.predictions import read_table, write_table
from abhinaya.errors import AbhinayaError, BadValueError
from tests.data.test_predictions import AB, full_table


def stored_parquet(tmp_path, metadata, **columns):
    path = tmp_path / "t.parquet"
    rows = {"utterance": ["u"], "label": ["a"], "reason": pa.array([None], pa.string()), **columns}
    rows = {name: cells for name, cells in rows.items() if cells is not None}
    pq.write_table(pa.table(rows).replace_schema_metadata({b"abhinaya": metadata}), path)
    return path


def facts(**changes):
    stored = {"kind": "predictions", "name": "run", "emotions": AB.to_json(), "meta": {}}
    return json.dumps({k: v for k, v in (stored | changes).items() if v is not None}).encode()


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (b"{", "metadata .* not JSON"),
        (b"\xff\xfe{", "metadata .* not JSON"),
        (b"[" * 200_000, "metadata .* nested too deeply"),
        (b"9" * 5_000, "metadata .* not JSON"),
        (b"[]", "metadata .* is a list, expected a dictionary"),
        (facts(kind="manifest"), "not a prediction table"),
        (facts(emotions=None), "metadata lacks 'emotions'"),
        (facts(name=None), "metadata lacks 'name'"),
        (facts(meta=None), "metadata lacks 'meta'"),
        (facts(name=3, meta=[]), "2 problems .*'name' is 3, .*'meta' is"),
        (facts(emotions=["a", "b"]), "'emotions' is "),
        (facts(emotions="[" * 200_000), "'emotions' of .* is not an emotion set"),
        (facts(emotions='{"codes": [1, 2]}'), "not an emotion set"),
        (facts(emotions='{"codes": [["a"], "b"]}'), "not an emotion set"),
        (facts(emotions='{"codes": ["a", "b"], "names": [1, 2]}'), "not an emotion set"),
    ],
    ids=range(15),
)
def test_parquet_with_wrong_metadata_raises_one_line(tmp_path, metadata, expected):
    with pytest.raises(BadValueError, match=expected) as caught:
        read_table(stored_parquet(tmp_path, metadata))
    assert "t.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"label": None, "utterance": None}, "column 'utterance' is missing.*'label' is missing"),
        ({"reason": None}, "column 'reason' is missing"),
        ({"utterance": [1]}, "'utterance' holds int64, expected text"),
        ({"utterance": pa.array([None], pa.string())}, "1 rows have no utterance"),
        ({"label": [["a"]]}, "'label' holds list.*, expected text"),
        ({"raw": [2.5]}, "'raw' holds double, expected text"),
        ({"decided_by": [True]}, "'decided_by' holds bool, expected text"),
        ({"trained_on": ["x"]}, "'trained_on' holds string, expected true or false"),
        ({"trained_on": pa.array([None], pa.bool_())}, "'trained_on' .* true or false in each row"),
        ({"label": ["z"]}, "Unknown label 'z'"),
        ({"probs": [[0.5, 0.5]]}, "'probs' holds list.*, expected lists of one length"),
        ({"probs": ["0.5 0.5"]}, "'probs' holds string, expected lists of one length"),
        ({"embedding": [0.5]}, "'embedding' holds double, expected lists of one length"),
        (
            {"probs": pa.array([["a", "b"]], pa.list_(pa.string(), 2))},
            "'probs' holds fixed_size_list.*string.*, expected lists of one length",
        ),
    ],
    ids=range(14),
)
def test_parquet_with_wrong_columns_raises_one_line(tmp_path, columns, expected):
    """Each of these ended in a traceback."""
    with pytest.raises(BadValueError, match=expected) as caught:
        read_table(stored_parquet(tmp_path, facts(), **columns))
    assert "t.parquet" in str(caught.value)


def test_parquet_with_a_column_twice_raises(tmp_path):
    path = stored_parquet(tmp_path, facts())
    table = pq.read_table(path)
    pq.write_table(table.append_column("label", pa.array(["b"])), path)
    with pytest.raises(BadValueError, match="the column 'label' stands there 2 times"):
        read_table(path)


def test_parquet_with_text_that_is_not_utf8_raises(tmp_path):
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    )
    with pytest.raises(BadValueError, match="cannot be read as Parquet"):
        read_table(stored_parquet(tmp_path, facts(), utterance=broken))


@pytest.mark.parametrize("seed", range(150))
def test_damaged_parquet_is_read_or_refused_in_our_words(tmp_path, seed):
    path = tmp_path / "t.parquet"
    write_table(full_table(), path)
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    if seed % 3 == 0:
        content = content[: rng.integers(len(content))]
    for place in rng.integers(len(content), size=rng.integers(1, 6)) if content else ():
        content[place] = rng.integers(256)
    path.write_bytes(content)
    with contextlib.suppress(AbhinayaError):
        read_table(path)
