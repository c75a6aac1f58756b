"""What the steps write, against scikit-learn and against the files they start from."""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from abhinaya.data.manifest import read_manifest
from abhinaya.data.predictions import read_table
from abhinaya.pipeline.config import load_pipeline
from abhinaya.pipeline.launching.launch import StepError
from abhinaya.pipeline.steps import build_steps

LETTERS = list("ACDFHNSU")


def predicted(selection, name):
    """Letter of each utterance."""
    table = read_table(Path(f"out/tables/{selection}/{name}.parquet"))
    assert (table.labels >= 0).all()
    return {
        utterance: LETTERS[label]
        for utterance, label in zip(table.utterances, table.labels, strict=True)
    }


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("selection", "n_scored", "n_dropped"),
    # development: 11 clips, of which an O and an X; test: one clip per class.
    [("development", 9, 2), ("test", 8, 0)],
)
def test_scores_equal_those_of_scikit_learn(finished, selection, n_scored, n_dropped):
    if selection == "test":
        truth = {row["FileName"]: row["EmoClass"] for row in read_csv("source/test3_truth.csv")}
    else:
        rows = read_manifest(Path("out/corpus/manifest.parquet")).rows
        truth = dict(zip(rows["utterance"], rows["label"], strict=True))
    stored = json.loads(Path(f"out/scores-{selection}.json").read_text())
    assert list(stored) == ["wave", "mel", "vote"]
    for name, found in stored.items():
        answers = predicted(selection, name)
        kept = [utterance for utterance in answers if truth[utterance] in LETTERS]
        true, guessed = [truth[u] for u in kept], [answers[u] for u in kept]
        assert found["n_utts"] == len(kept) == n_scored
        assert found["n_dropped"] == len(answers) - len(kept) == n_dropped
        assert found["n_abstained"] == 0
        macro = f1_score(true, guessed, labels=LETTERS, average="macro", zero_division=0)
        assert found["macro_f1"] == pytest.approx(macro)
        assert found["accuracy"] == pytest.approx(accuracy_score(true, guessed))
        assert found["uar"] == pytest.approx(balanced_accuracy_score(true, guessed))
        low, high = found["interval"]
        assert 0 <= low <= found["macro_f1"] <= high <= 1


def test_vote_of_two_members_is_their_common_label_or_the_tiebreakers(finished):
    wave, mel, vote = (predicted("test", name) for name in ("wave", "mel", "vote"))
    assert list(wave) == list(mel) == list(vote)
    # Of two votes either both agree or each class has one, and mel is the tiebreaker.
    assert vote == mel
    table = read_table(Path("out/tables/test/vote.parquet"))
    by = ["majority" if wave[u] == mel[u] else "mel" for u in vote]
    assert list(table.decided_by) == by


def test_soft_vote_by_config_is_the_mean_of_the_probabilities(finished, run_chain):
    run_chain("vote.rule=soft", only=["vote"])
    tables = [read_table(Path(f"out/tables/test/{name}.parquet")) for name in ("wave", "mel")]
    vote = read_table(Path("out/tables/test/vote.parquet"))
    assert vote.meta["rule"] == "soft"
    mean = (tables[0].probs.astype(float) + tables[1].probs) / 2
    np.testing.assert_allclose(vote.probs, mean, atol=1e-6)
    np.testing.assert_array_equal(vote.labels, mean.argmax(axis=1))


def test_submission_holds_the_vote_once_per_expected_name(finished):
    rows = read_csv("out/submission.csv")
    assert list(rows[0]) == ["FileName", "EmoClass"]
    assert [row["FileName"] for row in rows] == [
        f"MSP-PODCAST_test3_{number:04d}.wav" for number in range(1, len(rows) + 1)
    ]
    assert len(rows) == 8
    assert {row["FileName"]: row["EmoClass"] for row in rows} == predicted("test", "vote")
    (line,) = Path("out/submissions.jsonl").read_text().splitlines()
    digest = hashlib.sha256(Path("out/submission.csv").read_bytes()).hexdigest()
    assert json.loads(line)["sha256"] == digest


