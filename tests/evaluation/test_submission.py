from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from abhinaya.data.labels import ABSTAIN, MSP_PODCAST, EmotionSet
from abhinaya.data.predictions import PredictionTable, write_table
from abhinaya.errors import (
    BadValueError,
    ClassOrderError,
    MissingFileError,
    ProblemsError,
    UnknownNameError,
)
from abhinaya.evaluation.submission import (
    CHALLENGES,
    LEDGER_NAME,
    Challenge,
    expected_names,
    find_challenge,
    read_ledger,
    record_score,
    write_submission,
)

NAMES = ("a.wav", "b.wav", "c.wav")


def table_of(labels, utterances=NAMES, **further):
    return PredictionTable("run", MSP_PODCAST, tuple(utterances), np.array(labels), **further)


def test_is2025_expects_3200_numbered_names():
    names = expected_names(find_challenge("is2025"))
    assert len(names) == len(set(names)) == 3200
    assert names[0] == "MSP-PODCAST_test3_0001.wav"
    assert names[-1] == "MSP-PODCAST_test3_3200.wav"
    assert CHALLENGES["is2025"].emotions.codes == tuple("ACDFHNSU")


def test_find_challenge_unknown_name_raises():
    with pytest.raises(
        UnknownNameError, match=r"Did you mean 'is2025'.*is2025, mer2026-cross, odyssey2024"
    ):
        find_challenge("is2024")


def test_expected_names_odyssey_without_a_file_raises():
    with pytest.raises(BadValueError, match=r"publishes no names of its 2,347 clips.*--names FILE"):
        expected_names(find_challenge("odyssey2024"))


def test_expected_names_without_challenge_and_file_raises():
    with pytest.raises(BadValueError, match=r"No challenge was given.*--names FILE"):
        expected_names(None)


def test_expected_names_reads_text_csv_and_manifest(tmp_path):
    (tmp_path / "names.txt").write_text("b.wav\n\na.wav \n")
    (tmp_path / "names.csv").write_text("FileName,EmoClass\nb.wav,\na.wav,\n")
    (tmp_path / "manifest.csv").write_text(
        "utterance,split\nb.wav,test3\nz.wav,train\na.wav,test3\n"
    )
    for name in ("names.txt", "names.csv"):
        assert expected_names(None, tmp_path / name) == ("b.wav", "a.wav")
    from_manifest = expected_names(None, tmp_path / "manifest.csv", selection="test3")
    assert from_manifest == ("b.wav", "a.wav")
    assert len(expected_names(None, tmp_path / "manifest.csv")) == 3


def test_expected_names_repeated_raises(tmp_path):
    (tmp_path / "names.txt").write_text("a.wav\na.wav\nb.wav\n")
    with pytest.raises(ProblemsError, match=r"1 names appear more than once: 'a.wav'"):
        expected_names(None, tmp_path / "names.txt")


def test_expected_names_other_count_than_the_challenge_raises(tmp_path):
    (tmp_path / "names.txt").write_text("a.wav\nb.wav\n")
    challenge = Challenge("tiny", n_rows=3)
    with pytest.raises(BadValueError, match="names 2 utterances, but 'tiny' has 3"):
        expected_names(challenge, tmp_path / "names.txt")


def test_expected_names_missing_file_raises(tmp_path):
    with pytest.raises(MissingFileError, match="There is no file of names"):
        expected_names(None, tmp_path / "names.txt")


def test_write_submission_has_the_expected_rows_in_the_expected_order(tmp_path):
    # Classes A C D F H N S U: 5 is N, 0 is A, 7 is U.
    table = table_of([5, 0, 7], utterances=("c.wav", "a.wav", "b.wav"))
    digest = write_submission(table, tmp_path / "out.csv", names=NAMES, challenge="tiny")
    content = (tmp_path / "out.csv").read_bytes()
    assert content == b"FileName,EmoClass\na.wav,A\nb.wav,U\nc.wav,N\n"
    assert digest == hashlib.sha256(content).hexdigest()


