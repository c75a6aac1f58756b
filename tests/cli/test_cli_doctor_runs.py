"""`abhinaya doctor` of run directories and of chains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from untrained_runs import MakeRun, bases, corpus, make_config, make_run

from abhinaya.pipeline.run import CHAIN

__all__ = ["bases", "corpus", "make_config", "make_run"]

ASKED = {
    "member": "llama-70b-zero-shot",
    "base": "tiny",
    "prompt": "zero-shot-v1",
    "data": {"transcripts": "human"},
    "openai": {"url": "http://127.0.0.1:9/v1"},
}


def found(result):
    return {row["what"]: row for row in json.loads(result.out)}


def test_doctor_of_a_run_looks_at_its_own_weights_and_its_base(run_cli, make_run: MakeRun):
    run = make_run()
    result = run_cli("doctor", run, "--json")
    assert result.code == 0, result.err
    rows = found(result)
    assert rows["run"]["where"] == str(run / "best")
    assert "trained tensors" in rows["run"]["details"]
    assert "classes A C D F H N S U" in rows["run"]["details"]
    assert rows["base"]["result"] == "ok"
    # The run was copied without its base.
    result = run_cli("doctor", run, "base=/no/such/folder", "--json")
    assert result.code == 1
    assert "There is no '/no/such/folder'" in found(result)["base"]["details"]


def test_doctor_of_a_damaged_run_says_what_is_lost(run_cli, make_run: MakeRun):
    run = make_run()
    weights = run / "best" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    result = run_cli("doctor", run, "--json")
    assert result.code == 1
    assert "model.safetensors' is damaged (" in found(result)["run"]["details"]
    weights.unlink()
    result = run_cli("doctor", run, "--json")
    assert "model.safetensors is missing." in found(result)["run"]["details"]


def test_doctor_of_a_folder_that_nobody_wrote_says_what_it_may_be(run_cli, tmp_path):
    result = run_cli("doctor", tmp_path)
    assert result.code == 1
    assert "is neither a run directory, which has a config.yaml with a member" in result.err
    assert "nor the folder of a chain that abhinaya run has begun" in result.err


@pytest.fixture
def chain(make_run: MakeRun, make_config, tmp_path, monkeypatch):
    """A chain of a run that is there, one that is not trained yet, and a server that is not."""
    monkeypatch.chdir(tmp_path)
    run = make_run()
    config = yaml.safe_load((run / "best" / "config.yaml").read_text())
    for name, content in (
        ("wave", config),
        ("later", config | {"base": "/no/base"}),
        ("asked", ASKED),
    ):
        Path(f"{name}.yaml").write_text(yaml.safe_dump(content))
    members = {name: {"config": f"{name}.yaml"} for name in ("wave", "later", "asked")}
    members["wave"]["set"] = {"run_dir": str(run)}
    Path("chain.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "tiny",
                "out": "out",
                "manifest": config["data"]["manifest"],
                "members": members,
                "predict": {"dev": "development"},
            }
        )
    )
    return "chain.yaml"


def check_chain(result):
    assert result.code == 1
    rows = json.loads(result.out)
    assert list(rows[0]) == ["member", "what", "where", "result", "details"]
    by_member = {name: [row for row in rows if row["member"] == name] for name in ("wave", "later")}
    assert {row["what"] for row in by_member["wave"]} == {"run", "base"}
    assert not [row for row in by_member["wave"] if row["result"] == "problem"]
    assert ["base", "problem"] == [by_member["later"][0][key] for key in ("what", "result")]
    (asked,) = (row for row in rows if row["member"] == "asked" and row["where"].startswith("http"))
    assert asked["result"] == "problem"
    assert "cannot be reached" in asked["details"] or "failed" in asked["details"]
    assert "prompt" in {row["what"] for row in rows if row["member"] == "asked"}


def test_doctor_of_a_chain_looks_at_every_member(run_cli, chain):
    check_chain(run_cli("doctor", chain, "--json"))


def test_doctor_of_the_folder_of_a_chain_does_the_same(run_cli, chain):
    # As a run leaves it there, see test_cli_run.py.
    file = Path("out") / CHAIN
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(yaml.safe_load(Path(chain).read_text())))
    check_chain(run_cli("doctor", "out", "--json"))
