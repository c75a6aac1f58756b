"""A chain whose steps are processes and jobs of their own ends with the bytes of one in process."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import fake_slurm
import psutil
import pytest
from chain_files import results
from warm_python import warm_python

from abhinaya.pipeline.config import load_pipeline
from abhinaya.pipeline.launching.config import find_start
from abhinaya.pipeline.launching.launch import StepError, freeze
from abhinaya.pipeline.steps import build_steps
from abhinaya.resources import configs_dir

ROOT = configs_dir().parent
LOCAL_JOBS = "launch={default: slurm, executor: local, parallel: 2}"
STEPS = 12


@pytest.fixture
def importable(monkeypatch):
    """Let processes that a step starts find the package of this checkout."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def warm(importable, monkeypatch):
    """Start steps and jobs with all libraries imported already."""
    monkeypatch.setattr(sys, "executable", warm_python())


def begun(caplog):
    """Names of steps in the order in which they began."""
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("schedule")]
    found = [re.match(r"(\S+) (?:is job|has begun)", line) for line in lines]
    return [match[1] for match in found if match]


GATED = [
    "smooth={gate: {selection: development, folds: 2}, embeddings: wavlm}",
    "speakers={n_speakers: 4, model: source/speakers}",
    "with_embedding=true",
    "members.wavlm.set={run_dir: elsewhere, training: {learning_rate: 1e-05}}",
    "launch={default: accelerate, steps: {train: {launcher: slurm, slurm: {time: 9}}}}",
]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("demo/demo.yaml", []),
        ("ensemble/abhinaya.yaml", ["prepare.source=corpus", "set.base=weights"]),
        ("ensemble/msp-podcast.yaml", ["prepare.source=corpus", *GATED]),
    ],
)
def test_chain_as_its_steps_read_it_has_the_same_steps(tmp_path, monkeypatch, name, more):
    monkeypatch.chdir(tmp_path)
    pipeline = load_pipeline(name, more)
    frozen = load_pipeline(freeze(pipeline))
    assert frozen.members == pipeline.members
    seen = [
        [(step.name, step.settings, step.needs, step.makes, step.sources) for step in steps]
        for steps in (build_steps(frozen), build_steps(pipeline))
    ]
    assert seen[0] == seen[1]
    assert len(seen[0]) >= 8
    starts = [[find_start(one, step[0]) for step in seen[0]] for one in (frozen, pipeline)]
    assert starts[0] == starts[1]


