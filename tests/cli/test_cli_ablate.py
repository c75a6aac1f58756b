from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest


@pytest.fixture
def truth(tmp_path):
    """Labels A A H H and one without a label inside the set."""
    path = tmp_path / "truth.csv"
    path.write_text("FileName,EmoClass\nu0,A\nu1,A\nu2,H\nu3,H\nu4,O\n")
    return path


@pytest.fixture
def tables(save_table):
    # Macro-F1 over eight classes by hand, ties to the earlier table:
    #   p A A N H: A 1, H 2/3 -> 5/24 = .2083      pq, pr as p
    #   q A H H N: A 2/3, H 1/2 -> 7/48 = .1458    qr as q
    #   r N A H H: A 2/3, H 1 -> 5/24              pqr all right: 2/8
    return [save_table("p", "AANHA"), save_table("q", "AHHNA"), save_table("r", "NAHHA")]


def blocks(text):
    """The printed tables as lists of lines."""
    return [block.splitlines() for block in text.rstrip().split("\n\n")]


def test_ablate_prints_best_of_each_size_and_what_each_table_brings(run_cli, tables, truth):
    result = run_cli("ablate", *tables, "--manifest", truth, "--resamples", 100)
    assert (result.code, result.err) == (0, "")
    best, members, optimism = blocks(result.out)

    assert best[0] == (
        "Best of each size: 7 combinations of 3 tables on 4 utterances, "
        "1 without a true label dropped"
    )
    cells = [line.split("  ") for line in best[2:]]
    assert [[cell for cell in row if cell.strip()][-1].strip() for row in cells] == [
        "0.7500",
        "0.7500",
        "1.0000*",
        "1.0000",
    ]
    assert "p + q + r" in best[4]
    assert " 0.2500* " in best[4]
    assert "any that is right" in best[5]
    # Shapley values: p .1146, q .0521, r .0833 (arithmetic in tests/ensembling/test_ablation.py).
    assert members == [
        "What each table brings; all together: 0.2500",
        "table    alone  all without it  change   Shapley value",
        "p      0.2083*          0.1458  -0.1042  +0.1146*",
        "q      0.1458           0.2083  -0.0417  +0.0521",
        "r      0.2083*          0.2083  -0.0417  +0.0833",
    ]
    assert optimism[0] == "Picking the best of 7 combinations on the utterances that score it"
    assert optimism[2].split()[0] == "0.2500"


def test_ablate_tiebreaker_changes_the_pairs(run_cli, tables, truth):
    result = run_cli("ablate", *tables, "--manifest", truth, "--tiebreaker", "r", "--json")
    described = json.loads(result.out)
    assert described["tiebreakers"] == ["r"]
    # Without p, q and r now follow r.
    assert described["members"][0]["without"] == pytest.approx(5 / 24)


def test_ablate_json_has_everything(run_cli, tables, truth):
    result = run_cli("ablate", *tables, "--manifest", truth, "--resamples", 20, "--json")
    described = json.loads(result.out)
    assert described["tables"] == ["p", "q", "r"]
    assert (described["n_utts"], described["n_dropped"]) == (4, 1)
    assert (described["search"], described["beam_width"]) == ("exhaustive", None)
    assert (described["n_combinations"], described["max_size"]) == (7, 3)
    assert [best["members"] for best in described["best"]] == [["p"], ["p", "q"], ["p", "q", "r"]]
    assert described["all"] == described["best"][-1]
    assert described["oracle"] == {"macro_f1": 0.25, "accuracy": 1.0}
    assert described["combinations"] == []
    assert set(described["optimism"]) == {
        "n_candidates",
        "picked",
        "macro_f1",
        "expected_drop",
        "interval",
        "picked_on_half",
    }
    # p is wrong on u2; q on u1 and u3; r on u0. p and q agree on u0 only, and never fail together:
    # n11 = 1, n00 = 0, so Q = -1.
    assert described["pairs"][0] == {
        "table": "p",
        "and": "q",
        "agreement": 0.25,
        "double_fault": 0.0,
        "q_statistic": -1.0,
    }


def test_ablate_pairs_are_a_table_with_empty_cells_where_undefined(run_cli, save_table, truth):
    tables = [save_table("p", "AAHH-"), save_table("q", "----A")]
    result = run_cli("ablate", *tables, "--manifest", truth, "--pairs", "--resamples", 20)
    _, _, pairs, _ = blocks(result.out)
    # p is always right and q never votes: no agreement, no Q.
    assert pairs[0] == "Pairs of tables"
    assert pairs[2].split() == ["p", "q", "0.0000"]


