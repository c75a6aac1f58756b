from __future__ import annotations

import json

import pytest

ALL = "ACDFHNSU"


@pytest.fixture
def truth(tmp_path):
    """Labels A A H H, one O and one utterance that no table covers."""
    path = tmp_path / "truth.csv"
    path.write_text("FileName,EmoClass\nu0,A\nu1,A\nu2,H\nu3,H\nu4,O\nu5,S\n")
    return path


def test_score_prints_one_row_per_table(run_cli, save_table, truth):
    # p: A H H -: A has precision 1, recall 1/2, F1 2/3; H has 1/2, 1/2, 1/2; macro 7/6 / 8.
    # u4 is O, so it is dropped. UAR: recall 1/2 of A and of H, over 8 classes. Weighted F1: both
    # have 2 utterances, so the mean of 2/3 and 1/2.
    result = run_cli("score", save_table("p", "AHH-A"), "--manifest", truth, "--resamples", 50)
    assert result.code == 0, result.err
    heading, row = result.out.splitlines()
    assert heading.split("  ")[0] == "table"
    cells = row.split()
    known = ["p", "4", "0.1458", "0.5000", "0.1250", "0.5833", "1", "1"]
    assert [*cells[:3], *cells[4:]] == known
    assert "Note: 1 labelled utterances" in result.err


ABSENT = "No scored utterance is truly C, D, F, N, S, U: "


def test_score_over_present_classes_takes_both_means_over_them(run_cli, save_table, truth):
    """UAR left absent classes out while macro-F1 counted them as 0."""
    args = ("score", save_table("p", "AHH-A"), "--manifest", truth, "--resamples", 50)
    result = run_cli(*args, "--classes", "present")
    cells = result.out.splitlines()[1].split()
    # As above, over A and H: 7/6 / 2, accuracy 1/2, UAR 1/2, weighted F1 as it was.
    known = ["p", "4", "0.5833", "0.5000", "0.5000", "0.5833", "1", "1"]
    assert [*cells[:3], *cells[4:]] == known
    low, high = map(float, cells[3].split("-"))
    assert low < 0.5833 < high  # the interval is of the same mean
    assert ABSENT + "macro-F1 and UAR leave them out; abhinaya score --classes all" in result.err
    for classes, macro_f1, uar in (("all", 7 / 48, 1 / 8), ("present", 7 / 12, 1 / 2)):
        result = run_cli(*args, "--classes", classes, "--json")
        (found,) = json.loads(result.out)["tables"]
        assert (found["classes"], found["absent_classes"]) == (classes, list("CDFNSU"))
        assert (found["macro_f1"], found["uar"]) == pytest.approx((macro_f1, uar))
        assert found["weighted_f1"] == pytest.approx(7 / 12)
    assert run_cli(*args, "--classes", "some").code == 2


def test_score_names_the_absent_classes_of_each_table(run_cli, save_table, truth):
    """Tables of one score may cover different utterances."""
    tables = [save_table("p", "AAHHA"), save_table("q", "AAH")]
    both = run_cli("score", *tables, "--manifest", truth, "--resamples", 50)
    assert f"Note: p, q: {ABSENT}each counts as 0 in macro-F1 and UAR; abhinaya" in both.err
    tables[1] = save_table("q", "AA")
    each = run_cli("score", *tables, "--manifest", truth, "--resamples", 50)
    assert f"Note: p: {ABSENT}" in each.err
    assert "Note: q: No scored utterance is truly C, D, F, H, N, S, U: each" in each.err


