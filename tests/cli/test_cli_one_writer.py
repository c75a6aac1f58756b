"""Whatever is written has one writer: a second command is refused before it computes."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from abhinaya.cli import COMMANDS
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import make_manifest, write_manifest
from abhinaya.files import sole_writer

# What they read is not there: they are refused before they look.
WRITING = {
    "prepare": ("emodb source", "--out", "out"),
    "vote": ("a.csv", "--out", "out.csv"),
    "apply": ("recipe.json a.csv", "--out", "out.csv"),
    "fit": ("weights a.csv --manifest m.csv", "--out", "out.json"),
    "fit out of fold": ("weights a.csv --manifest m.csv --out o.json", "--out-of-fold", "out.csv"),
    "smooth": ("a.csv --manifest m.csv", "--out", "out.csv"),
    "ablate-recipe": ("member.yaml --switch a", "--out", "out"),
    "ablate": ("a.csv --manifest m.csv", "--out", "out.parquet"),
    "soup": ("run-1 run-2", "--out", "out"),
    "submit": ("a.csv", "--out", "out.csv"),
    "convert": ("a.csv", "--out", "out.csv"),
    "export": ("run", "--out", "out"),
    "export-dataset": ("m.parquet", "--out", "out"),
    "relabel": ("m.parquet --classes 4", "--out", "out"),
    "preview": (
        "members/wavlm.yaml a.wav data.manifest=m audio.augment.gain.probability=1 "
        "audio.augment.gain.range=[1,2]",
        "--out",
        "out",
    ),
    "report": ("a.csv --manifest m.parquet", "--out", "out.html"),
    "speakers": ("m.csv --model voices --n-speakers 2", "--out", "out.parquet"),
}
# These have tests of their own, beside what they compute: run, train, predict, prompts run,
# cross-validate, audit. Of sweep several may run on one folder: each of its trials has one writer.
ELSEWHERE = {"run", "train", "predict", "prompts", "cross-validate", "sweep", "audit"}
READING = {"app", "score", "score-asr", "compare", "doctor"}


@pytest.mark.parametrize("name", WRITING)
def test_second_writer_is_refused_before_it_reads(run_cli, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    arguments, option, out = WRITING[name]
    with sole_writer(tmp_path / out, option):
        result = run_cli(name.split()[0], *arguments.split(), option, out)
    assert result.code == 1
    assert f"{out!r} is being written by process " in result.err
    assert f"choose another {option}." in result.err
    # Now it gets as far as to miss its input, and leaves nothing behind.
    result = run_cli(name.split()[0], *arguments.split(), option, out)
    assert "being written" not in result.err
    assert result.code in (1, 2)
    assert not list(tmp_path.iterdir())


def test_second_transcription_of_one_source_is_refused(run_cli, tmp_path):
    row = {"utterance": "a.wav", "audio": "a.wav", "split": "train"}
    write_manifest(make_manifest([row], MSP_PODCAST, tmp_path), tmp_path / "m.parquet")
    command = ("transcribe", tmp_path / "m.parquet", "--model", tmp_path / "tiny.pt")
    with sole_writer(tmp_path / "transcripts.tiny.problems.csv", "--source"):
        result = run_cli(*command, "--source", "tiny")
        other = run_cli(*command, "--source", "other")
    assert result.code == other.code == 1
    assert "is being written by process " in result.err
    assert "choose another --source." in result.err
    assert "is being written" not in other.err  # it misses the model's file


def test_every_command_that_writes_is_tried_here():
    tried = {name.split()[0] for name in WRITING} | {"transcribe"}
    assert tried | ELSEWHERE | READING == set(COMMANDS)


def test_lock_ends_with_its_process_though_its_readers_live_on(tmp_path):
    """Processes that read audio noticed a killed parent seconds later, and held its lock."""
    script = textwrap.dedent("""
        import os, signal, sys, time
        from pathlib import Path
        from abhinaya.files import sole_writer

        with sole_writer(Path(sys.argv[1]), "--out"):
            if (child := os.fork()) == 0:
                os.close(1)
                time.sleep(60)
                os._exit(0)
            print(child, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    out = tmp_path / "table.parquet"
    done = subprocess.run(
        [sys.executable, "-c", script, str(out)], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode < 0
    assert (tmp_path / ".table.parquet.lock").exists()
    with sole_writer(out, "--out"):
        pass
    assert not (tmp_path / ".table.parquet.lock").exists()
    subprocess.run(["kill", done.stdout.strip()], check=True)
