"""What lies in a run: a chain's folder of output, or one trained run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from untrained_runs import MakeRun

from abhinaya.app.browsing import list_rows
from abhinaya.app.run import find_texts, open_run
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import make_manifest
from abhinaya.data.predictions import read_table, write_table
from abhinaya.data.transcripts import write_transcripts
from abhinaya.errors import MissingFileError
from abhinaya.evaluation.scoring import Truth
from abhinaya.files import write_json
from abhinaya.pipeline.stages.transcribe import TranscribeSettings


def test_chain_has_the_members_and_the_vote_of_its_tables(chain):
    run = open_run(chain)
    assert [(m.name, m.source, m.reads_text) for m in run.members] == [
        ("a", chain / "runs/a", False),
        ("b", chain / "runs/b", False),
        ("t1", chain / "configs/t1.yaml", True),
    ]
    assert run.vote.tiebreaker == ("b",)
    assert run.vote.rule == "plurality"
    assert list(run.selections) == ["development"]
    assert [table.name for table in run.tables("development")] == ["vote", "a", "b", "t1"]
    assert isinstance(run.truth, Truth)
    assert run.recipe is None


def test_run_that_fuses_by_a_recipe_says_so(chain):
    file = chain / "tables/development/vote.parquet"
    table = read_table(file)
    write_table(replace(table, meta={**table.meta, "rule": "stacking"}), file)
    assert open_run(chain).recipe == "stacking"
    assert open_run(chain).vote.rule == "plurality"


def test_one_trained_run_is_a_run_of_one_member(make_run: MakeRun):
    run = open_run(make_run())
    assert [member.name for member in run.members] == ["tiny"]
    assert run.selections == {}
    assert run.manifest is not None


def test_truth_of_its_own_replaces_that_of_the_corpus(chain, tmp_path):
    (tmp_path / "truth.csv").write_text("FileName,EmoClass\nn6.wav,A\n")
    run = open_run(chain, truth=tmp_path / "truth.csv")
    assert run.truth is not None
    assert run.truth.labels.tolist() == [0]
    assert run.speakers is not None
    assert len(run.speakers.utterances) == 10


def test_chain_that_keeps_its_config_names_transcriber_and_truths(chain, tmp_path):
    (tmp_path / "truth.csv").write_text("FileName,EmoClass\nn9.wav,H\n")
    score = [{"selection": "development", "truth": str(tmp_path / "truth.csv")}]
    config = {"transcribe": {"model": "small"}, "score": score}
    write_json(chain / ".steps/config.json", config)
    run = open_run(chain)
    assert run.transcriber == "small"
    truth = run.truth_of("development")
    assert truth is not None
    assert list(truth.utterances) == ["n9.wav"]
    assert run.truth_of("test") is run.truth
    assert list_rows(run, "development", "vote")["true"].dropna().tolist() == ["H"]
    write_json(chain / ".steps/config.json", {"transcribe": {}})
    assert open_run(chain).transcriber == TranscribeSettings().model


def test_folder_that_is_no_run_is_told_what_would_be_one(tmp_path):
    with pytest.raises(MissingFileError, match=r"is no run\. Name the folder `out`"):
        open_run(tmp_path)
    with pytest.raises(MissingFileError, match="is no run"):
        open_run(tmp_path / "nowhere")


def test_run_without_checkpoints_is_told_how_to_go_on(make_run: MakeRun):
    run = make_run()
    (run / "config.yaml").write_text((run / "best/config.yaml").read_text())
    shutil.rmtree(run / "best")
    with pytest.raises(MissingFileError, match=r"no checkpoint and no table.*it goes on"):
        open_run(run)


def test_chain_whose_checkpoints_are_gone_still_shows_its_tables(chain):
    shutil.rmtree(chain / "runs")
    run = open_run(chain)
    assert [member.source for member in run.members[:2]] == [None, None]
    assert len(run.tables("development")) == 4


def test_corpus_is_found_after_a_move_with_the_run(chain, corpus, tmp_path, monkeypatch):
    config = chain / "runs/a/best/config.yaml"
    monkeypatch.chdir(tmp_path)
    stored = config.read_text().replace(str(corpus / "manifest.parquet"), "out/c/manifest.parquet")
    config.write_text(stored)
    assert open_run(chain).manifest is not None  # that of t1
    shutil.copytree(corpus, chain / "c")
    run = open_run(chain)
    assert run.manifest is not None
    assert run.manifest.root == chain / "c"


def test_texts_of_an_utterance_come_by_source(tmp_path: Path):
    texts = [("x", "human", "oh"), ("x", "whisper", "no"), ("y", "human", "ah"), ("x", "n", None)]
    rows = [{"utterance": u, "source": s, "text": t} for u, s, t in texts]
    write_transcripts(rows, tmp_path / "transcripts.parquet")
    manifest = make_manifest([{"utterance": "x"}], MSP_PODCAST, tmp_path)
    assert find_texts(manifest, "x") == {"human": "oh", "whisper": "no"}