def test_score_shows_calibration_where_a_table_has_probabilities(
    run_cli, save_table, truth, tmp_path
):
    # u0 right at .9 and u2 wrong at .6; u1 abstains, which claims nothing, and u3 is missing.
    table = tmp_path / "q.csv"
    heading = ",".join(["FileName,EmoClass", *(f"prob_{code}" for code in ALL)])
    rest = "0,0,0,.1,0,0,0"
    table.write_text(f"{heading}\nu0,A,.9,{rest}\nu1,,,,,,,,,\nu2,A,.6,0,0,0,.4,0,0,0\n")
    args = ("score", save_table("p", "AHH-A"), table, "--manifest", truth, "--resamples", 50)
    title, heading, *rows = run_cli(*args).out.splitlines()[-3:]
    assert title == "calibration"
    assert heading.split() == ["table", "rows", "ECE", "Brier"]
    # Labels alone claim nothing. (.1 + .6) / 2, and the mean of .1^2 + .1^2 and .6^2 + .6^2.
    assert [row.split() for row in rows] == [["q", "2", "0.3500", "0.3700"]]
    found = json.loads(run_cli(*args, "--json").out)["tables"]
    assert [each["n_with_probs"] for each in found] == [0, 2]
    assert found[0]["ece"] is found[0]["brier"] is None
    assert (found[1]["ece"], found[1]["brier"]) == pytest.approx((0.35, 0.37))
    _, _, _, mean, *_ = run_cli(*args, "--mean").out.splitlines()
    assert mean.split()[0] == "mean"


def test_score_says_nothing_of_absent_classes_where_all_occur(run_cli, save_table, tmp_path):
    path = tmp_path / "all.csv"
    path.write_text("".join(["FileName,EmoClass\n", *(f"u{i},{c}\n" for i, c in enumerate(ALL))]))
    result = run_cli("score", save_table("p", ALL), "--manifest", path, "--resamples", 50)
    assert (result.code, result.err) == (0, "")


def test_score_mean_and_sd_over_tables(run_cli, save_table, truth):
    # accuracy 4/4 and 2/4: mean .75, sample standard deviation .25 * sqrt(2) = .3536
    tables = [save_table("a", "AAHHA"), save_table("b", "AHHAA")]
    result = run_cli("score", *tables, "--manifest", truth, "--mean", "--resamples", 50)
    mean, sd = (line.split() for line in result.out.splitlines()[-2:])
    assert (mean[0], mean[2]) == ("mean", "0.7500")
    assert (sd[0], sd[2]) == ("sd", "0.3536")
    # Both lack the same utterance, which is said once.
    note = f"Note: 1 labelled utterances of {truth} are not covered and were not scored: a, b.\n"
    absent = (
        "each counts as 0 in macro-F1 and UAR; abhinaya score --classes present leaves them out"
    )
    assert result.err == f"{note}Note: a, b: {ABSENT}{absent}.\n"


def test_score_json_has_everything_asked_for(run_cli, save_table, truth):
    tables = [save_table("a", "AAHHA"), save_table("b", "AHHAA")]
    result = run_cli(
        "score",
        *tables,
        "--manifest",
        truth,
        "--resamples",
        50,
        "--mean",
        "--per-class",
        "--confusion",
        "--json",
    )
    described = json.loads(result.out)
    first = described["tables"][0]
    # All of A and H are right; the mean goes over eight classes: 2 / 8.
    assert first["macro_f1"] == 0.25
    assert first["accuracy"] == 1.0
    assert (first["n_utts"], first["n_dropped"], first["n_not_in_table"]) == (4, 1, 1)
    assert first["per_class"][0] == {
        "class": "A",
        "name": "angry",
        "precision": 1.0,
        "recall": 1.0,
        "f1": 1.0,
        "support": 2,
    }
    assert first["confusion"]["classes"] == list("ACDFHNSU")
    assert first["confusion"]["counts"][4] == [0, 0, 0, 0, 2, 0, 0, 0]
    assert described["mean"]["accuracy"] == 0.75


