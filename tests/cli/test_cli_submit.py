from __future__ import annotations

import json

import pytest


@pytest.fixture
def names(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("u1\nu0\n")
    return path


def test_submit_writes_the_file_and_the_ledger(run_cli, save_table, names, tmp_path):
    out = tmp_path / "sent" / "final.csv"
    result = run_cli("submit", save_table("p", "AH"), "--names", names, "--out", out)
    assert result.code == 0, result.err
    assert result.out.startswith(f"Wrote 2 rows to {out} (sha256 ")
    assert out.read_text() == "FileName,EmoClass\nu1,H\nu0,A\n"
    entry = json.loads((out.parent / "submissions.jsonl").read_text())
    assert (entry["file"], entry["tables"], entry["score"]) == ("final.csv", ["p"], None)


def test_submit_is2025_takes_3200_rows_of_a_csv_made_elsewhere(run_cli, tmp_path):
    rows = [f"MSP-PODCAST_test3_{number:04d}.wav,N" for number in range(1, 3201)]
    source, out = tmp_path / "theirs.csv", tmp_path / "out.csv"
    source.write_text("\n".join(["FileName,EmoClass", *reversed(rows)]) + "\n")
    result = run_cli("submit", source, "--challenge", "is2025", "--out", out)
    assert result.code == 0, result.err
    assert out.read_text() == "\n".join(["FileName,EmoClass", *rows]) + "\n"


def test_submit_csv_with_repeated_names_and_outside_labels_gets_one_message(run_cli, tmp_path):
    rows = [f"MSP-PODCAST_test3_{number:04d}.wav,N" for number in range(1, 3200)]
    rows[1] = "MSP-PODCAST_test3_0002.wav,X"
    rows.append("MSP-PODCAST_test3_0001.wav,A")
    source, out = tmp_path / "theirs.csv", tmp_path / "out.csv"
    source.write_text("\n".join(["FileName,EmoClass", *rows]) + "\n")
    result = run_cli("submit", source, "--challenge", "is2025", "--out", out)
    assert result.code == 1
    assert result.err.startswith(f"Error: 3 problems in {source}: (1) 1 of 3200 expected names")
    assert "'MSP-PODCAST_test3_3200.wav'" in result.err
    assert "'MSP-PODCAST_test3_0001.wav (2 times)'" in result.err
    assert "'X (MSP-PODCAST_test3_0002.wav)'" in result.err
    assert not out.exists()


def test_submit_names_out_of_a_manifest_split(run_cli, save_table, tmp_path):
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("utterance,split\nu0,test3\nu1,train\n")
    out = tmp_path / "out.csv"
    result = run_cli(
        "submit", save_table("p", "A"), "--names", manifest, "--select", "test3", "--out", out
    )
    assert result.code == 0, result.err
    assert out.read_text() == "FileName,EmoClass\nu0,A\n"


def test_submit_records_the_returned_score(run_cli, save_table, names, tmp_path):
    out = tmp_path / "final.csv"
    run_cli("submit", save_table("p", "AH"), "--names", names, "--out", out)
    result = run_cli("submit", "--score", "0.4402", "--out", out)
    assert result.code == 0, result.err
    assert result.out == f"Recorded 0.4402 for {out} in {tmp_path / 'submissions.jsonl'}.\n"
    assert json.loads((tmp_path / "submissions.jsonl").read_text())["score"] == 0.4402


def test_submit_wrong_input_exits_1_with_a_message(run_cli, save_table, names, tmp_path):
    table, out = save_table("p", "A-"), tmp_path / "out.csv"
    cases = [
        ([table, "--names", names], "1 rows have no label: 'u1'"),
        ([table], "No challenge was given"),
        ([table, "--challenge", "odyssey2024"], "publishes no names of its 2,347 clips"),
        ([table, "--challenge", "is2026"], "Unknown challenge 'is2026'"),
        ([table, "--challenge", "is2025", "--names", names], "names 2 utterances, but 'is2025'"),
        ([tmp_path / "none.csv", "--names", names], "There is no file"),
        (["--score", "44.02"], "is not between 0 and 1"),
        (["--score", "0.44"], "There is no submission"),
    ]
    for args, message in cases:
        result = run_cli("submit", *args, "--out", out)
        assert (result.code, result.out) == (1, ""), args
        assert message in result.err, args
    assert not out.exists()


def test_submit_wrong_command_line_exits_2(run_cli, save_table, names, tmp_path):
    table, out = save_table("p", "A"), tmp_path / "out.csv"
    assert run_cli("submit", table, "--names", names).code == 2
    both = run_cli("submit", table, "--score", "0.4", "--out", out)
    neither = run_cli("submit", "--out", out)
    assert (both.code, neither.code) == (2, 2)
    assert "Give either a TABLE" in both.err


def test_submit_task_attributes(run_cli, save_table, names, tmp_path):
    out, source = tmp_path / "out.csv", tmp_path / "theirs.csv"
    source.write_text("FileName,EmoAct,EmoVal,EmoDom\nu0,1,2,3\nu1,4,5.5,7\n")
    args = ("submit", source, "--names", names, "--task", "attributes", "--out", out)
    result = run_cli(*args)
    assert result.code == 0, result.err
    assert out.read_text().splitlines()[1] == "u1,4.000000,5.500000,7.000000"
    result = run_cli(*args[:1], save_table("p", "AH"), *args[2:])
    assert result.code == 1
    assert "predicts no attributes" in result.err
    assert run_cli(*args[:5], "valence", *args[6:]).code == 2


def test_submit_prints_json(run_cli, save_table, names, tmp_path):
    out = tmp_path / "final.csv"
    result = run_cli("submit", save_table("p", "AH"), "--names", names, "--out", out, "--json")
    said = json.loads(result.out)
    assert (said["file"], said["rows"], len(said["sha256"])) == (str(out), 2, 12)
    recorded = json.loads(run_cli("submit", "--score", 0.4402, "--out", out, "--json").out)
    assert (recorded["score"], recorded["ledger"]) == (0.4402, str(tmp_path / "submissions.jsonl"))
