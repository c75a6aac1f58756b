from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from abhinaya.demo.corpus.release import write_corpus
from abhinaya.files import sole_writer
from abhinaya.pipeline.config import load_pipeline
from abhinaya.pipeline.run import CHAIN as CHAIN_FILE

CHAIN = {
    "name": "tiny",
    "out": "out",
    "prepare": {
        "corpus": "msp-podcast",
        "source": "source/release",
        "out": "out/corpus",
        "balanced_per_class": 1,
    },
    "members": {"wave": {"config": "demo/wavlm.yaml"}},
    "predict": {"test": "test3"},
    "submit": {"selection": "test", "names": "out/corpus/manifest.parquet", "select": "test3"},
}

WEIGHTS = "out/runs/wave/best/model.safetensors"
MANIFEST = "out/corpus/manifest.parquet"
STEPS = [
    ("step", "status", "needs", "makes"),
    ("prepare", "to do", "", MANIFEST),
    ("train:wave", "to do", MANIFEST, WEIGHTS),
    ("predict:test:wave", "to do", f"{MANIFEST}, {WEIGHTS}", "out/tables/test/wave.parquet"),
    ("vote:test", "to do", "out/tables/test/wave.parquet", "out/tables/test/vote.parquet"),
    ("submit", "to do", f"out/tables/test/vote.parquet, {MANIFEST}", "out/submission.csv"),
]
WIDTHS = (17, 6, 65, 0)
PLAN = ["  ".join(map(str.ljust, step, WIDTHS)) for step in STEPS]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with a chain that has not run."""
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump(CHAIN, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def corpus(folder):
    write_corpus(folder / "source", n_clips=32, n_speakers=8)


def test_plan_lists_every_step_and_writes_nothing(run_cli, folder):
    result = run_cli("run", "chain.yaml", "--plan")
    assert result.code == 0, result.err
    assert result.out.splitlines() == [
        "tiny: 5 steps",
        *PLAN,
    ]
    assert [path.name for path in folder.iterdir()] == ["chain.yaml"]


def test_second_run_of_one_chain_is_refused(run_cli, folder):
    with sole_writer(folder / "out" / ".steps", "out"):
        result = run_cli("run", "chain.yaml")
        assert result.code == 1
        assert re.search(r"is being written by process \d+ on .* choose another out\.", result.err)
        assert run_cli("run", "chain.yaml", "--plan").code == 0


def test_plan_as_json_is_one_document(run_cli, folder):
    result = run_cli("run", "chain.yaml", "--plan", "--json", "--only", "vote")
    assert json.loads(result.out) == [
        {
            "step": "vote:test",
            "status": "to do",
            "needs": "out/tables/test/wave.parquet",
            "makes": "out/tables/test/vote.parquet",
        }
    ]


def test_plan_names_some_files_that_a_step_needs_and_counts_the_others(
    run_cli, folder, monkeypatch
):
    monkeypatch.setattr("abhinaya.cli.run._MAX_FILES", 1)
    entries = json.loads(run_cli("run", "chain.yaml", "--plan", "--json").out)
    text = run_cli("run", "chain.yaml", "--plan").out.splitlines()[2:]
    numbers = [entry["needs"].count(",") + 1 for entry in entries]
    assert max(numbers) == 2
    for entry, line, number in zip(entries, text, numbers, strict=True):
        first = entry["needs"].split(", ")[0]
        assert f"  {first}{' and 1 more' if number == 2 else ''}  " in line


def test_only_prepare_prints_its_table_and_is_done_afterwards(run_cli, folder, corpus):
    result = run_cli("run", "chain.yaml", "--only", "prepare")
    assert result.code == 0, result.err
    title, header, *rows = result.out.strip().splitlines()
    assert title == "msp-podcast: 32 utterances, 0 problems in out/corpus/problems.csv"
    assert header.split()[:3] == ["selection", "rows", "hours"]
    # A clip of each class in each of four splits, and one per class in the subset.
    assert [row.split()[:2] for row in rows] == [
        ["train", "8"],
        ["development", "8"],
        ["test1", "8"],
        ["test3", "8"],
        ["balanced", "8"],
    ]
    plan = run_cli("run", "chain.yaml", "--plan").out.splitlines()
    assert [line.split("  ")[0] for line in plan if " done " in line] == ["prepare"]
    # What it took and wrote is remembered.
    assert plan[0] == "tiny: 5 steps, 4 to do"
    assert plan[1].split() == ["step", "status", "took", "size", "needs", "makes"]
    assert re.match(r"prepare +done +\d+ s +\d+\.\d KiB ", plan[2])
    (known,) = json.loads(run_cli("run", "chain.yaml", "--plan", "--json", "--only", "prepare").out)
    assert known["size"] == (folder / "out" / "corpus" / "manifest.parquet").stat().st_size
    assert 0 < known["took"] < 100
    # So is the chain, for those who have only its folder.
    left = load_pipeline(folder / "out" / CHAIN_FILE)
    assert left.config == load_pipeline("chain.yaml").config
    again = run_cli("run", "chain.yaml", "--only", "prepare")
    assert (again.code, again.out) == (0, "")
    assert "prepare is done already; --from does it again." in again.err


def test_run_as_json_is_one_document(run_cli, folder, corpus):
    result = run_cli("run", "chain.yaml", "--only", "prepare", "--json")
    (report,) = json.loads(result.out)
    assert report["title"].startswith("msp-podcast: 32 utterances")
    assert report["rows"][0]["selection"] == "train"
    assert report["rows"][0]["rows"] == 8


def test_override_of_the_chain_is_used(run_cli, folder):
    result = run_cli("run", "chain.yaml", "out=elsewhere", "submit=null", "--plan")
    assert "elsewhere/runs/wave/best" in result.out
    assert "submit" not in result.out


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (
            ["members.wave.set.sed=1", "vote.tiebreaker=[wavlm]"],
            [
                "Error: 2 problems in chain.yaml: (1) members.wave: sed is unknown, "
                "did you mean seed? (2) vote.tiebreaker names 'wavlm', but the members are wave.",
            ],
        ),
        (
            ["gpu=2", "predict.test=[]", "members.wave.confg=x"],
            ["gpu is unknown, did you mean gpus?", "members.wave.confg is unknown"],
        ),
        (
            ["score=[{selection: tset}]"],
            ["score and submit use the selection tset, but predict has only test"],
        ),
        (["out"], ["the override 'out' is not of the form some.key=value"]),
        (["prepare.corpus=msp"], ["Unknown corpus 'msp'.", "Known: cafe, crema-d, "]),
        (["prepare.source=nowhere"], ["There is no 'nowhere' to prepare msp-podcast from"]),
        (
            ["prepare=null", "manifest=none.parquet", "submit=null"],
            ["The chain 'tiny' needs 'none.parquet', which is not there and which no step makes"],
        ),
    ],
)
def test_wrong_config_exits_1_with_every_reason_and_no_traceback(run_cli, folder, overrides, parts):
    result = run_cli("run", "chain.yaml", *overrides)
    assert result.code == 1
    assert result.err.startswith("Error: ")
    for part in parts:
        assert part in result.err
    assert result.out == ""
    assert not Path("out/tables").exists()


@pytest.mark.parametrize("option", ["--only", "--from"])
def test_unknown_step_exits_1_with_the_known_ones(run_cli, folder, option):
    result = run_cli("run", "chain.yaml", "--plan", option, "votes")
    assert result.code == 1
    assert result.err.startswith("Error: Unknown step 'votes'. Did you mean 'vote'? Known: predi")


def test_only_a_step_whose_input_is_not_made_yet_exits_1(run_cli, folder):
    result = run_cli("run", "chain.yaml", "--only", "submit")
    assert result.code == 1
    assert "The step 'submit' needs 'out/tables/test/vote.parquet'" in result.err
    assert "without --only or --from" in result.err


def test_missing_file_exits_1_and_nonsense_option_exits_2(run_cli, folder):
    assert run_cli("run", "none.yaml").code == 1
    assert run_cli("run", "chain.yaml", "--nonsense").code == 2


def test_plan_notes_what_would_stop_the_run(run_cli, folder):
    result = run_cli("run", "chain.yaml", "--plan", "--json")
    assert result.code == 0
    json.loads(result.out)
    assert "Note: prepare: corpus source/release: There is no" in result.err
    assert "Note: train:wave: base runs/demo/checkpoints/wavlm: There is no" in result.err
