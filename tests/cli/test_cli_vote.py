from __future__ import annotations

import json

from abhinaya.data.predictions import read_table


def test_vote_writes_the_table_and_says_who_decided(run_cli, save_table, tmp_path):
    # u0: A A H -> majority; u1: A H N -> tie, q says H; u2: nobody -> fallback
    sources = [save_table("p", "AA-"), save_table("q", "AH-"), save_table("r", "HN-")]
    out = tmp_path / "vote.parquet"
    result = run_cli(
        "vote",
        *sources,
        "--tiebreaker",
        "q",
        "--tiebreaker",
        "r",
        "--fallback",
        "N",
        "--name",
        "final",
        "--out",
        out,
    )
    assert result.code == 0, result.err
    assert result.out == (
        f"3 rows in {out}\n"
        "decided by  rows   share\n"
        "majority       1  0.3333\n"
        "q              1  0.3333\n"
        "fallback       1  0.3333\n"
    )
    table = read_table(out)
    assert table.name == "final"
    assert table.emotions.decode(table.labels) == ["A", "H", "N"]
    assert table.decided_by == ("majority", "q", "fallback")
    assert table.meta["tiebreakers"] == ["q", "r"]


def test_vote_json(run_cli, save_table, tmp_path):
    result = run_cli("vote", save_table("p", "AA"), "--out", tmp_path / "v.csv", "--json")
    assert json.loads(result.out) == [{"decided by": "majority", "rows": 2, "share": 1.0}]
    assert (tmp_path / "v.csv").read_text().startswith("FileName,EmoClass,prob_A,")


def test_vote_renamed_table_can_be_the_tiebreaker(run_cli, save_table, tmp_path):
    first, second = save_table("p", "A"), save_table("q", "H")
    result = run_cli(
        "vote", first, f"S2={second}", "--tiebreaker", "S2", "--out", tmp_path / "v.parquet"
    )
    assert result.code == 0
    assert "S2" in result.out


def test_vote_other_rows_exit_1_unless_intersection(run_cli, save_table, tmp_path):
    sources = [save_table("p", "AA"), save_table("q", "AAA")]
    out = tmp_path / "v.parquet"
    result = run_cli("vote", *sources, "--out", out)
    assert result.code == 1
    assert "it has 1 more: 'u2'" in result.err
    assert "--rows intersection" in result.err
    assert not out.exists()
    assert run_cli("vote", *sources, "--rows", "intersection", "--out", out).code == 0
    assert len(read_table(out)) == 2


def test_vote_wrong_input_exits_1_with_a_message(run_cli, save_table, tmp_path):
    table, out = save_table("p", "A-"), tmp_path / "v.parquet"
    cases = [
        ([table], "Every member abstained on 1 of 2 utterances: 'u1'"),
        ([table, "--fallback", "Q"], "Unknown class 'Q'"),
        ([table, "--tiebreaker", "q"], "Unknown tiebreaker 'q'"),
        ([table, table], "2 tables are named 'p'"),
        ([tmp_path / "none.parquet"], "There is no table"),
    ]
    for args, message in cases:
        result = run_cli("vote", *args, "--out", out)
        assert result.code == 1, args
        assert result.err.startswith("Error: "), args
        assert message in result.err, args
    assert not out.exists()


def test_vote_wrong_command_line_exits_2(run_cli, save_table):
    assert run_cli("vote", save_table("p", "A")).code == 2
    assert run_cli("vote", save_table("p", "A"), "--out", "v.csv", "--rows", "some").code == 2


def test_vote_strict_tiebreaker_wins_with_its_own_class(run_cli, save_table, tmp_path):
    # A A H H N: tied are A and H; n says N.
    sources = [save_table(name, letter) for name, letter in zip("abcdn", "AAHHN", strict=True)]
    out = tmp_path / "v.parquet"
    args = ("vote", *sources, "--tiebreaker", "n", "--out", out)
    for rule, expected in (("strict", ["N"]), ("plurality", ["A"])):
        assert run_cli(*args, "--rule", rule).code == 0
        table = read_table(out)
        assert table.emotions.decode(table.labels) == expected


def test_vote_weighted_and_soft(run_cli, save_table, tmp_path):
    sources, out = [save_table("p", "A"), save_table("q=2", "H")], tmp_path / "v.parquet"
    args = ("vote", *sources, "--out", out, "--rule", "weighted", "--weights", "p=1")
    assert run_cli(*args, "--weights", "q=2=1.5").code == 0
    table = read_table(out)
    assert table.emotions.decode(table.labels) == ["H"]
    assert table.meta["weights"] == {"p": 1.0, "q=2": 1.5}
    result = run_cli(*args)
    assert result.code == 1
    assert "no weight for the table 'q=2'" in result.err
    result = run_cli("vote", *sources, "--out", out, "--rule", "soft")
    assert result.code == 1
    assert "only labels from 'p' on 1 of 1 utterances, 'q=2' on 1 of 1" in result.err


def test_vote_weights_that_cannot_be_read_exit_2(run_cli, save_table, tmp_path):
    args = ("vote", save_table("p", "A"), "--out", tmp_path / "v.csv", "--rule", "weighted")
    for wrong in (["p"], ["p=x"], ["=1"], ["p=1", "p=2"]):
        flags = [part for weight in wrong for part in ("--weights", weight)]
        result = run_cli(*args, *flags)
        assert result.code == 2, wrong
        assert "is not NAME=W with a number" in result.err, wrong
    assert run_cli(*args[:-1], "majority").code == 2