def test_write_submission_names_all_violations_at_once_and_writes_nothing(tmp_path):
    """Missing, extra, repeated, empty and invalid rows of a CSV made elsewhere: one message."""
    made_elsewhere = tmp_path / "elsewhere.csv"
    made_elsewhere.write_text(
        "FileName,EmoClass\na.wav,A\na.wav,H\nb.wav,O\nz.wav,X\ny.wav,\nx.wav,anger\n"
    )
    out = tmp_path / "sent" / "out.csv"
    with pytest.raises(ProblemsError) as caught:
        write_submission(made_elsewhere, out, names=(*NAMES, "d.wav"))
    message = str(caught.value)
    assert len(caught.value.problems) == 5
    assert "2 of 4 expected names are missing: 'c.wav', 'd.wav'" in message
    assert "3 names are not expected: 'z.wav', 'y.wav', 'x.wav'" in message
    assert "1 names appear more than once: 'a.wav (2 times)'" in message
    assert "1 rows have no label: 'y.wav'" in message
    assert (
        "3 rows have a label that cannot be predicted: "
        "'O (b.wav)', 'X (z.wav)', 'anger (x.wav)'; write one of A C D F H N S U" in message
    )
    assert not out.parent.exists()


def test_write_submission_abstention_in_a_table_raises(tmp_path):
    with pytest.raises(ProblemsError, match=r"1 rows have no label: 'b.wav'.*--fallback CLASS"):
        write_submission(table_of([0, ABSTAIN, 1]), tmp_path / "out.csv", names=NAMES)
    assert list(tmp_path.iterdir()) == []


def test_write_submission_bad_table_leaves_the_old_file(tmp_path):
    write_submission(table_of([0, 1, 2]), tmp_path / "out.csv", names=NAMES)
    before = (tmp_path / "out.csv").read_bytes()
    with pytest.raises(ProblemsError, match="expected names are missing"):
        write_submission(table_of([0, 1], utterances=NAMES[:2]), tmp_path / "out.csv", names=NAMES)
    assert (tmp_path / "out.csv").read_bytes() == before


def test_write_submission_blank_around_a_label_is_shown(tmp_path):
    (tmp_path / "in.csv").write_text("FileName,EmoClass\na.wav, A\n")
    with pytest.raises(ProblemsError, match=r"' A \(a.wav\)'"):
        write_submission(tmp_path / "in.csv", tmp_path / "out.csv", names=("a.wav",))


def test_write_submission_from_parquet_equals_from_csv(tmp_path):
    write_table(table_of([0, 1, 2]), tmp_path / "run.parquet")
    write_table(table_of([0, 1, 2]), tmp_path / "run.csv")
    first = write_submission(tmp_path / "run.parquet", tmp_path / "one.csv", names=NAMES)
    second = write_submission(tmp_path / "run.csv", tmp_path / "two.csv", names=NAMES)
    assert first == second


def test_write_submission_other_class_order_raises(tmp_path):
    other = EmotionSet(codes=("H", "A"), names=("happy", "angry"))
    table = PredictionTable("run", other, NAMES, np.array([0, 1, 1]))
    with pytest.raises(ClassOrderError, match="has the class order H A, but the challenge"):
        write_submission(table, tmp_path / "out.csv", names=NAMES)


def test_write_submission_other_ending_raises(tmp_path):
    with pytest.raises(BadValueError, match=r"must end in \.csv"):
        write_submission(table_of([0, 1, 2]), tmp_path / "out.txt", names=NAMES)


def test_ledger_keeps_one_line_per_distinct_submission(tmp_path):
    out = tmp_path / "out.csv"
    first = table_of([0, 1, 2], meta={"tables": ["wavlm", "salmonn"]})
    write_submission(first, out, names=NAMES, challenge="is2025")
    write_submission(first, out, names=NAMES, challenge="is2025")
    write_submission(table_of([0, 1, 3]), out, names=NAMES)
    entries = read_ledger(tmp_path)
    assert [entry["tables"] for entry in entries] == [["wavlm", "salmonn"], ["run"]]
    assert [entry["challenge"] for entry in entries] == ["is2025", None]
    assert entries[0].keys() == {"date", "file", "sha256", "challenge", "tables", "score"}
    assert entries[0]["date"].endswith("+00:00")
    assert entries[0]["score"] is None
    assert len((tmp_path / LEDGER_NAME).read_text().splitlines()) == 2


