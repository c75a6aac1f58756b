from __future__ import annotations

import pytest

from abhinaya.data.predictions import read_table


@pytest.fixture
def recipe(run_cli, save_table, tmp_path):
    """Weights learned from tables p, always right on u0 to u9, and q, right on every other."""
    truth = tmp_path / "truth.csv"
    letters = "AH" * 5
    truth.write_text("FileName,EmoClass\n" + "".join(f"u{i},{c}\n" for i, c in enumerate(letters)))
    out = tmp_path / "r.json"
    result = run_cli(
        "fit",
        "weights",
        save_table("p", letters),
        save_table("q", "A" * 10),
        "--manifest",
        truth,
        "--out",
        out,
        "--resamples",
        10,
    )
    assert result.code == 0, result.err
    return out


@pytest.fixture
def fresh(tmp_path):
    """CSV tables p and q of other utterances; q alone answers the third, nobody the fourth."""
    for name, labels in (("p", ["H", "A", "", ""]), ("q", ["A", "H", "A", ""])):
        lines = [f"v{idx},{label}\n" for idx, label in enumerate(labels)]
        (tmp_path / f"{name}.csv").write_text("FileName,EmoClass\n" + "".join(lines))
    return [tmp_path / "p.csv", tmp_path / "q.csv"]


def test_apply_writes_and_counts_what_the_recipe_decides(run_cli, recipe, fresh, tmp_path):
    out = tmp_path / "out.parquet"
    result = run_cli("apply", recipe, *fresh, "--out", out, "--name", "fused")
    assert result.code == 0, result.err
    table = read_table(out)
    # p has an F1 of 1 for both classes and wins wherever it speaks.
    assert table.emotions.decode(table.labels) == ["H", "A", "A", None]
    assert table.name == "fused"
    lines = result.out.splitlines()
    assert lines[0] == f"4 rows in {out}"
    assert "A         2  0.5000" in lines
    assert "none      1  0.2500" in lines


def test_apply_fallback_and_renamed_tables(run_cli, recipe, fresh, tmp_path):
    other = fresh[0].rename(tmp_path / "model7.csv")
    out = tmp_path / "out.csv"
    args = ("apply", recipe, fresh[1], "--fallback", "N", "--out", out)
    assert run_cli(*args, f"p={other}").code == 0
    labels = [line.split(",")[1] for line in out.read_text().splitlines()[1:]]
    assert labels == ["H", "A", "A", "N"]
    result = run_cli(*args, other)
    assert result.code == 1
    assert "no table is named 'p' and it does not know 'model7'" in result.err


def test_apply_refuses_rows_of_the_fit_unless_told(run_cli, recipe, tmp_path):
    tables = [tmp_path / "p.parquet", tmp_path / "q.parquet"]
    out = tmp_path / "out.parquet"
    result = run_cli("apply", recipe, *tables, "--out", out)
    assert result.code == 1
    assert "fitted on 10 of these 10 utterances: 'u0', 'u1', 'u2' and 7 more" in result.err
    assert not out.exists()
    assert run_cli("apply", recipe, *tables, "--out", out, "--allow-fitted-rows").code == 0
    assert read_table(out).meta["n_fitted_rows"] == 10


def test_apply_reads_speakers_only_from_a_manifest_that_has_the_rows(
    run_cli, recipe, fresh, tmp_path
):
    args = ("apply", recipe, *fresh, "--out", tmp_path / "out.csv", "--manifest")
    result = run_cli(*args, tmp_path / "truth.csv")
    assert result.code == 1
    assert "4 of 4 utterances of the tables are not in" in result.err
    known = tmp_path / "known.csv"
    known.write_text("FileName,EmoClass\nv0,\nv1,\nv2,\nv3,\n")
    assert run_cli(*args, known).code == 0


def test_apply_wrong_input_exits_1_with_a_message(run_cli, recipe, fresh, tmp_path):
    out = tmp_path / "out.csv"
    cases = [
        ((tmp_path / "none.json", *fresh), "There is no recipe"),
        ((fresh[0], fresh[1]), "cannot be read as JSON"),
        ((recipe, *fresh, "--fallback", "Q"), "Unknown class 'Q'"),
        ((recipe, fresh[0]), "no table is named 'q'. Give exactly these"),
    ]
    for args, message in cases:
        result = run_cli("apply", *args, "--out", out)
        assert result.code == 1, args
        assert message in result.err, args
    assert not out.exists()
    assert run_cli("apply", recipe, *fresh).code == 2
