"""docs/python.md and docs/notebook.ipynb are tried from their own text."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import soundfile
from source_tree import ROOT

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import make_manifest, write_manifest
from abhinaya.data.predictions import PredictionTable, write_table


def test_every_snippet_of_the_page_works(make_run, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(make_run(), "runs/wavlm")
    shutil.copy(corpus / "n0.wav", "interview.wav")
    shutil.copytree(corpus, "calls")
    utterances = [f"u{idx}" for idx in range(12)]
    rows = [
        {"utterance": name, "label": "ACDFHNSU"[idx % 8], "speaker": "pqr"[idx % 3]}
        for idx, name in enumerate(utterances)
    ]
    write_manifest(make_manifest(rows, MSP_PODCAST, tmp_path), tmp_path / "manifest.parquet")
    for seed, name in enumerate(("a.parquet", "b.parquet", "c.csv")):
        probs = np.random.default_rng(seed).dirichlet(np.ones(8), size=12).astype(np.float32)
        table = PredictionTable(name[0], MSP_PODCAST, utterances, probs.argmax(1), probs=probs)
        write_table(table, tmp_path / name)

    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    snippets = re.findall(r"(?ms)^```python\n(.*?)```", page)
    assert len(snippets) == 4
    samples, _ = soundfile.read(corpus / "n3.wav", dtype="float32")
    names: dict[str, object] = {"samples": samples}
    for snippet in snippets:
        exec(snippet, names)
    (change,) = re.findall(r"`(abhinaya\.load\(.*?\))`", page)
    exec(change, names)
    assert names["table"].probs.shape == (1, 8)
    assert names["scores"].to_frame().index.tolist() == ["a", "vote"]
    assert names["differences"].to_frame().index[0] == ("vote", "a", "macro_f1")
    assert names["smoothed"].name == "vote-smooth"


def outputs_of(notebook):
    """The text of what each cell of a notebook shows."""
    return [
        output.get("data", {}).get("text/plain", output.get("text", ""))
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    ]


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_is_saved_in_it(monkeypatch, tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    saved = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    shown = outputs_of(saved)
    assert len(shown) == 8
    fresh = nbformat.from_dict({**saved, "cells": saved.cells})
    nbclient.NotebookClient(
        fresh, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    # Numbers may differ from machine to machine; names, shapes and the run itself do not.
    masked = [re.sub(r"[-\d.]+|\s+|[A-Z]\b", "", text) for text in outputs_of(fresh)]
    assert masked == [re.sub(r"[-\d.]+|\s+|[A-Z]\b", "", text) for text in shown]
