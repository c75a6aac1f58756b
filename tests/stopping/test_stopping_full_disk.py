"""A disk that is full: one line that says so, nothing half written, and the run goes on later."""

from __future__ import annotations

import errno
import resource
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from kills import listing

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.predictions import PredictionTable, write_table
from abhinaya.data.transcripts import write_transcripts
from abhinaya.errors import DiskFullError
from abhinaya.evaluation import submission
from abhinaya.files import atomic_folder, sole_writer, write_csv, write_json, write_text
from members.llama_zero_shot.cache import AnswerStore
from members.llama_zero_shot.engine import Answer

SAID = r"'[^']+' cannot be written: [\d,]+ bytes are free there, or a quota .*same command again"


@contextmanager
def full_after(n_bytes):
    """Let the system refuse what would make a file longer than this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_weights(path):
    with atomic_folder(path) as folder:
        torch.save({"weight": torch.zeros(5_000)}, folder / "optimizer.pt")


def write_safetensors(path):
    from safetensors.torch import save_file

    with atomic_folder(path) as folder:
        save_file({"weight": torch.zeros(5_000)}, folder / "model.safetensors")


def write_predictions(path):
    rng, names = np.random.default_rng(0), tuple(f"{n}.wav" for n in range(500))
    probs = rng.dirichlet(np.ones(8), 500).astype(np.float32)
    write_table(PredictionTable("t", MSP_PODCAST, names, probs.argmax(1), probs=probs), path)


def write_texts(path):
    texts = [np.random.default_rng(n).bytes(9).hex() for n in range(500)]
    rows = [{"utterance": f"{n}.wav", "source": "s", "text": text} for n, text in enumerate(texts)]
    write_transcripts(rows, path)


WRITERS = {
    "text": lambda path: write_text(path, "x" * 9_000),
    "json": lambda path: write_json(path, ["x" * 9_000]),
    "csv": lambda path: write_csv(path, ["x"], [("x" * 9_000,)]),
    "table.parquet": write_predictions,
    "table.csv": write_predictions,
    "transcripts.parquet": write_texts,
    "weights": write_weights,
    "safetensors": write_safetensors,
    "ledger": lambda path: submission._write_ledger(path.parent, [{"note": "x" * 9_000}]),
}


@pytest.mark.parametrize("name", WRITERS)
def test_file_that_finds_no_space_is_one_error_and_not_there(tmp_path, name):
    write = WRITERS[name]
    with full_after(4_096), pytest.raises(DiskFullError, match=SAID) as caught:
        write(tmp_path / name)
    assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / name)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_and_full_quota_are_told_alike(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, "refused")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(DiskFullError, match=SAID):
        write_text(tmp_path / "a.txt", "text")
    monkeypatch.setattr("os.pwrite", refuse)
    with pytest.raises(DiskFullError, match=SAID), sole_writer(tmp_path / "b.txt", "--out"):
        pass


def test_another_refusal_stays_what_it_is(tmp_path):
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path, "text")


def test_answer_that_finds_no_space_is_asked_again(tmp_path):
    store = AnswerStore(tmp_path)
    store.add("a", Answer("sad"))
    with full_after(200), pytest.raises(DiskFullError, match=SAID):
        store.add("b", Answer("happy " * 99))
    store.close()
    again = AnswerStore(tmp_path)
    assert "a" in again
    assert "b" not in again


@pytest.mark.slow
def test_training_that_finds_no_space_keeps_its_last_checkpoint_and_goes_on(
    train, trained, tmp_path, monkeypatch
):
    save, run = torch.save, tmp_path / "run"

    def save_or_refuse(value, path, *args, **kwargs):
        if "checkpoint-10/optimizer" in str(path):
            with full_after(1_000):
                save(value, path, *args, **kwargs)
        save(value, path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save_or_refuse)
        with pytest.raises(DiskFullError, match=rf"checkpoint-10{SAID[5:]}"):
            train(run_dir=run)
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-5"]
    train(run_dir=run)
    undisturbed = trained()
    assert listing(run) == listing(undisturbed)
    ours, theirs = (folder / "best" / "model.safetensors" for folder in (run, undisturbed))
    assert ours.read_bytes() == theirs.read_bytes()