def test_score_per_class_and_confusion_tables(run_cli, save_table, truth):
    result = run_cli(
        "score",
        save_table("p", "AHH-A"),
        "--manifest",
        truth,
        "--resamples",
        50,
        "--per-class",
        "--confusion",
    )
    assert "p: classes\nclass  name      precision  recall      F1  support\n" in result.out
    assert "A      angry        1.0000  0.5000  0.6667        2\n" in result.out
    # True A: one A, one H. True H: one H, one abstention.
    assert "true  A  C  D  F  H  N  S  U  none\n" in result.out
    assert "A     1  0  0  0  1  0  0  0     0\n" in result.out
    assert "H     0  0  0  0  1  0  0  0     1\n" in result.out


@pytest.mark.parametrize(("name", "start"), [("latex", "\\begin{tabular}{"), ("markdown", "| tab")])
def test_score_in_the_format_of_a_paper(run_cli, save_table, truth, name, start):
    result = run_cli(
        "score",
        save_table("p", "AAHHA"),
        "--manifest",
        truth,
        "--format",
        name,
        "--resamples",
        50,
    )
    assert result.out.startswith(start)


def test_score_by_speaker_takes_a_manifest(run_cli, save_table, tmp_path):
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("utterance,label,speaker\nu0,A,1\nu1,H,2\n")
    result = run_cli(
        "score",
        save_table("p", "AH"),
        "--manifest",
        manifest,
        "--by-speaker",
        "--resamples",
        50,
    )
    assert result.code == 0, result.err


def test_score_wrong_input_exits_1_with_a_message(run_cli, save_table, truth, tmp_path):
    table = save_table("p", "AAHHA")
    (tmp_path / "short.csv").write_text("FileName,EmoClass\nu0,A\n")
    cases = [
        ([table, "--manifest", tmp_path / "none.csv"], "There is no file"),
        ([table, "--manifest", tmp_path / "none.parquet"], "There is no manifest"),
        ([table, "--manifest", tmp_path / "short.csv"], "4 of 5 utterances of table 'p'"),
        ([table, "--manifest", truth, "--mean"], "needs at least two scores"),
        ([table, "--manifest", truth, "--by-speaker"], "names no speaker"),
    ]
    for args, message in cases:
        result = run_cli("score", *args, "--resamples", 10)
        assert (result.code, result.out) == (1, ""), args
        assert message in result.err, args


def test_score_wrong_command_line_exits_2(run_cli, save_table, truth):
    table = save_table("p", "A")
    assert run_cli("score", table).code == 2
    assert run_cli("score", table, "--manifest", truth, "--resamples", 0).code == 2
    assert run_cli("score", table, "--manifest", truth, "--format", "html").code == 2


def test_score_csv_takes_its_classes_from_the_manifest(run_cli, tmp_path):
    """A CSV stores no emotion set; it was read with MSP-Podcast's although the manifest has one."""
    (tmp_path / "emotions.json").write_text('{"codes": ["L", "W"]}')
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("utterance,label\na.wav,L\nb.wav,W\n")
    table = tmp_path / "mine.csv"
    table.write_text("FileName,EmoClass\na.wav,L\nb.wav,L\n")
    result = run_cli("score", table, "--manifest", manifest, "--json", "--resamples", 50)
    assert result.code == 0, result.err
    # L: precision 1/2, recall 1, F1 2/3; W: 0. Macro 1/3.
    assert json.loads(result.out)["tables"][0]["macro_f1"] == pytest.approx(1 / 3)


def test_score_marks_tables_that_were_trained_on_what_is_scored(run_cli, save_table, truth):
    """Members once printed .94 to 1.00 on their own training clips."""
    # seen: u0 to u2 are right and trained on, u4 is O and not scored. Of u3 alone H has F1 0.
    tables = [save_table("seen", "AAHAA", "xxx-x"), save_table("other", "AHHAA")]
    arguments = ["score", *tables, "--manifest", truth, "--resamples", 50]
    result = run_cli(*arguments, "--mean")
    heading, seen, other, mean, _ = result.out.splitlines()
    assert heading.endswith("trained on  macro-F1 without")
    assert seen.split()[-2:] == ["3", "0.0000"]
    assert other.split()[-1] == "0"
    assert len(mean.split()) == 5
    note = "3 of the 4 scored rows of seen were trained on; without them: macro-F1 0.0000.\n"
    assert f"Note: {note}" in result.err
    first, second = json.loads(run_cli(*arguments, "--json").out)["tables"]
    assert (first["n_trained_on"], first["unseen_macro_f1"]) == (3, 0.0)
    assert (second["n_trained_on"], second["unseen_macro_f1"]) == (0, None)