def test_record_score_finds_the_submission_by_its_content(tmp_path):
    out = tmp_path / "out.csv"
    write_submission(table_of([0, 1, 2]), out, names=NAMES)
    kept = out.read_bytes()
    write_submission(table_of([0, 1, 3]), out, names=NAMES)
    (tmp_path / "renamed.csv").write_bytes(kept)
    record_score(tmp_path / "renamed.csv", 0.4402)
    assert [entry["score"] for entry in read_ledger(tmp_path)] == [0.4402, None]
    # Writing the same submission again keeps its score.
    write_submission(table_of([0, 1, 2]), out, names=NAMES)
    assert [entry["score"] for entry in read_ledger(tmp_path)] == [0.4402, None]


def test_ledger_keeps_every_returned_score_with_its_date(tmp_path):
    """Only the last one was kept: a corrected score erased the one that had been reported."""
    out = tmp_path / "out.csv"
    write_submission(table_of([0, 1, 2]), out, names=NAMES)
    record_score(out, 0.41)
    record_score(out, 0.43)
    (entry,) = read_ledger(tmp_path)
    assert entry["score"] == 0.43
    assert [one["score"] for one in entry["scores"]] == [0.41, 0.43]
    assert all(one["date"].endswith("+00:00") for one in entry["scores"])


def test_score_of_an_older_ledger_is_kept_beside_a_new_one(tmp_path):
    out = tmp_path / "out.csv"
    write_submission(table_of([0, 1, 2]), out, names=NAMES)
    ledger = tmp_path / LEDGER_NAME
    ledger.write_text(ledger.read_text().replace('"score": null', '"score": 0.4'))
    record_score(out, 0.43)
    (entry,) = read_ledger(tmp_path)
    assert entry["scores"][0] == {"date": None, "score": 0.4}
    assert entry["scores"][1]["score"] == 0.43


def test_record_score_in_percent_raises(tmp_path):
    with pytest.raises(BadValueError, match=r"score 44.02 is not between 0 and 1.*0\.4402"):
        record_score(tmp_path / "out.csv", 44.02)


def test_record_score_of_a_changed_file_raises(tmp_path):
    out = tmp_path / "out.csv"
    write_submission(table_of([0, 1, 2]), out, names=NAMES)
    out.write_text(out.read_text() + "\n")
    with pytest.raises(BadValueError, match=r"is not in .*none of the 1 entries has its SHA-256"):
        record_score(out, 0.4)


def test_record_score_of_a_missing_file_raises(tmp_path):
    with pytest.raises(MissingFileError, match="There is no submission"):
        record_score(tmp_path / "out.csv", 0.4)


def test_read_ledger_broken_lines_raise_with_their_numbers(tmp_path):
    good = json.dumps({"sha256": "0"})
    (tmp_path / LEDGER_NAME).write_text(f'{good}\n{{"date":\n[]\n')
    with pytest.raises(ProblemsError, match=r"2 problems.*line 2 is not an entry.*line 3"):
        read_ledger(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FileName,EmoClass,EmoClass\na.wav,A,N\n", r"'EmoClass' stands there 2 times"),
        (
            f"FileName,EmoClass,{','.join(f'prob_{c}' for c in MSP_PODCAST.codes)}\n"
            "a.wav,A,0,1,0,0,0,0,0,0\n",
            r"another label than their highest probability: 'a\.wav: A, but C has 1'",
        ),
    ],
    ids=["column twice", "contradiction"],
)
def test_submission_from_a_csv_with_two_opinions_raises(tmp_path, text, expected):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ProblemsError, match=expected):
        write_submission(tmp_path / "t.csv", tmp_path / "out.csv", names=("a.wav",))
    assert not (tmp_path / "out.csv").exists()


