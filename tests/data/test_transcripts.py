from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from abhinaya.data.transcripts import (
    HUMAN,
    read_transcript_rows,
    read_transcripts,
    write_transcripts,
)
from abhinaya.errors import BadValueError, MissingFileError, ProblemsError, UnknownNameError

ROWS: list[dict[str, Any]] = [
    {"utterance": "a.wav", "source": HUMAN, "text": "Hello, “you”."},
    {"utterance": "b.wav", "source": HUMAN, "text": ""},
    {"utterance": "a.wav", "source": "whisper-large-v3", "text": "hello", "avg_logprob": -0.25},
    {"utterance": "b.wav", "source": "whisper-large-v3", "text": None},
]


def test_round_trip_keeps_sources_apart_and_null_apart_from_silence(tmp_path: Path) -> None:
    write_transcripts(ROWS, tmp_path / "t.parquet")
    assert read_transcripts(tmp_path / "t.parquet", HUMAN) == {
        "a.wav": "Hello, “you”.",
        "b.wav": "",
    }
    theirs = read_transcripts(tmp_path / "t.parquet", "whisper-large-v3")
    assert theirs == {"a.wav": "hello", "b.wav": None}


def test_decoder_scores_are_kept_with_null_where_there_are_none(tmp_path: Path) -> None:
    write_transcripts(ROWS, tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet")
    assert table["avg_logprob"].to_pylist() == [None, None, -0.25, None]


def test_rows_of_all_sources_can_be_written_again_as_they_were(tmp_path: Path) -> None:
    write_transcripts(ROWS, tmp_path / "t.parquet")
    rows = read_transcript_rows(tmp_path / "t.parquet")
    # A score that a row has not is null in it.
    assert rows == [{"avg_logprob": None, **row} for row in ROWS]
    write_transcripts(rows, tmp_path / "again.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "t.parquet").read_bytes()


def test_rows_of_an_absent_or_wrong_file_raise(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="There are no transcripts"):
        read_transcript_rows(tmp_path / "t.parquet")
    columns = {"utterance": ["a"], "source": [None], "text": ["x"]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(ProblemsError, match="'source' of 1 rows is not text: None"):
        read_transcript_rows(tmp_path / "t.parquet")


def test_no_rows_make_a_file_without_sources(tmp_path: Path) -> None:
    write_transcripts([], tmp_path / "t.parquet")
    with pytest.raises(UnknownNameError, match=r"Unknown transcript source 'human'\. Known: none"):
        read_transcripts(tmp_path / "t.parquet", HUMAN)


def test_unknown_source_raises_with_near_match(tmp_path: Path) -> None:
    write_transcripts(ROWS, tmp_path / "t.parquet")
    with pytest.raises(UnknownNameError, match="Did you mean 'whisper-large-v3'"):
        read_transcripts(tmp_path / "t.parquet", "whisper-large-v2")


def test_absent_file_raises_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no transcripts .*t\.parquet.*abhinaya transcribe"):
        read_transcripts(tmp_path / "t.parquet", HUMAN)


def test_file_of_another_kind_raises(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_text("hello")
    with pytest.raises(BadValueError, match=r"t\.parquet' cannot be read as Parquet"):
        read_transcripts(tmp_path / "t.parquet", HUMAN)


def test_missing_columns_raise_together(tmp_path: Path) -> None:
    pq.write_table(pa.table({"utterance": ["a.wav"]}), tmp_path / "t.parquet")
    with pytest.raises(ProblemsError, match=r"2 problems.*'source' is missing.*'text' is missing"):
        read_transcripts(tmp_path / "t.parquet", HUMAN)


def test_missing_key_raises_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError, match="1 rows have no 'text'"):
        write_transcripts([{"utterance": "a", "source": HUMAN}, *ROWS], tmp_path / "t.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("key", "value"), [("utterance", None), ("source", None), ("text", 3)])
def test_key_that_is_not_text_raises(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(ProblemsError, match=f"'{key}' of 1 rows is not text: {value!r}"):
        write_transcripts([ROWS[0], {**ROWS[1], key: value}], tmp_path / "t.parquet")


def test_repeated_pair_raises_when_written_and_when_read(tmp_path: Path) -> None:
    expected = "1 rows repeat a pair of utterance and source: 'a.wav from human'"
    with pytest.raises(ProblemsError, match=expected):
        write_transcripts([ROWS[0], ROWS[2], ROWS[0]], tmp_path / "t.parquet")
    columns = {"utterance": ["a.wav"] * 2, "source": [HUMAN] * 2, "text": ["x", "y"]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(ProblemsError, match=expected):
        read_transcripts(tmp_path / "t.parquet", HUMAN)
