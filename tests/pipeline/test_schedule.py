"""When steps begin, on which devices, and what is said when they fail; the steps are stand-ins."""

from __future__ import annotations

import subprocess
from pathlib import Path

import fake_slurm
import pytest
import yaml

from abhinaya.errors import BadValueError
from abhinaya.pipeline.config import load_pipeline
from abhinaya.pipeline.launching import launch
from abhinaya.pipeline.launching.config import STEP_VARIABLE, Start
from abhinaya.pipeline.launching.launch import ChildStep, StepError
from abhinaya.pipeline.run import run_pipeline
from abhinaya.stopping.interruptions import Interruption

CHAIN = {
    "name": "tiny",
    "out": "out",
    "prepare": {"corpus": "msp-podcast", "source": "release", "out": "out/corpus"},
    "members": {
        name: {"config": "demo/wavlm.yaml", "set": {"seed": seed}}
        for seed, name in enumerate(("one", "two", "three"))
    },
    "predict": {"test": "test3"},
}
CODES = {"killed": -9, "interrupted": 143, "failed": 1}


class Stand:
    """A process that lives for a few looks at it, unless it is stopped."""

    def __init__(self, name, events, code, looks):
        self.name, self.events, self.code, self.looks = name, events, code, looks
        self.pid = 2**22 + 1  # nobody's
        self.returncode = None

    def poll(self):
        self.looks -= 1
        if self.looks < 0 and self.returncode is None:
            self.returncode = self.code
            self.events.append(f"end {self.name}")
        return self.returncode

    def terminate(self):
        self.events.append(f"stop {self.name}")
        self.code, self.looks = 143, 1

    def wait(self):
        return self.poll()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that runs the chain with stand-ins and gives what happened, in order."""
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump(CHAIN, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("abhinaya.pipeline.schedule._POLL_S", 0.001)
    # Weights and corpus are not there, and no step looks for them.
    monkeypatch.setattr("abhinaya.pipeline.run.check_ready", lambda *_: None, raising=False)
    events = []

    def run(block, codes=None, looks=None, on_begin=lambda name: None, **options):
        def start(child, devices=None):
            events.append(f"begin {child.name}" + (f" on {devices}" if devices else ""))
            on_begin(child.name)
            code = CODES.get((codes or {}).get(child.name), 0)
            return Stand(child.name, events, code, (looks or {}).get(child.name, 2))

        monkeypatch.setattr(ChildStep, "start", start)
        run_pipeline(
            load_pipeline("chain.yaml", [f"launch={block}"]), lambda report: None, **options
        )

    run.events = events
    return run


def test_steps_wait_for_devices_and_see_only_their_own(run, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    block = "{steps: {train: {launcher: accelerate, num_processes: 2}, train:two: here}}"
    run(block, looks={"train:one": 2, "train:two": 9})
    assert run.events[2:6] == [
        "begin train:one on ['4', '5']",
        "begin train:two on ['7']",
        "end train:one",
        "begin train:three on ['4', '5']",
    ]
    assert run.events[-1] == "end vote:test"


def test_no_more_steps_run_at_once_than_asked_for(run):
    run("{parallel: 2}")
    running = most = 0
    for event in run.events:
        running += {"begin": 1, "end": -1}[event.split()[0]]
        most = max(most, running)
    assert most == 2
    assert len(run.events) == 2 * 8


def test_failures_are_told_together_with_what_was_not_begun(run):
    codes = {"train:one": "failed", "predict:test:two": "killed"}

    def log(name):
        path = Path(f"out/logs/{name.replace(':', '.')}.log")
        path.parent.mkdir(parents=True, exist_ok=True)
        old = "# abhinaya run\nError: It is old.\n# abhinaya run\n"
        path.write_text(old + ("Error: The disk is full.\n" if name == "train:one" else ""))

    with pytest.raises(StepError) as caught:
        run("{parallel: 3}", codes, on_begin=log)
    assert str(caught.value) == (
        "train:one failed (out/logs/train.one.log: The disk is full), predict:test:two was "
        "interrupted (out/logs/predict.test.two.log). Not begun: predict:test:one, vote:test. "
        "Correct it and run again: finished steps are not repeated."
    )
    assert "end predict:test:three" in run.events


def test_interrupted_step_is_no_failure(run, caplog):
    caplog.set_level("INFO")
    with pytest.raises(Interruption, match=r"train:two was interrupted .*Run the same command"):
        run("{parallel: 3}", {"train:two": "interrupted"})
    assert "Not begun: predict:test:two, vote:test." in caplog.text


@pytest.mark.parametrize("signal", [KeyboardInterrupt, Interruption])
def test_signal_stops_every_step_and_waits_for_it(run, signal):
    def interrupt(name):
        if name == "train:three":
            raise signal

    with pytest.raises(signal):
        run("{parallel: 3}", looks={"train:one": 10**6, "train:two": 10**6}, on_begin=interrupt)
    assert run.events[-4:] == ["stop train:one", "stop train:two", "end train:one", "end train:two"]


def test_debug_jobs_run_in_this_process(run):
    block = "{default: slurm, executor: debug}"
    with pytest.raises(StepError, match=r"train:two failed .*Not begun: predict:test:two, vote"):
        run(block, {"train:two": "failed"})
    order = [event.removeprefix("end ") for event in run.events if event.startswith("end")]
    assert order[0] == "prepare"
    assert set(order[4:]) == {"predict:test:one", "predict:test:three"}


def test_step_that_does_not_stop_in_time_is_killed():
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True)"
    )
    process = subprocess.Popen(
        ["python3", "-c", f"{script}; time.sleep(60)"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    process.stdout.readline()
    launch.stop([process], 0.2)
    assert process.returncode == -9


def test_unreadable_note_of_jobs_is_told(run, monkeypatch, tmp_path):
    fake_slurm.install(monkeypatch, tmp_path / "slurm", hold=True)
    Path("out/.steps").mkdir(parents=True)
    Path("out/.steps/jobs.json").write_text("[")
    with pytest.raises(BadValueError, match=r"jobs\.json"):
        run("{default: {launcher: slurm, slurm: {time: 9}}}")


@pytest.mark.parametrize("node", ["0", "1"])
def test_machines_of_one_job_start_alike_and_the_first_one_goes_on(monkeypatch, node):
    job = {
        "SUBMITIT_EXECUTOR": "slurm",
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "node[07-08]",
        "SLURM_NODEID": node,
        STEP_VARIABLE: "train:one",
    }
    for key, value in job.items():
        monkeypatch.setenv(key, value)
    commands = []
    monkeypatch.setattr(launch, "run_and_pass_on", lambda command: commands.append(command))
    start = Start("slurm", n_processes=16, n_machines=2, n_devices=8)
    if node == "0":
        launch.launch(start, ["train", "x.yaml"])
    else:
        with pytest.raises(SystemExit) as ended:
            launch.launch(start, ["train", "x.yaml"])
        assert ended.value.code == 0
    (command,) = commands
    assert " ".join(command[3:]) == (
        f"--num_processes 16 --machine_rank {node} --main_process_ip node07 --main_process_port "
        "23456 --num_machines 2 --mixed_precision no --dynamo_backend no --multi_gpu "
        "-m abhinaya train x.yaml"
    )


def test_other_machines_of_a_job_leave_a_step_of_one_process_alone(run, monkeypatch):
    monkeypatch.setenv("SLURM_NODEID", "1")
    monkeypatch.setenv(STEP_VARIABLE, "vote:test")
    pipeline = load_pipeline("chain.yaml")
    run_pipeline(pipeline, lambda report: None, only=["vote:test"])  # its tables are not there
    assert not Path("out").exists()


def test_refusal_of_sbatch_stops_what_has_begun(run, monkeypatch, tmp_path):
    fake_slurm.install(monkeypatch, tmp_path / "slurm")
    sbatch = tmp_path / "slurm" / "bin" / "sbatch"
    sbatch.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition: gpus' >&2; exit 1\n")
    jobs = "{launcher: slurm, slurm: {time: 9, partition: gpus}}"
    with pytest.raises(StepError, match=r"^'train:two' could not be submitted: .*partition: gpus"):
        run(f"{{parallel: 3, steps: {{train:two: {jobs}}}}}", looks={"train:one": 10**6})
    assert {"stop train:one", "end train:one"} <= set(run.events)


def test_failure_before_the_jobs_is_told_with_detach_too(run, monkeypatch, tmp_path):
    fake_slurm.install(monkeypatch, tmp_path / "slurm", hold=True)
    block = "{default: {launcher: slurm, slurm: {time: 9}}, steps: {prepare: here}}"
    with pytest.raises(StepError, match=r"^prepare failed .*Not begun: train:one, train:two"):
        run(block, {"prepare": "failed"}, detach=True)
    assert fake_slurm.scripts(tmp_path / "slurm") == []