def test_reports_are_short_tables_that_name_the_files(fresh):
    pipeline = load_pipeline("chain.yaml")
    reports = {step.name: step.work() for step in build_steps(pipeline)}
    assert reports["train:mel"].title == "trained mel: out/runs/mel/best"
    ((run, macro_f1, _, n_steps),) = reports["train:mel"].rows
    # 34 usable clips in batches of 8 are 5 steps per epoch.
    assert (run, n_steps) == ("mel", 10)
    assert isinstance(macro_f1, float)
    assert 0 <= macro_f1 <= 1
    assert reports["predict:test:wave"].rows == [["wave", "test", 8, 0]]
    voted = reports["vote:test"]
    assert voted.columns == ["decided by", "rows", "share"]
    assert sum(row[1] for row in voted.rows) == 8
    assert sum(row[2] for row in voted.rows) == pytest.approx(1)
    scored = reports["score:test"]
    assert scored.title == "scores of test against source/test3_truth.csv"
    assert [row[0] for row in scored.rows] == ["wave", "mel", "vote"]
    assert reports["submit"].rows[0][:2] == ["out/submission.csv", 8]
    assert set(Counter(report.title for report in reports.values()).values()) == {1}


def test_selection_of_several_parts_is_predicted_in_the_manifests_order(finished):
    manifest = read_manifest(Path("out/corpus/manifest.parquet"))
    assert list(predicted("development", "wave")) == list(
        manifest.select(("development", "balanced"))["utterance"]
    )


def test_with_embedding_stores_what_enters_the_last_layer(finished, run_chain):
    run_chain("with_embedding=true", only=["predict:test:mel"])
    table = read_table(Path("out/tables/test/mel.parquet"))
    assert table.embeddings.shape == (8, 8)
    head = {key: np.array(value) for key, value in table.meta["head"].items()}
    logits = table.embeddings @ head["weight"].T + head["bias"]
    assert (logits.argmax(axis=1) == table.labels).all()


LAUNCHER = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]


@pytest.fixture
def launched(monkeypatch):
    """Command lines that would have been started; what they would write is there already."""
    commands = []

    def run(command):
        commands.append(command)
        return 0

    monkeypatch.setattr("abhinaya.pipeline.launching.launch.run_and_pass_on", run)
    return commands


def test_two_devices_launch_train_on_the_resolved_config(finished, launched, run_chain):
    run_chain("gpus=2")
    assert launched == []  # what one device has done need not be done by two
    Path("out/.steps/train.wave.json").unlink()
    run_chain("gpus=2", only=["train:wave"])
    (command,) = launched
    assert command[:5] == LAUNCHER
    at = command.index("abhinaya")
    assert command[at - 1 :] == ["-m", "abhinaya", "train", "out/configs/wave.yaml"]
    for flag in ("--multi_gpu", "--num_machines", "--mixed_precision", "--dynamo_backend"):
        assert flag in command[5 : at - 1]
    resolved = yaml.safe_load(Path("out/configs/wave.yaml").read_text())
    assert resolved["name"] == "wave"
    assert resolved["run_dir"] == "out/runs/wave"
    assert resolved["data"]["manifest"] == "out/corpus/manifest.parquet"


@pytest.mark.parametrize("content", ["[" * 200_000, "[]", '{"digest": '])
def test_damaged_stamp_of_a_step_means_to_do_it_again(finished, launched, run_chain, content):
    Path("out/.steps/train.wave.json").write_text(content)
    run_chain("gpus=2", only=["train:wave"])
    assert len(launched) == 1


def test_two_devices_launch_predict_with_all_selections(finished, launched, run_chain):
    Path("out/.steps/predict.development.mel.json").unlink()
    run_chain("gpus=2", only=["predict:development:mel"])
    (command,) = launched
    assert command[:5] == LAUNCHER
    assert command[command.index("abhinaya") :] == [
        "abhinaya",
        "predict",
        "out/runs/mel",
        "--manifest",
        "out/corpus/manifest.parquet",
        "--select",
        "development",
        "--select",
        "balanced",
        "--out",
        "out/tables/development/mel.parquet",
    ]


def test_failing_launch_says_that_finished_steps_are_kept(finished, monkeypatch, run_chain):
    Path("out/.steps/train.mel.json").unlink()
    monkeypatch.setattr("abhinaya.pipeline.launching.launch.run_and_pass_on", lambda command: 9)
    with pytest.raises(StepError, match=r"train failed on 2 devices with exit code 9.*not repeat"):
        run_chain("gpus=2", only=["train"])