def test_ablate_named_combinations_come_as_a_table_for_a_paper(run_cli, tables, truth, tmp_path):
    named = tmp_path / "named.yaml"
    named.write_text("combinations:\n  Comb. I: [r, p]\n  Full: [p, q, r]\n")
    result = run_cli(
        "ablate",
        *tables,
        "--manifest",
        truth,
        "--combinations",
        named,
        "--format",
        "latex",
        "--resamples",
        20,
    )
    assert result.code == 0, result.err
    assert r"\caption{Named combinations}" in result.out
    rows = [line for line in result.out.splitlines() if line.startswith(("Comb. I", "Full"))]
    assert rows[0].startswith("Comb. I & p + r & 0.2083 & ")
    assert rows[1].startswith(r"Full & p + q + r & \textbf{0.2500} & ")


def test_ablate_shipped_combinations_need_their_tables(run_cli, save_table, truth):
    tables = [save_table(name, "AAHHA") for name in ("S1", "S2", "T1", "T2")]
    shipped = ("--manifest", truth, "--combinations", "ensemble/combinations.yaml")
    result = run_cli("ablate", *tables, *shipped)
    assert result.code == 1
    assert "2 problems in the combinations" in result.err
    assert "'Comb. I' names 'ST1'" in result.err
    assert run_cli("ablate", *tables, save_table("ST1", "AAHHA"), *shipped).code == 0


def test_ablate_writes_all_combinations(run_cli, tables, truth, tmp_path):
    out = tmp_path / "combinations.parquet"
    result = run_cli("ablate", *tables, "--manifest", truth, "--resamples", 20, "--out", out)
    assert result.code == 0, result.err
    rows = pq.read_table(out).to_pylist()
    assert len(rows) == 7
    assert (rows[0]["members"], rows[0]["size"], rows[0]["bitmask"]) == ("p+q+r", 3, 7)


def test_ablate_beam_says_so(run_cli, tables, truth):
    result = run_cli(
        "ablate", *tables, "--manifest", truth, "--beam", 1, "--max-size", 2, "--resamples", 20
    )
    assert result.code == 0
    # 3 tables alone, then 2 pairs with the best of them; 3 + 3 are possible.
    assert result.err == (
        "Note: a beam search scored 5 of the 6 combinations, keeping the best 1 of each size; "
        "a better one may exist. Shapley values are estimates.\n"
    )


def test_ablate_says_what_the_tables_do_not_cover(run_cli, save_table, truth):
    result = run_cli("ablate", save_table("p", "AA"), "--manifest", truth, "--resamples", 20)
    assert result.err == (
        f"Note: 2 labelled utterances of {truth} are not covered and were not scored.\n"
    )


def test_ablate_one_table_and_csv_tables_of_other_classes(run_cli, tmp_path):
    (tmp_path / "run.csv").write_text("FileName,EmoClass\na,B\nb,C\n")
    truth = tmp_path / "truth.csv"
    truth.write_text("FileName,EmoClass\na,C\nb,C\n")
    result = run_cli("ablate", tmp_path / "run.csv", "--manifest", truth, "--resamples", 20)
    assert result.code == 1
    assert "EmoClass outside A C D F H N S U" in result.err
    (tmp_path / "run.csv").write_text("FileName,EmoClass\na,A\nb,C\n")
    result = run_cli("ablate", tmp_path / "run.csv", "--manifest", truth, "--resamples", 20)
    assert result.code == 0, result.err
    _, members = blocks(result.out)  # nothing to pick from, so no third table
    # C: 2 * 1 / (2 + 1), over eight classes
    assert members[2].split() == ["run", "0.0833", "+0.0833"]


def test_ablate_wrong_input_exits_1_with_a_message(run_cli, tables, save_table, truth, tmp_path):
    cases = [
        ([tables[0], save_table("s", "AA")], "does not cover the same utterances"),
        ([tables[0], tables[0]], "2 tables are named 'p'"),
        ([*tables, "--tiebreaker", "s"], "Unknown tiebreaker 's'"),
        ([*tables, "--max-size", 4], "shall have 4 tables, expected 1 to 3"),
        ([*tables, "--by-speaker"], "names no speaker"),
        ([*tables, "--combinations", tmp_path / "none.yaml"], "There is no config"),
        ([*tables, "--out", tmp_path / "all.csv"], "must end in .parquet"),
    ]
    for args, message in cases:
        result = run_cli("ablate", *args, "--manifest", truth, "--resamples", 20)
        assert result.code == 1, args
        assert message in result.err, args


def test_ablate_wrong_command_line_exits_2(run_cli, tables, truth):
    assert run_cli("ablate", *tables).code == 2
    assert run_cli("ablate", *tables, "--manifest", truth, "--beam", 0).code == 2
