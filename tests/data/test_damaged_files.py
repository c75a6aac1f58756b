"""Files that were damaged on the way: read, or refused in our own words."""

from __future__ import annotations

import contextlib

import numpy as np
import pyarrow.parquet as pq
import pytest

from abhinaya.data.manifest import make_manifest, read_manifest, write_manifest
from abhinaya.data.transcripts import read_transcript_rows, write_transcripts
from abhinaya.errors import AbhinayaError, BadValueError
from tests.data.test_predictions import AB

ROWS = [
    {"utterance": "u", "label": "a", "votes": [1, 0, 2], "duration_s": 1.5},
    {"utterance": "v", "label": None, "mood": "ok"},
]
JSONL = '{"utterance": "u", "label": "A", "votes": [1, 0], "duration_s": 1.5}\n{"utterance": "v"}\n'


def damage(content: bytes, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    changed = bytearray(content[: rng.integers(len(content))] if seed % 3 == 0 else content)
    for place in rng.integers(len(changed), size=rng.integers(1, 6)) if changed else ():
        changed[place] = rng.integers(256)
    return bytes(changed)


@pytest.mark.parametrize("seed", range(60))
def test_damaged_manifest_or_transcripts_are_read_or_refused_in_our_words(tmp_path, seed):
    write_manifest(make_manifest(ROWS, AB, tmp_path), tmp_path / "m.parquet")
    write_transcripts(
        [{"utterance": "u", "source": "human", "text": "hm", "avg_logprob": -0.5}],
        tmp_path / "t.parquet",
    )
    (tmp_path / "m.jsonl").write_text(JSONL)
    (tmp_path / "m.csv").write_text("utterance,label,votes,turn\nu,A,A:1 N:2,3\nv,,,\n")
    for name in ("m.parquet", "m.jsonl", "m.csv", "t.parquet"):
        path = tmp_path / name
        path.write_bytes(damage(path.read_bytes(), seed))
        with contextlib.suppress(AbhinayaError):
            (read_transcript_rows if name == "t.parquet" else read_manifest)(path)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("m.csv", b"utterance,label,label\nu,A,N\n", "'label' stands there 2 times"),
        ("m.jsonl", b'{"utterance": ' + b"[" * 200_000, "line 1 is nested too deeply"),
        ("m.jsonl", b'{"turn": ' + b"9" * 5_000 + b"}", "line 1 is not JSON"),
        ("m.jsonl", JSONL.encode("utf-16"), "not UTF-8"),
        ("subsets/s.txt", "u\n".encode("utf-16"), r"s\.txt' is not UTF-8"),
        ("emotions.json", b"[" * 200_000, r"emotions\.json is not an emotion set"),
        (
            "emotions.json",
            '{"codes": ["a", "b"]}'.encode("utf-16"),
            r"emotions\.json' is not UTF-8",
        ),
    ],
    ids=range(7),
)
def test_manifest_or_file_beside_it_in_another_form_raises(tmp_path, name, content, expected):
    (tmp_path / "subsets").mkdir()
    (tmp_path / "m.csv").write_text("utterance,label\nu,A\n")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadValueError, match=expected):
        read_manifest(tmp_path / (name if name.startswith("m.") else "m.csv"))


@pytest.mark.parametrize("metadata", [b"{", b"\xff", b"[]", b'{"kind": "manifest"}'])
def test_manifest_with_wrong_metadata_raises(tmp_path, metadata):
    path = tmp_path / "m.parquet"
    write_manifest(make_manifest(ROWS, AB, tmp_path), path)
    pq.write_table(pq.read_table(path).replace_schema_metadata({b"abhinaya": metadata}), path)
    with pytest.raises(BadValueError, match=r"metadata.*m\.parquet|m\.parquet.*metadata"):
        read_manifest(path)