@pytest.mark.slow
def test_local_jobs_end_with_the_bytes_of_one_process_and_begin_after_what_they_need(
    fresh, finished_dir, run_chain, warm, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    titles = run_chain(LOCAL_JOBS)
    assert len(titles) == STEPS
    assert f"trained wave: {Path('out/runs/wave/best')}" in titles
    order = begun(caplog)
    assert order[0] == "prepare"
    assert sorted(order[1:3]) == ["train:mel", "train:wave"]
    assert order.index("vote:test") > order.index("predict:test:mel")
    assert order[-1] == "submit" or order.index("submit") > order.index("vote:test")
    logs = {path.name for path in Path("out/logs").glob("*.log")}
    assert len(logs) == STEPS
    assert "macro-F1" in Path("out/logs/train.wave.log").read_text()
    made = results()
    # How a step is started decides nothing: nothing is to do for one process.
    assert run_chain() == []
    monkeypatch.chdir(finished_dir)
    expected = results()
    assert set(made) == set(expected)
    assert [name for name in expected if made[name] != expected[name]] == []


@pytest.mark.slow
def test_failing_step_stops_what_needs_it_alone_and_all_is_told_in_one_line(
    finished, run_chain, warm, caplog
):
    caplog.set_level(logging.INFO)
    for path in [*Path("out/tables").glob("*/vote.parquet"), Path("out/scores-development.json")]:
        path.unlink()
    table = Path("out/tables/test/mel.parquet")
    good = table.read_bytes()
    table.write_bytes(Path("out/tables/test/wave.parquet").read_bytes())
    only = ["vote", "score", "submit"]
    with pytest.raises(StepError) as caught:
        run_chain("launch={parallel: 2}", only=only)
    said = str(caught.value)
    assert re.match(r"vote:test failed \(out/logs/vote\.test\.log: .*wave.*\)\. Not begun: ", said)
    assert re.search(r"Not begun: score:test, submit\. Correct it and run again: finished", said)
    # What does not need the failed step went on beside it.
    assert begun(caplog) == ["vote:development", "vote:test", "score:development"]
    assert Path("out/scores-development.json").is_file()
    table.write_bytes(good)
    titles = run_chain("launch={parallel: 2}", only=only)
    assert titles[0] == "voted on test: out/tables/test/vote.parquet"
    assert sorted(Path("out/.steps").glob("*.report")) == []


@pytest.mark.slow
def test_jobs_of_slurm_are_waited_for_by_the_next_run(
    finished, run_chain, warm, monkeypatch, tmp_path, caplog
):
    caplog.set_level(logging.INFO)
    slurm = tmp_path / "slurm"
    fake_slurm.install(monkeypatch, slurm, first=501)
    before = results()
    for name in ("tables/test/mel.parquet", "tables/test/vote.parquet", "submission.csv"):
        Path("out", name).unlink()
    jobs = "launch={default: {launcher: slurm, slurm: {time: 60}}}"
    (title,) = run_chain(jobs, detach=True)
    assert title == "4 jobs are left to the cluster"
    titles = run_chain(jobs)
    assert titles[0] == "predicted test with mel: out/tables/test/mel.parquet"
    assert len(fake_slurm.scripts(slurm)) == 4
    states = {file.read_text() for file in slurm.glob("*.state")}
    assert states <= {"COMPLETED", "RUNNING"}  # the last one has its result, but not yet ended
    assert results() == before
    assert run_chain() == []
    assert not Path("out/.steps/jobs.json").exists()


@pytest.mark.slow
def test_two_launches_on_one_machine_at_once_do_not_meet(fresh, run_chain, warm):
    run_chain(only=["prepare"])
    file = "{launcher: accelerate, config_file: accelerate/two-cpu-processes.yaml}"
    titles = run_chain(f"launch={{parallel: 2, steps: {{train: {file}}}}}", only=["train"])
    assert sorted(titles) == [f"trained {name}: out/runs/{name}/best" for name in ("mel", "wave")]
    began, ended = zip(*(_times(name) for name in ("train.mel", "train.wave")), strict=True)
    assert max(began) < min(ended)


def _times(name):
    """When a step began, by its log, and when it was done, by its note."""
    first = Path(f"out/logs/{name}.log").read_text().splitlines()[0]
    began = datetime.fromisoformat(first.split()[-1]).timestamp()
    return began, Path(f"out/.steps/{name}.json").stat().st_mtime


def start(*arguments):
    """Start the chain as a user would."""
    return subprocess.Popen(
        [sys.executable, "-m", "abhinaya", "run", "chain.yaml", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_checkpoint(process, after=()):
    """Wait until a training has a checkpoint that was not there before."""
    deadline = time.monotonic() + 300
    while not (found := set(Path("out/runs/wave").glob("checkpoint-*")) - set(after)):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return found


def below(process, command):
    """Processes below one that run a command."""
    return [
        one
        for one in psutil.Process(process.pid).children(recursive=True)
        if command in one.cmdline()
    ]


@pytest.mark.slow
def test_interrupted_run_and_preempted_job_go_on_to_the_same_bytes(
    fresh, write_chain, run_chain, importable, monkeypatch
):
    file = Path("wave.yaml")
    file.write_text(file.read_text().replace("num_train_epochs: 2", "num_train_epochs: 20"))
    longer = file.read_text()
    run_chain(only=["prepare"])
    process = start("launch={parallel: 2}", "--only", "train:wave")
    seen = wait_for_checkpoint(process)
    (step,) = below(process, "abhinaya")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 143
    assert not step.is_running()
    assert not Path("out/runs/wave/best").exists()

    seen |= set(Path("out/runs/wave").glob("checkpoint-*"))
    process = start("launch={default: slurm, executor: local}", "--only", "train:wave")
    wait_for_checkpoint(process, seen)
    (job,) = below(process, "submitit.core._submit")
    job.send_signal(signal.SIGUSR2)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    (log,) = Path("out/logs/jobs").rglob("*.err")
    assert "this job is preempted" in log.read_text()
    made = Path("out/runs/wave/best/model.safetensors").read_bytes()

    undisturbed = fresh.parent / "undisturbed"
    write_chain(undisturbed)
    monkeypatch.chdir(undisturbed)
    file.write_text(longer)
    run_chain(only=["prepare", "train:wave"])
    assert Path("out/runs/wave/best/model.safetensors").read_bytes() == made
