"""`import abhinaya`: what the commands do, in a program or a notebook."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from source_tree import ROOT

import abhinaya
from abhinaya.cli import main
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import make_manifest, write_manifest
from abhinaya.errors import BadValueError, MissingFileError, ProblemsError

TRUTH = "AAHHNNSS"
LABELS = {"a": "AAHHNNAA", "b": "AAHANNSA", "c": "HAHAN-SS"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three tables of labels, and a manifest with two speakers."""
    folder = tmp_path_factory.mktemp("tables")
    rows = [
        {"utterance": f"u{idx}", "label": label, "speaker": "pq"[idx % 2]}
        for idx, label in enumerate(TRUTH)
    ]
    write_manifest(make_manifest(rows, MSP_PODCAST, folder), folder / "manifest.parquet")
    for name, labels in LABELS.items():
        lines = [f"u{idx},{label}" for idx, label in enumerate(labels)]
        text = "\n".join(["FileName,EmoClass", *lines, ""]).replace("-", "")
        (folder / f"{name}.csv").write_text(text)
    return folder


def run(*args):
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    assert caught.value.code == 0


def test_import_is_light_and_knows_its_names():
    script = (
        "import abhinaya, sys; print(*dir(abhinaya));"
        "heavy = {'torch', 'pandas', 'pyarrow', 'numpy', 'pydantic'} & set(sys.modules);"
        "print(*heavy, abhinaya.__version__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    names, rest = done.stdout.splitlines()
    assert {"load", "read_manifest", "read_predictions", "vote", "score"} <= set(names.split())
    assert rest == abhinaya.__version__
    with pytest.raises(AttributeError, match="has no attribute 'scores'"):
        _ = abhinaya.scores


def test_type_checkers_see_what_is_there():
    stub = ast.parse((ROOT / "abhinaya" / "__init__.pyi").read_text())
    told = {
        alias.asname: node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(told) == set(abhinaya.__all__) - {"__version__"}
    for name, module in told.items():
        assert getattr(abhinaya, name) is getattr(sys.modules[module], name)


def test_vote_is_that_of_the_command(files, tmp_path):
    tables = [files / f"{name}.csv" for name in LABELS]
    ours = abhinaya.vote([str(tables[0]), *tables[1:]], tiebreaker="b")
    run("vote", *tables, "--tiebreaker", "b", "--out", tmp_path / "vote.parquet")
    theirs = abhinaya.read_predictions(str(tmp_path / "vote.parquet"))
    # u0 A A H; u3 H A A; u5 N N and an abstention; u7 A A S.
    assert "".join(ours.to_frame()["label"]) == "AAHANNSA"
    assert ours.to_frame().equals(theirs.to_frame())
    # Tables in memory vote as their files do.
    read = [abhinaya.load_predictions(table) for table in tables]
    assert abhinaya.vote(read, tiebreaker="b").to_frame().equals(theirs.to_frame())


def test_options_are_those_of_the_command_and_are_checked(files):
    shown = inspect.signature(abhinaya.vote).parameters
    assert shown["tiebreaker"].default == ()
    assert "Table that settles ties" in abhinaya.vote.__doc__
    with pytest.raises(ProblemsError, match=r"tiebraker is unknown, did you mean tiebreaker"):
        abhinaya.vote([files / "a.csv"], tiebraker="a")


def test_score_is_that_of_the_command(files, capsys):
    ours = abhinaya.score([files / "a.csv", files / "b.csv"], files / "manifest.parquet")
    run(
        "score",
        files / "a.csv",
        files / "b.csv",
        "--manifest",
        files / "manifest.parquet",
        "--json",
    )
    theirs = {one["table"]: one for one in json.loads(capsys.readouterr().out)["tables"]}
    frame = ours.to_frame()
    assert frame.loc["a", "macro_f1"] == theirs["a"]["macro_f1"]
    assert [frame.loc["b", "low"], frame.loc["b", "high"]] == theirs["b"]["interval"]
    assert ours["confusion"].loc[("a", "S"), "A"] == 2
    assert ours["classes"].loc[("a", "H"), "f1"] == 1
    assert any("each counts as 0" in note for note in ours.notes)
    assert "macro_f1" in repr(ours)
    assert "each counts as 0" in repr(ours)
    assert "<table" in ours._repr_html_()


def test_score_takes_one_table_and_a_manifest_in_memory(files):
    manifest = abhinaya.read_manifest(files / "manifest.parquet")
    table = abhinaya.vote([files / "a.csv", files / "b.csv"])
    found = abhinaya.score(table, manifest, by_speaker=True, resamples=10)
    # a and b differ in u3 and u6, where a decides: six of eight are right.
    assert found.to_frame().loc["vote", "accuracy"] == 0.75
    assert "8 utterances of A C D F H N S U" in repr(manifest)
    assert "vote: 8 predictions" in repr(table)


def test_compare_is_that_of_the_command(files, capsys):
    tables = [files / "a.csv", files / "c.csv"]
    ours = abhinaya.compare(tables, files / "manifest.parquet", resamples=100)
    run("compare", *tables, "--manifest", files / "manifest.parquet", "--resamples", 100, "--json")
    (theirs,) = json.loads(capsys.readouterr().out)["comparisons"]
    row = ours.to_frame().loc[("c", "a", "macro_f1")]
    assert row["value"] == theirs["macro_f1"]["value"]
    assert [row["low"], row["high"]] == theirs["macro_f1"]["interval"]
    assert row["p"] == theirs["macro_f1"]["p"]


def test_smooth_is_that_of_the_command(files, tmp_path):
    probs = np.random.default_rng(0).dirichlet(np.ones(8), size=8).astype(np.float32)
    table = abhinaya.PredictionTable(
        "m", MSP_PODCAST, [f"u{idx}" for idx in range(8)], probs.argmax(1), probs=probs
    )
    from abhinaya.data.predictions import write_table

    write_table(table, tmp_path / "m.parquet")
    manifest = files / "manifest.parquet"
    options = {"space": "probabilities", "jobs": 1}
    ours = abhinaya.smooth(table, manifest, **options)
    run(
        *("smooth", tmp_path / "m.parquet", "--manifest", manifest),
        *("--space", "probabilities", "--jobs", 1, "--out", tmp_path / "s.parquet"),
    )
    theirs = abhinaya.read_predictions(tmp_path / "s.parquet")
    assert ours.name == "m-smooth"
    assert ours.to_frame().equals(theirs.to_frame())


def test_tables_in_memory_must_have_one_class_order(files):
    from abhinaya.data.labels import EmotionSet
    from abhinaya.errors import ClassOrderError

    other = abhinaya.PredictionTable("o", EmotionSet.from_codes(["x", "y"]), ["u0"], np.array([0]))
    mine = abhinaya.read_predictions(files / "a.csv")
    with pytest.raises(ClassOrderError):
        abhinaya.vote([mine, other])


@pytest.fixture(scope="module")
def clips(corpus: Path) -> list[Path]:
    return sorted(corpus.glob("*.wav"))


def test_a_run_labels_files_folders_and_arrays_alike(make_run, clips, corpus, monkeypatch):
    run = abhinaya.load(make_run())
    assert list(run.classes) == list("ACDFHNSU")
    assert run.classes["A"] == "angry"
    assert "A angry, C contempt" in repr(run)
    assert str(run.source) in repr(run)
    whole = run.predict(corpus)
    assert len(whole) == 10
    from abhinaya.inference import predict

    # The model stays loaded.
    monkeypatch.setattr(predict, "load_weights", lambda *_: pytest.fail("loaded again"))
    two = run.predict(clips[:2])
    assert list(two.utterances) == ["n0.wav", "n1.wav"]
    np.testing.assert_allclose(two.probs, whole.probs[:2], atol=1e-6)
    samples, rate = soundfile.read(clips[3], dtype="float32")
    one = run.predict(samples, sample_rate=rate)
    np.testing.assert_allclose(one.probs, whole.probs[3:4], atol=1e-6)
    stereo = np.stack([samples, samples], axis=1)
    mixed = run.predict([stereo, str(clips[3])], sample_rate=rate)
    np.testing.assert_allclose(mixed.probs, whole.probs[[3, 3]], atol=1e-6)
    assert mixed.to_frame().loc["n3.wav", "prob_A"] == mixed.probs[1, 0]


def test_a_run_works_while_an_event_loop_runs(make_run, clips):
    async def cell():
        return abhinaya.load(make_run()).predict(str(clips[0]))

    assert len(asyncio.run(cell())) == 1


def test_wrong_recordings_are_explained(make_run, tmp_path):
    with pytest.raises(MissingFileError, match="There is no config"):
        abhinaya.load(tmp_path / "none")
    run = abhinaya.load(make_run())
    samples = np.zeros(16_000, dtype=np.float32)
    for given, options, message in (
        ([], {}, "No recordings were given"),
        (samples, {}, r"does not say its sample rate. Pass it, such as sample_rate=16000"),
        (samples[None], {"sample_rate": 16_000}, r"shape \(1, 16000\), expected \(S,\) or"),
        (samples.astype(bool), {"sample_rate": 16_000}, "The samples are bool, expected floats"),
        ([3], {}, "3 is no recording, expected a file's path"),
        ("no.wav", {}, "These recordings are not there: 'no.wav'"),
    ):
        with pytest.raises((BadValueError, MissingFileError), match=message):
            run.predict(given, **options)
