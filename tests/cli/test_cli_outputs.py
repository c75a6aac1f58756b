"""No command writes over its inputs, or over what it did not make, unless it is told to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import make_manifest, write_manifest
from abhinaya.data.predictions import PredictionTable, write_table
from abhinaya.pipeline.outputs import find_maker

N_UTTS = 40


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Tables a and b as Parquet, c and d as CSV, a manifest with speakers."""
    monkeypatch.chdir(tmp_path)
    utterances = [f"u{idx}" for idx in range(N_UTTS)]
    for seed, name in enumerate(("a.parquet", "b.parquet", "c.csv", "d.csv")):
        probs = np.random.default_rng(seed).dirichlet(np.ones(8), size=N_UTTS).astype(np.float32)
        meta = {"member": "wavlm"} if seed < 2 else {}
        write_table(
            PredictionTable(
                name[0], MSP_PODCAST, utterances, probs.argmax(1), probs=probs, meta=meta
            ),
            tmp_path / name,
        )
    rows = [
        {"utterance": name, "label": "ACDFHNSU"[idx % 8], "speaker": "pqrstvw"[idx % 7]}
        for idx, name in enumerate(utterances)
    ]
    write_manifest(make_manifest(rows, MSP_PODCAST, tmp_path), tmp_path / "manifest.parquet")
    Path("names.txt").write_text("\n".join(utterances))
    return tmp_path


M = ("--manifest", "manifest.parquet")
COMMANDS = {
    "vote": (("vote", "a.parquet", "x=c.csv"), "v"),
    "fit": (("fit", "temperature", "a.parquet", "b.parquet", *M), "r.json"),
    "smooth": (("smooth", "a.parquet", *M, "--space", "probabilities", "--jobs", 1), "s"),
    "ablate": (("ablate", "a.parquet", "b.parquet", *M, "--resamples", 9), "t.parquet"),
    "convert": (("convert", "c.csv"), "o.csv"),
    "submit": (("submit", "a.parquet", "--names", "names.txt"), "out.csv"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_replaces_its_own_output_only(run_cli, command):
    args, out = COMMANDS[command]
    for file in [f"{out}.csv", f"{out}.parquet"] if "." not in out else [out]:
        for _ in range(2):  # the second time it replaces its own
            result = run_cli(*args, "--out", file)
            assert result.code == 0, result.err
        assert find_maker(Path(file)) == command
        other = ("vote", "b.parquet", "--out", file) if command != "vote" else None
        if other is not None and not file.endswith(".json"):
            before = Path(file).read_bytes()
            result = run_cli(*other)
            assert result.code == 1
            assert (
                f"'{file}' is there already and was made by abhinaya {command}, not" in result.err
            )
            assert "not by abhinaya vote. Choose another file to write, or replace" in result.err
            assert Path(file).read_bytes() == before
            assert run_cli(*other, "--force").code == 0
            assert find_maker(Path(file)) == "vote"


def test_an_input_is_not_replaced(run_cli):
    cases = [
        ("vote", "a.parquet", "c.csv", "--out", "a.parquet"),
        ("vote", "a.parquet", "x=c.csv", "--out", "./c.csv"),
        ("smooth", "b.parquet", "--embeddings", "a.parquet", *M, "--out", "a.parquet"),
        ("convert", "c.csv", "--out", "c.csv"),
        ("submit", "a.parquet", "--names", "c.csv", "--out", "c.csv"),
        ("ablate", "a.parquet", "b.parquet", *M, "--out", "manifest.parquet"),
        ("predict", "config.yaml", *M, "--select", "all", "--out", "manifest.parquet"),
    ]
    kept = {path: path.read_bytes() for path in Path().iterdir()}
    for args in cases:
        result = run_cli(*args)
        assert result.code == 1, args
        assert "is also read by this command, which would replace it. Choose another" in result.err
    assert {path: path.read_bytes() for path in Path().iterdir()} == kept
    assert run_cli(*cases[0], "--force").code == 0
    assert find_maker(Path("a.parquet")) == "vote"


def test_what_nobody_known_made_is_not_replaced(run_cli):
    result = run_cli("vote", "a.parquet", "--out", "d.csv")
    assert result.code == 1
    assert "'d.csv' is there already and was not made by abhinaya vote" in result.err
    # A change by hand is somebody's work too.
    assert run_cli("vote", "a.parquet", "--out", "v.csv").code == 0
    with open("v.csv", "a") as file:
        file.write("u99,A\n")
    assert "was not made by" in run_cli("vote", "a.parquet", "--out", "v.csv").err
    for name, content in (("v.parquet", b"PAR1"), ("r.json", b"{"), ("n.csv", b"\xff")):
        Path(name).write_bytes(content)
        assert find_maker(Path(name)) is None


def test_both_outputs_of_fit_are_looked_at(run_cli):
    args = ("fit", "temperature", "a.parquet", "b.parquet", *M, "--out", "r.json")
    assert "'a.parquet' is also read" in run_cli(*args, "--out-of-fold", "a.parquet").err
    for _ in range(2):
        assert run_cli(*args, "--out-of-fold", "o.parquet").code == 0
    assert find_maker(Path("o.parquet")) == "fit"
    for _ in range(2):
        assert (
            run_cli(
                "apply",
                "r.json",
                "a.parquet",
                "b.parquet",
                "--allow-fitted-rows",
                "--out",
                "f.parquet",
            ).code
            == 0
        )
    assert find_maker(Path("f.parquet")) == "apply"
    assert find_maker(Path("manifest.parquet")) == "prepare"
    assert find_maker(Path("a.parquet")) == "predict"


def test_score_of_a_submission_is_recorded_without_force(run_cli):
    assert run_cli("submit", "a.parquet", "--names", "names.txt", "--out", "out.csv").code == 0
    assert run_cli("submit", "--score", "0.4", "--out", "out.csv").code == 0


def test_score_warns_where_table_and_truth_are_one_file(run_cli):
    result = run_cli("score", "c.csv", "x=d.csv", "--manifest", "./d.csv", "--resamples", 9)
    assert result.code == 0
    assert "Note: x is the truth itself: its score says nothing." in result.err
    assert "c is the truth" not in result.err
