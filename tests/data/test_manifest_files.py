from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from abhinaya.data.labels import MSP_PODCAST, EmotionSet
from abhinaya.data.manifest import make_manifest, read_manifest, write_manifest
from abhinaya.errors import BadValueError, MissingFileError, ProblemsError

WORDS = EmotionSet(codes=("anger", "joy"), names=("Wut", "Freude"), outside=("other",))


def test_parquet_round_trip_keeps_everything(tmp_path: Path) -> None:
    ours = make_manifest(
        [
            {"utterance": "ä.wav", "label": "joy", "turn": 3, "votes": [1, 4, 0], "age": 31},
            {"utterance": "b.wav", "label": "other", "arousal": 2.5, "votes": None, "age": None},
        ],
        WORDS,
        tmp_path,
        subsets={"mine": ["b.wav", "ä.wav"], "none": []},
        facts={"licence": "CC0-1.0"},
    )
    write_manifest(ours, tmp_path / "m" / "manifest.parquet")
    theirs = read_manifest(tmp_path / "m" / "manifest.parquet")
    assert theirs.emotions == WORDS
    assert theirs.root == tmp_path / "m"
    assert theirs.subsets == {"mine": ("b.wav", "ä.wav"), "none": ()}
    assert theirs.facts == {"licence": "CC0-1.0"}
    assert theirs.digest == ours.digest
    assert theirs.rows["votes"][0].tolist() == [1, 4, 0]
    assert theirs.rows["votes"][1] is None
    others = [column for column in ours.rows if column != "votes"]
    pd.testing.assert_frame_equal(theirs.rows[others], ours.rows[others])


def test_parquet_holds_whole_turns_and_fixed_votes(tmp_path: Path) -> None:
    rows = [{"utterance": "a.wav", "turn": 3, "votes": "joy:2"}]
    write_manifest(make_manifest(rows, WORDS, tmp_path), tmp_path / "manifest.parquet")
    schema = pq.read_schema(tmp_path / "manifest.parquet")
    assert schema.field("turn").type == pa.int64()
    assert schema.field("votes").type == pa.list_(pa.int32(), 3)


def test_column_of_mixed_types_raises(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"utterance": "a.wav", "note": 1},
        {"utterance": "b.wav", "note": "x"},
    ]
    with pytest.raises(BadValueError, match=r"The column 'note' cannot be stored: .* one type"):
        write_manifest(make_manifest(rows, WORDS, tmp_path), tmp_path / "manifest.parquet")
    assert list(tmp_path.iterdir()) == []


def test_csv_without_emotion_set_is_msp_podcast(tmp_path: Path) -> None:
    # "NA" and the like are text, not null; but nobody's name.
    (tmp_path / "m.csv").write_text(
        "utterance,label,speaker,votes,mood\na.wav,N,NA,N:2,NA\nb.wav,,,,\n"
    )
    manifest = read_manifest(tmp_path / "m.csv")
    assert manifest.emotions == MSP_PODCAST
    assert manifest.rows["mood"][0] == "NA"
    assert manifest.rows["speaker"].isna().all()
    assert manifest.rows["votes"][0].tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0]
    assert manifest.rows.loc[1, ["label", "speaker", "votes"]].isna().all()


def test_csv_with_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("utterance,label\na.wav,N\n", encoding="utf-8-sig")
    assert read_manifest(tmp_path / "m.csv").rows["utterance"].tolist() == ["a.wav"]


def test_jsonl_takes_the_emotion_set_beside_it(tmp_path: Path) -> None:
    (tmp_path / "emotions.json").write_text(WORDS.to_json())
    lines = [{"utterance": "a.wav", "label": "joy", "votes": [0, 2, 1]}, {"utterance": "b.wav"}]
    text = "\n".join(json.dumps(line) for line in lines)
    (tmp_path / "m.jsonl").write_text(text + "\n\n")
    manifest = read_manifest(tmp_path / "m.jsonl")
    assert manifest.emotions == WORDS
    assert manifest.rows["votes"][0].tolist() == [0, 2, 1]


def test_bad_emotion_set_beside_it_raises_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("utterance\na.wav\n")
    (tmp_path / "emotions.json").write_text("{}")
    with pytest.raises(BadValueError, match=r"emotions\.json is not an emotion set"):
        read_manifest(tmp_path / "m.csv")


def test_label_outside_the_set_raises_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("utterance,label\na.wav,anger\n")
    with pytest.raises(ProblemsError, match=r"1 problem in .*m\.csv.*'anger \(a\.wav\)'"):
        read_manifest(tmp_path / "m.csv")