def test_score_of_nothing_but_training_rows_says_so(run_cli, save_table, truth):
    table = save_table("seen", "AAHH", "xxxx")
    result = run_cli("score", table, "--manifest", truth, "--resamples", 50)
    assert result.out.splitlines()[1].split()[-1] == "4"
    assert "4 of the 4 scored rows of seen were trained on; no other row is left" in result.err


@pytest.mark.parametrize("command", ["ablate", "compare"])
def test_tables_trained_on_what_is_scored_are_refused_unless_asked_for(
    run_cli, save_table, truth, command
):
    tables = [save_table("seen", "AAHHA", "x-x-x"), save_table("other", "AHHAA", "-----")]
    arguments = [command, *tables, "--manifest", truth, "--resamples", 50]
    result = run_cli(*arguments)
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "Error: Tables were trained on some of the 4 scored rows: seen on 2. That flatters them. "
        "Give tables of other rows, or --include-training-rows.\n"
    )
    asked = run_cli(*arguments, "--include-training-rows")
    assert asked.code == 0, asked.err
    assert "2 of the 4 scored rows" in asked.err
    # A mark on a row without a label, here of an O, flatters nobody.
    unscored = save_table("seen", "AAHHA", "----x")
    assert run_cli(command, unscored, *arguments[2:]).code == 0


def test_vote_keeps_the_marks_of_its_tables_in_either_format(run_cli, save_table, tmp_path, truth):
    tables = [save_table("a", "AAHHA", "x----"), save_table("b", "AHHAA", "--x--")]
    for ending in ("parquet", "csv"):
        out = tmp_path / f"vote.{ending}"
        run_cli("vote", *tables, "--out", out)
        scored = run_cli("score", out, "--manifest", truth, "--resamples", 50)
        assert "2 of the 4 scored rows of vote were trained on" in scored.err


def test_score_shows_the_concordance_of_attributes(run_cli, save_table, tmp_path):
    path, manifest = tmp_path / "p.csv", tmp_path / "manifest.csv"
    path.write_text("FileName,EmoClass,EmoAct,EmoVal\nu0,A,1,4\nu1,A,2,\nu2,H,3,\n")
    manifest.write_text("utterance,label,arousal,valence\nu0,A,2,4\nu1,A,3,1\nu2,X,4,5\n")
    plain = save_table("q", "AAH")
    args = ("score", path, plain, "--manifest", manifest, "--resamples", 50)
    result = run_cli(*args)
    assert result.code == 0, result.err
    title, heading, arousal, valence = result.out.splitlines()[-4:]
    assert "concordance of attributes" in title
    assert heading.split()[:4] == ["table", "attribute", "rows", "CCC"]
    assert arousal.split()[:4] == ["p", "arousal", "3", "0.5714"]  # 4/7; X counts too
    assert valence.split() == ["p", "valence", "1"]
    found, other = json.loads(run_cli(*args, "--json").out)["tables"]
    assert found["attributes"]["arousal"]["ccc"] == pytest.approx(4 / 7)
    assert len(found["attributes"]["arousal"]["interval"]) == 2
    assert found["attributes"]["valence"] == {"n_utts": 1, "ccc": None, "interval": None}
    assert "attributes" not in other
    manifest.write_text("utterance,label\nu0,A\nu1,A\nu2,X\n")
    result = run_cli(*args)
    assert f"Note: {manifest} knows no attribute that is predicted, so none was scored: p." in (
        result.err
    )
    assert "concordance" not in result.out
