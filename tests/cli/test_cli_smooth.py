from __future__ import annotations

import json

import numpy as np
import pytest

from abhinaya.data.labels import EmotionSet
from abhinaya.data.manifest import make_manifest, write_manifest
from abhinaya.data.predictions import PredictionTable, read_table, write_table

EMOTIONS = EmotionSet.from_codes("AH")
EMBEDDINGS = np.array([(6, 0), (6, 1), (3, 2), (0, 6), (1, 6), (2, 3), (2, 3), (9, 9)], np.float32)
PROBS = np.exp(EMBEDDINGS) / np.exp(EMBEDDINGS).sum(axis=1, keepdims=True)
UTTERANCES = tuple(f"u{idx}" for idx in range(8))


@pytest.fixture
def table(tmp_path):
    """The member's table of tests/ensembling/test_smoothing_tables.py."""
    path = tmp_path / "m.parquet"
    head = {"weight": [[1, 0], [0, 1]], "bias": [0, 0]}
    write_table(
        PredictionTable(
            "m",
            EMOTIONS,
            UTTERANCES,
            PROBS.argmax(axis=1),
            probs=PROBS,
            embeddings=EMBEDDINGS,
            meta={"head": head},
        ),
        path,
    )
    return path


@pytest.fixture
def save_manifest(tmp_path):
    """A function that writes a manifest of the utterances with some columns."""

    def save(name="manifest", **columns):
        rows = [
            {"utterance": utterance, **{key: values[idx] for key, values in columns.items()}}
            for idx, utterance in enumerate(UTTERANCES)
        ]
        path = tmp_path / f"{name}.parquet"
        write_manifest(make_manifest(rows, EMOTIONS, tmp_path), path)
        return path

    return save


def test_smooth_writes_the_table_and_scores_before_and_after(
    run_cli, table, save_manifest, tmp_path
):
    # Before: AAA HHH HA; after: AAH HHA HA, which is what was said.
    manifest = save_manifest(speaker=[*"pppqqqr", None], label=list("AAHHHAHA"))
    out = tmp_path / "s.parquet"
    result = run_cli("smooth", table, "--manifest", manifest, "--out", out)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[:5] == [
        f"8 rows in {out}",
        "rows                               speakers  utterances  changed",
        "adapted                                   2           6        2",
        "speaker unknown                           0           1        0",
        "too few utterances of the speaker         1           1        0",
    ]
    assert lines[6].split() == [
        "table",
        "rows",
        "macro-F1",
        "95",
        "%",
        "interval",
        "accuracy",
        "UAR",
    ]
    # Before: 6 of 8 right; each class 4 times, found 3 times among 4: F1 .75.
    assert lines[7].split()[:3] == ["m", "8", "0.7500"]
    assert lines[8].split()[:3] == ["m-smooth", "8", "1.0000"]
    read = read_table(out)
    assert "".join(read.emotions.decode(read.labels)) == "AAHHHAHA"
    assert read.name == "m-smooth"


def test_smooth_names_classes_that_are_absent(run_cli, table, save_manifest, tmp_path):
    manifest = save_manifest(speaker=[*"pppqqqr", None], label=["A"] * 8)
    args = ("smooth", table, "--manifest", manifest, "--out", tmp_path / "s.parquet")
    result = run_cli(*args, "--json")
    assert "Note: No scored utterance is truly H: each counts as 0 in macro-F1" in result.err
    before = json.loads(result.out)["scores"][0]
    # 4 of 8 are said to be A, all in truth: F1 2/3 and recall 1/2, each over both classes.
    assert (before["macro_f1"], before["uar"]) == pytest.approx((1 / 3, 1 / 4))
    assert before["absent_classes"] == ["H"]


def test_smooth_without_labels_does_not_score(run_cli, table, save_manifest, tmp_path):
    manifest = save_manifest(speaker=list("pppqqqrr"))
    result = run_cli("smooth", table, "--manifest", manifest, "--out", tmp_path / "s.csv", "--json")
    assert result.code == 0, result.err
    shown = json.loads(result.out)
    assert shown["scores"] == []
    assert shown["rows"][0]["rows"] == "adapted"
    assert shown["rows"][0]["utterances"] == 8


def test_smooth_takes_estimated_speakers_from_another_column(
    run_cli, table, save_manifest, tmp_path
):
    manifest = save_manifest(speaker=[None] * 8, estimated=[*"pppqqqr", None])
    out = tmp_path / "s.parquet"
    args = ("smooth", table, "--manifest", manifest, "--out", out)
    failed = run_cli(*args)
    assert failed.code == 1
    assert "No speaker is known of the 8 utterances of table 'm'" in failed.err
    assert not out.exists()
    done = run_cli(*args, "--speakers", "estimated")
    assert done.code == 0, done.err
    assert read_table(out).labels.tolist() == [0, 0, 1, 1, 1, 0, 1, 0]
    wrong = run_cli(*args, "--speakers", "estimate")
    assert wrong.code == 1
    assert "Unknown column of" in wrong.err
    assert "Did you mean 'estimated'" in wrong.err