def test_subset_of_unknown_utterances_raises(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("utterance\na.wav\n")
    (tmp_path / "subsets").mkdir()
    (tmp_path / "subsets" / "mine.txt").write_text("a.wav\nz.wav\n")
    with pytest.raises(ProblemsError, match=r"subset 'mine' names 1 utterances .* 'z.wav'"):
        read_manifest(tmp_path / "m.csv")


def test_absent_manifest_raises_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no manifest .*m\.csv.* abhinaya prepare CORPUS"):
        read_manifest(tmp_path / "m.csv")


def test_unknown_ending_raises(tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text("")
    with pytest.raises(BadValueError, match=r"ends in '.txt', expected .parquet, .csv or .jsonl"):
        read_manifest(tmp_path / "m.txt")


@pytest.mark.parametrize(
    ("name", "content"),
    [("m.parquet", b"x"), ("m.csv", b""), ("m.csv", b"a,\xff\n"), ("m.jsonl", b"{")],
    ids=["no Parquet", "empty CSV", "not UTF-8", "no JSON"],
)
def test_file_of_another_kind_raises(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadValueError, match=rf"{name}' cannot be read as {name[2:]}"):
        read_manifest(tmp_path / name)


def test_parquet_that_is_no_manifest_raises(tmp_path: Path) -> None:
    pq.write_table(pa.table({"utterance": ["a.wav"]}), tmp_path / "m.parquet")
    with pytest.raises(
        BadValueError, match=r"is a Parquet file but not a manifest\. Make one with"
    ):
        read_manifest(tmp_path / "m.parquet")


def test_audio_is_relative_to_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("utterance,audio\na.wav,../Audios/a.wav\n")
    manifest = read_manifest(tmp_path / "m.csv")
    assert manifest.audio_path("../Audios/a.wav") == tmp_path / "../Audios/a.wav"


def test_audio_root_matches_by_path_and_else_by_name(tmp_path: Path) -> None:
    root = tmp_path / "copy"
    for folder in ("Audios", "deep/down", "z"):
        (root / folder).mkdir(parents=True)
    (root / "Audios" / "a.wav").touch()
    (root / "deep" / "down" / "b.wav").touch()
    (root / "z" / "b.wav").touch()
    (tmp_path / "m.csv").write_text("utterance,audio\na.wav,Audios/a.wav\n")
    manifest = read_manifest(tmp_path / "m.csv", audio_root=root)
    assert manifest.audio_path("Audios/a.wav") == root / "Audios" / "a.wav"
    # The first in sorted order.
    assert manifest.audio_path("../Audios/b.wav") == root / "deep" / "down" / "b.wav"
    # A file that is nowhere keeps its direct path, for the message of whoever opens it.
    assert manifest.audio_path("Audios/c.wav") == root / "Audios" / "c.wav"


def test_absent_audio_root_raises(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("utterance\na.wav\n")
    with pytest.raises(MissingFileError, match=r"audio root '.*nowhere' is not a folder"):
        read_manifest(tmp_path / "m.csv", audio_root=tmp_path / "nowhere")


def lists_file(path: Path, lists: list[list[int] | None], kind: pa.DataType) -> Path:
    """A manifest of another writer, with lists of votes of some type."""
    rows = [{"utterance": f"{idx}.wav"} for idx in range(len(lists))]
    write_manifest(make_manifest(rows, WORDS, path), path / "m.parquet")
    table = pq.read_table(path / "m.parquet")
    place = table.schema.get_field_index("votes")
    table = table.set_column(place, "votes", pa.array(lists, type=kind))
    pq.write_table(table, path / "m.parquet", row_group_size=2)
    return path / "m.parquet"


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int32(), 3), pa.list_(pa.int64(), 3), pa.list_(pa.int32())]
)
def test_lists_of_votes_of_any_type_are_read_alike(tmp_path: Path, kind: pa.DataType) -> None:
    lists = [[1, 0, 2], None, [0, 0, 0], [0, 5, 0], None]
    votes = read_manifest(lists_file(tmp_path, lists, kind)).rows["votes"]
    found = [None if counts is None else counts.tolist() for counts in votes]
    assert found == [[1, 0, 2], None, None, [0, 5, 0], None]


@pytest.mark.parametrize("width", [2, 3])
def test_lists_of_votes_that_are_none_raise(tmp_path: Path, width: int) -> None:
    wrong = [[0, 1], None] if width == 2 else [[0, -1, 0], None]
    path = lists_file(tmp_path, wrong, pa.list_(pa.int32(), width))
    with pytest.raises(ProblemsError, match=r"votes of 1 rows cannot be read, such as .*0\.wav"):
        read_manifest(path)