def test_names_in_utf16_raise(tmp_path):
    (tmp_path / "names.txt").write_text("a.wav\nb.wav\n", encoding="utf-16")
    with pytest.raises(BadValueError, match=r"names\.txt' is not UTF-8 text.*not as UTF-16"):
        expected_names(None, tmp_path / "names.txt")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"sha256": "a"}\n'.encode("utf-16"), "is not UTF-8 text"),
        (b"[" * 200_000 + b"\n", "line 1 is not an entry"),
        (b'{"sha256": ' + b"9" * 5_000 + b"}\n", "line 1 is not an entry"),
        (b'{"sha256": ["a"]}\n', "line 1 is not an entry"),
        (b'{"sha256": "a"}\n{"sha2', "line 2 is not an entry"),
        (b"\xff\n", "is not UTF-8 text"),
    ],
    ids=range(6),
)
def test_damaged_ledger_is_refused_before_anything_is_written(tmp_path, content, expected):
    """The submission had been written already."""
    (tmp_path / LEDGER_NAME).write_bytes(content)
    with pytest.raises(BadValueError, match=expected):
        write_submission(table_of([0, 1, 2]), tmp_path / "out.csv", names=NAMES)
    assert not (tmp_path / "out.csv").exists()
    assert (tmp_path / LEDGER_NAME).read_bytes() == content


# Attributes


CSV_OF_ATTRIBUTES = "FileName,EmoAct,EmoVal,EmoDom\n"


def test_submission_of_attributes_has_the_expected_rows_in_the_expected_order(tmp_path):
    values = np.array([[1, 2.25, 7], [3, 3, 3], [4.125, 5, 6]], dtype=np.float32)
    table = table_of([-1, 0, 1], utterances=("c.wav", "a.wav", "b.wav"), attributes=values)
    out = tmp_path / "out.csv"
    digest = write_submission(table, out, names=NAMES, challenge="tiny", task="attributes")
    expected = (
        "a.wav,3.000000,3.000000,3.000000\n"
        "b.wav,4.125000,5.000000,6.000000\n"
        "c.wav,1.000000,2.250000,7.000000\n"
    )
    assert out.read_text() == CSV_OF_ATTRIBUTES + expected
    (entry,) = read_ledger(tmp_path)
    assert (entry["sha256"], entry["task"], entry["tables"]) == (digest, "attributes", ["run"])
    record_score(out, 0.61)
    # What was handed in is a table itself, and gives the same file again.
    assert write_submission(out, out, names=NAMES, task="attributes") == digest
    assert read_ledger(tmp_path)[0]["score"] == 0.61


def test_submission_of_classes_has_no_task_in_the_ledger(tmp_path):
    write_submission(table_of([5, 0, 7]), tmp_path / "out.csv", names=NAMES)
    assert "task" not in read_ledger(tmp_path)[0]


def test_submission_of_attributes_names_all_violations_at_once_and_writes_nothing(tmp_path):
    source = tmp_path / "theirs.csv"
    rows = "a.wav,0.5,high,4\na.wav,3,,4\nd.wav,3,3,8\n"
    source.write_text(CSV_OF_ATTRIBUTES + rows)
    with pytest.raises(ProblemsError) as caught:
        write_submission(source, tmp_path / "out.csv", names=NAMES, task="attributes")
    assert caught.value.problems == (
        "2 of 3 expected names are missing: 'b.wav', 'c.wav'; predict these too",
        "1 names are not expected: 'd.wav'; remove them",
        "1 names appear more than once: 'a.wav (2 times)'; keep one row of each",
        "EmoVal of 1 rows is not a number: 'high (a.wav)'",
        "arousal of 1 rows is outside [1, 7]: '0.5 (a.wav)'",
        "dominance of 1 rows is outside [1, 7]: '8 (d.wav)'",
    )
    assert not (tmp_path / "out.csv").exists()
    source.write_text(CSV_OF_ATTRIBUTES + "a.wav,3,,4\nb.wav,3,2,4\nc.wav,3,2,4\n")
    with pytest.raises(ProblemsError, match=r"1 rows have no EmoVal: 'a.wav'; give each a number"):
        write_submission(source, tmp_path / "out.csv", names=NAMES, task="attributes")


def test_submission_of_attributes_from_a_table_without_them_raises(tmp_path):
    with pytest.raises(BadValueError, match=r"table 'run' predicts no attributes\. Train a member"):
        write_submission(table_of([5, 0, 7]), tmp_path / "o.csv", names=NAMES, task="attributes")
    source = tmp_path / "theirs.csv"
    source.write_text("FileName,EmoClass\na.wav,A\n")
    with pytest.raises(ProblemsError, match="the column 'EmoAct' is missing"):
        write_submission(source, tmp_path / "o.csv", names=NAMES, task="attributes")