def test_smooth_options_reach_the_rule(run_cli, table, save_manifest, tmp_path):
    manifest = save_manifest(speaker=list("pppqqqrr"), label=list("AAHHHAHA"))
    out = tmp_path / "s.parquet"
    args = ("smooth", table, "--manifest", manifest, "--out", out, "--name", "x")
    done = run_cli(
        *args,
        "--k",
        3,
        "--clustering",
        "agglomerative",
        "--space",
        "logits",
        "--seed",
        5,
        "--standardised",
        "always",
        "--assignment",
        "soft",
        "--mix",
        0.3,
        "--evidence",
        "probabilities",
        "--min-utterances",
        3,
        "--jobs",
        2,
    )
    assert done.code == 0, done.err
    assert read_table(out).name == "x"
    assert read_table(out).meta["settings"] == {
        "min_utts": 3,
        "n_clusters": 3,
        "clustering": "agglomerative",
        "space": "logits",
        "standardised": "always",
        "assignment": "soft",
        "mix": 0.3,
        "evidence": "probabilities",
        "seed": 5,
    }
    assert run_cli(*args, "--method", "standardise", "--shrinkage", 1).code == 0
    assert read_table(out).meta["settings"] == {"min_utts": 2, "shrinkage": 1.0}
    assert (
        run_cli(*args, "--method", "prior", "--strength", 9, "--training-prior", "table").code == 0
    )
    assert read_table(out).meta["settings"]["strength"] == 9.0
    assert read_table(out).meta["settings"]["training_prior"] == "table"


def test_smooth_fused_table_borrows_embeddings(run_cli, table, save_manifest, tmp_path):
    manifest = save_manifest(speaker=list("pppqqqrr"), label=list("AAHHHAHA"))
    fused, out = tmp_path / "vote.csv", tmp_path / "s.csv"
    write_table(
        PredictionTable("vote", EMOTIONS, UTTERANCES, PROBS.argmax(axis=1), probs=PROBS), fused
    )
    args = ("smooth", fused, "--manifest", manifest, "--out", out)
    failed = run_cli(*args)
    assert failed.code == 1
    assert "Table 'vote' has no embeddings, which the space 'embedding' needs" in failed.err
    done = run_cli(*args, "--embeddings", table)
    assert done.code == 0, done.err
    assert "vote-smooth" in done.out
    assert out.read_text().startswith("FileName,EmoClass,prob_A,prob_H\nu0,A,")
    assert run_cli(*args, "--space", "probabilities").code == 0


def test_smooth_labels_only_csv_exits_1(run_cli, save_manifest, tmp_path):
    manifest = save_manifest(speaker=list("pppqqqrr"))
    path = tmp_path / "t.csv"
    path.write_text("FileName,EmoClass\n" + "".join(f"{name},A\n" for name in UTTERANCES))
    result = run_cli(
        "smooth",
        path,
        "--manifest",
        manifest,
        "--space",
        "probabilities",
        "--out",
        tmp_path / "s.csv",
    )
    assert result.code == 1
    assert "Table 't' has no probabilities, which the space 'probabilities' needs" in result.err


def test_smooth_labels_csv_as_manifest_has_no_speakers(run_cli, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("FileName,EmoClass\n" + "".join(f"{name},A\n" for name in UTTERANCES))
    args = ("smooth", path, "--manifest", path, "--out", tmp_path / "s.csv")
    result = run_cli(*args)
    assert result.code == 1
    assert "No speaker is known of the 8 utterances of table 't'" in result.err
    result = run_cli(*args, "--speakers", "estimated")
    assert result.code == 1
    assert "Unknown column of" in result.err
    assert "Known: EmoClass, FileName." in result.err


def test_smooth_wrong_command_line_exits_2(run_cli, table, save_manifest, tmp_path):
    manifest = save_manifest(speaker=list("pppqqqrr"))
    args = ("smooth", table, "--manifest", manifest, "--out", tmp_path / "s.csv")
    for wrong in (
        ("--mix", 2),
        ("--min-utterances", 1),
        ("--k", -1),
        ("--clustering", "dbscan"),
        ("--method", "none"),
        ("--shrinkage", -1),
    ):
        assert run_cli(*args, *wrong).code == 2, wrong
    assert run_cli("smooth", table).code == 2
