from __future__ import annotations

import json

import pytest


@pytest.fixture
def truth(tmp_path):
    """Labels A A H H by three speakers, one of them unknown; u4 is O."""
    path = tmp_path / "manifest.csv"
    path.write_text("utterance,label,speaker\nu0,A,1\nu1,A,1\nu2,H,2\nu3,H,\nu4,O,2\nu5,S,2\n")
    return path


def test_compare_prints_scores_and_differences(run_cli, save_table, truth):
    # good: 4 of 4, macro-F1 2/8. half: 2 of 4; A and H have precision and recall 1/2: 1/8.
    # Macro-F1 and accuracy: 4 assignments, p = 1/2, as worked out for `compare_labels`.
    tables = [save_table("half", "AHHAA"), save_table("good", "AAHHA")]
    result = run_cli("compare", *tables, "--manifest", truth, "--resamples", 100)
    assert result.code == 0, result.err
    scores, differences = result.out.split("\n\n")
    cells = [line.split() for line in scores.splitlines()[1:]]
    assert [(row[0], row[1], row[2], row[4]) for row in cells] == [
        ("half", "4", "0.1250", "0.5000"),
        ("good", "4", "0.2500", "1.0000"),
    ]
    title, heading, of_f1, of_accuracy = differences.splitlines()
    assert title == "Differences over 4 utterances"
    assert "Holm" not in heading
    assert of_f1.split()[:4] == ["good", "half", "macro-F1", "+0.1250"]
    assert of_f1.endswith("0.5000  exact randomisation")
    assert of_accuracy.split()[:4] == ["good", "half", "accuracy", "+0.5000"]
    assert of_accuracy.endswith("0.5000  McNemar")
    assert result.err == (
        f"Note: 1 rows have no label of the emotion set in {truth} and were left out.\n"
        f"Note: 1 labelled utterances of {truth} are not covered and were not compared.\n"
    )


def test_compare_several_tables_are_corrected(run_cli, save_table, truth):
    tables = [save_table(name, text) for name, text in (("p", "AAHH-"), ("q", "AHHA-"))]
    tables.append(save_table("r", "HHAA-"))
    args = ("compare", *tables, "--manifest", truth, "--resamples", 100)
    result = run_cli(*args)
    assert "p (Holm)" in result.out
    # Two comparisons with two metrics each.
    assert len(result.out.split("\n\n")[1].splitlines()) == 2 + 4
    assert len(run_cli(*args, "--all-pairs").out.split("\n\n")[1].splitlines()) == 2 + 6


def test_compare_json_has_everything(run_cli, save_table, truth):
    tables = [save_table("half", "AHHAA"), save_table("good", "AAHHA")]
    result = run_cli(
        "compare", *tables, "--manifest", truth, "--resamples", 100, "--by-speaker", "--json"
    )
    found = json.loads(result.out)
    # Speakers 1 and 2, and u3 for itself.
    assert (found["unit"], found["n_units"], found["n_unknown_speaker"]) == ("speaker", 3, 1)
    assert [table["table"] for table in found["tables"]] == ["half", "good"]
    assert found["tables"][1]["accuracy_interval"] == [1.0, 1.0]
    (comparison,) = found["comparisons"]
    assert (comparison["n_only_table"], comparison["n_only_against"]) == (2, 0)
    assert comparison["accuracy"]["value"] == 0.5
    assert comparison["accuracy"]["test"] == "exact randomisation"
    assert comparison["macro_f1"].keys() == {
        "metric",
        "value",
        "interval",
        "p",
        "test",
        "p_holm",
    }


def test_compare_by_speaker_says_who_is_unknown(run_cli, save_table, truth):
    tables = [save_table("half", "AHHAA"), save_table("good", "AAHHA")]
    result = run_cli(
        "compare",
        *tables,
        "--manifest",
        truth,
        "--resamples",
        100,
        "--by-speaker",
        "--format",
        "markdown",
    )
    assert "**Differences over 3 speakers**" in result.out
    assert f"Note: 1 of 4 utterances have no speaker in {truth}" in result.err


def test_compare_csv_takes_its_classes_from_the_manifest(run_cli, tmp_path):
    (tmp_path / "emotions.json").write_text('{"codes": ["L", "W"]}')
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("utterance,label\na.wav,L\nb.wav,W\n")
    for name, labels in (("p", "LL"), ("q", "LW")):
        lines = [f"{utt},{label}" for utt, label in zip(("a.wav", "b.wav"), labels, strict=True)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["FileName,EmoClass", *lines, ""]))
    tables = [tmp_path / "p.csv", tmp_path / "q.csv"]
    result = run_cli("compare", *tables, "--manifest", manifest, "--json", "--resamples", 50)
    assert result.code == 0, result.err
    assert json.loads(result.out)["comparisons"][0]["accuracy"]["value"] == 0.5


def test_compare_wrong_input_exits_1_with_a_message(run_cli, save_table, truth, tmp_path):
    good, more = save_table("good", "AAHHA"), save_table("more", "AAHHAS")
    nobody = tmp_path / "nobody.csv"
    nobody.write_text("FileName,EmoClass\nu0,A\nu1,A\nu2,H\nu3,H\nu4,O\n")
    other = save_table("other", "AHHHA")
    cases = [
        ([good, "--manifest", truth], "needs at least two tables, got 1"),
        ([good, good, "--manifest", truth], "2 tables are named 'good'"),
        ([good, more, "--manifest", truth], "or use --rows intersection"),
        ([good, other, "--manifest", nobody, "--by-speaker"], "names no speaker"),
        ([good, tmp_path / "no.parquet", "--manifest", truth], "There is no table"),
        ([good, other, "--manifest", tmp_path / "no.parquet"], "There is no manifest"),
    ]
    for args, message in cases:
        result = run_cli("compare", *args, "--resamples", 10)
        assert (result.code, result.out) == (1, ""), args
        assert message in result.err, args
    args = ("compare", good, more, "--manifest", truth, "--rows", "intersection")
    assert run_cli(*args, "--resamples", 10).code == 0


def test_compare_wrong_command_line_exits_2(run_cli, save_table, truth):
    table = save_table("p", "A")
    assert run_cli("compare", table, table).code == 2
    assert run_cli("compare", "--manifest", truth).code == 2
    assert run_cli("compare", table, "--manifest", truth, "--resamples", 0).code == 2
