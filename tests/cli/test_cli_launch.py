"""`launch` of a chain: what the plan says of it, what is submitted, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import fake_slurm
import pytest
import yaml

from abhinaya.files import sole_writer
from abhinaya.resources import configs_dir

CHAIN = {
    "name": "tiny",
    "out": "out",
    "prepare": {"corpus": "msp-podcast", "source": "release", "out": "out/corpus"},
    "members": {
        "wave": {"config": "demo/wavlm.yaml"},
        "other": {"config": "demo/wavlm.yaml", "set": {"seed": 2}},
        "asked": {"config": "demo/llama-zero-shot.yaml", "set": {"engine": "openai"}},
    },
    "predict": {"test": "test3"},
    "vote": {"tiebreaker": ["wave"]},
}
JOBS = "launch={default: {launcher: slurm, slurm: {time: 60, partition: gpu, account: me}}}"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with a chain that has not run, on a machine without devices."""
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump(CHAIN, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    # Weights and corpus are not there, and no step looks for them.
    monkeypatch.setattr("abhinaya.pipeline.run.check_ready", lambda *_: None, raising=False)
    return tmp_path


def planned(run_cli, *overrides):
    """Step -> launcher, devices and steps before it."""
    result = run_cli("run", "chain.yaml", "--plan", "--json", *overrides)
    assert result.code == 0, result.err
    rows = json.loads(result.out)
    return {row["step"]: (row["launcher"], row["devices"], row["after"]) for row in rows}


def test_plan_says_how_and_where_and_after_what_each_step_is_started(run_cli, folder, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    launch = "{default: accelerate, steps: {train:other: {num_processes: 2}, predict: here}}"
    assert planned(run_cli, f"launch={launch}") == {
        "prepare": ("here", "0", ""),
        "train:wave": ("accelerate, 4 processes", "4", "prepare"),
        "train:other": ("accelerate, 2 processes", "2", "prepare"),
        "predict:test:wave": ("here", "1", "prepare, train:wave"),
        "predict:test:other": ("here", "1", "prepare, train:other"),
        "predict:test:asked": ("here", "0", "prepare"),
        "vote:test": (
            "here",
            "0",
            "predict:test:wave, predict:test:other, predict:test:asked",
        ),
    }
    text = run_cli("run", "chain.yaml", "--plan", f"launch={launch}").out.splitlines()
    assert text[1].split() == ["step", "status", "launcher", "devices", "after", "needs", "makes"]


@pytest.mark.parametrize("how", ["gpus=8", "launch={default: {launcher: accelerate}}"])
def test_member_that_asks_a_server_is_one_process(run_cli, folder, monkeypatch, how):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    plan = planned(run_cli, how)
    assert plan["predict:test:wave"][0] == "accelerate, 8 processes"
    assert plan["predict:test:asked"][:2] == ("here, one process, which asks a server", "0")


def test_job_has_a_process_for_each_gpu_that_it_asks_for(run_cli, folder, monkeypatch, tmp_path):
    fake_slurm.install(monkeypatch, tmp_path / "slurm")
    gpus = "steps: {train: {config_file: accelerate/fsdp2.yaml, slurm: {gpus_per_node: a100:4}}}"
    plan = planned(run_cli, JOBS[:-1] + f", {gpus}}}")
    launcher, devices, after = plan["train:wave"]
    assert launcher.startswith("slurm, 4 processes, ")
    assert launcher.endswith("configs/accelerate/fsdp2.yaml")
    assert (devices, after) == ("4", "prepare")
    assert plan["vote:test"][0] == "slurm"


@pytest.mark.parametrize(
    ("name", "step", "launcher", "devices"),
    [
        ("abhinaya", "train:salmonn-13b", r"slurm, 8 processes, .*/accelerate/fsdp2\.yaml", "8"),
        (
            "abhinaya",
            "predict:test:llama-70b-zero-shot",
            "slurm, one process, which asks a .*",
            "0",
        ),
        ("abhinaya", "vote:test", "slurm", "0"),
        ("msp-podcast", "train:wavlm", "accelerate, 4 processes", "4"),
        ("msp-podcast", "predict:test:wavlm", "here", "1"),
    ],
)
def test_launch_that_a_shipped_chain_suggests_works(
    run_cli, folder, monkeypatch, tmp_path, name, step, launcher, devices
):
    fake_slurm.install(monkeypatch, tmp_path / "slurm")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    lines = (configs_dir() / "ensemble" / f"{name}.yaml").read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("# launch:"))
    with_launch = [*lines[:at], *(line.removeprefix("# ") for line in lines[at:])]
    Path("chain.yaml").write_text("\n".join(with_launch))
    plan = planned(run_cli, "prepare.source=corpus", "set.base=weights")
    assert re.fullmatch(launcher, plan[step][0])
    assert plan[step][1] == devices


def test_detached_jobs_are_arrays_that_wait_for_those_they_need(
    run_cli, folder, monkeypatch, tmp_path
):
    slurm = tmp_path / "slurm"
    fake_slurm.install(monkeypatch, slurm, hold=True)
    # Without text there is nothing to check before the corpus is there.
    fewer = ["members.asked.config=demo/wavlm.yaml", "members.asked.set={seed: 3}"]
    result = run_cli("run", "chain.yaml", *fewer, JOBS, "--detach")
    assert result.code == 0, result.err
    assert result.out.startswith("8 jobs are left to the cluster")
    prepare, train, wave, other, asked, vote = fake_slurm.scripts(slurm)
    for script in (prepare, train, wave, other, asked, vote):
        assert script["partition"] == "gpu"
        assert (script["account"], script["time"]) == ("me", "60")
        assert script.get("kill-on-invalid-dep") == ("yes" if "dependency" in script else None)
    assert (prepare["job-name"], prepare.get("dependency")) == ("prepare", None)
    assert (train["job-name"], train["dependency"]) == ("train", "afterok:1")
    assert train["array"] == "0-2%3"
    assert [one["dependency"] for one in (wave, other, asked)] == [
        "afterok:1:2_0",
        "afterok:1:2_1",
        "afterok:1:2_2",
    ]
    assert vote["dependency"] == "afterok:3:4:5"
    # A second run would wait for them; one with other settings must not mix with them.
    again = run_cli("run", "chain.yaml", *fewer, JOBS, "--detach")
    assert again.out.startswith("8 jobs are left to the cluster")
    assert len(fake_slurm.scripts(slurm)) == 6
    other = run_cli("run", "chain.yaml", *fewer, JOBS, "members.wave.set.seed=9", "--detach")
    assert other.code == 1
    assert "Jobs of a run with other settings or steps are still there: 'prepare'" in other.err
    assert "or end them: scancel 1 2_0 2_1 2_2 3 4 5 6." in other.err


def test_second_run_is_refused_and_a_step_of_the_first_is_not(run_cli, folder, monkeypatch):
    with sole_writer(folder / "out" / ".steps", "out"):
        assert "is being written by" in run_cli("run", "chain.yaml", "launch={parallel: 2}").err
        monkeypatch.setenv("ABHINAYA_STEP", "vote:test")
        result = run_cli("run", "chain.yaml", "--only", "vote:test")
        assert "The step 'vote:test' needs 'out/tables/test/wave.parquet'" in result.err
        with sole_writer(folder / "out" / ".steps" / "vote.test.json", "out"):
            result = run_cli("run", "chain.yaml", "--only", "vote:test")
            assert "vote.test.json' is being written by" in result.err


@pytest.mark.parametrize(
    ("launch", "said"),
    [
        (
            "{default: accelerat}",
            "launch.default.launcher: there is no launcher 'accelerat', expected here, "
            "accelerate, slurm. Did you mean 'accelerate'?",
        ),
        ("{steps: {trian: here}}", "Unknown step in launch.steps 'trian'. Did you mean 'train'?"),
        ("{deflt: here}", "launch.deflt is unknown, did you mean launch.default?"),
        (
            "{default: {launcher: here, config_file: accelerate/fsdp2.yaml}}",
            "config_file has no effect with the launcher 'here'; remove one of the two",
        ),
        (
            "{default: {launcher: accelerate, config_file: accelerate/fsdp3.yaml}}",
            "There is no config 'accelerate/fsdp3.yaml'. Did you mean 'accelerate/fsdp2.yaml'?",
        ),
        (
            "{default: {launcher: accelerate, config_file: accelerate/fsdp2.yaml}}",
            "shares a model among GPUs with FSDP, but this machine has none.",
        ),
        (
            "{default: {launcher: accelerate, config_file: accelerate/two-nodes.yaml}}",
            "is for 2 machines, but the step 'train:wave' is started on 1. Choose another file, "
            "or the launcher slurm with slurm.nodes=2.",
        ),
        (
            "{default: {launcher: accelerate, num_processes: 4}}",
            "The step 'train:wave' takes 4 devices, but there are none. Lower its num_processes",
        ),
        ("{devices: 9}", "launch.devices is 9, but this machine has none. Lower it, or leave it"),
        (
            "{default: slurm}",
            "The job of the step 'prepare' has slurm.time None. Say in launch how many minutes",
        ),
        (
            "{default: {launcher: slurm, slurm: {partitin: gpu}}}",
            "Unknown SLURM parameter of the step 'prepare' 'partitin'. Did you mean 'partition'?",
        ),
        (
            "{default: {launcher: slurm, slurm: {time: 60}}}",
            "launch.executor is 'slurm', but this machine has no sbatch. Run it where jobs are",
        ),
    ],
)
def test_wrong_launch_exits_1_with_one_line(run_cli, folder, launch, said):
    result = run_cli("run", "chain.yaml", f"launch={launch}")
    assert result.code == 1
    assert said in result.err
    assert len(result.err.splitlines()) == 1
    assert not Path("out").exists()


def test_missing_submitit_exits_1_with_the_extra_that_brings_it(run_cli, folder, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "submitit" else find(name)
    )
    result = run_cli("run", "chain.yaml", "launch={default: slurm, executor: local}")
    assert result.code == 1
    assert result.err == (
        "Error: The launcher 'slurm' needs the package submitit. Install it with: pip install "
        "'abhinaya[cluster]'.\n"
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["launch={parallel: 2}"], "--detach leaves jobs to a cluster, but launch makes no step"),
        (
            [JOBS[:-1] + ", steps: {vote: here}}"],
            "--detach cannot leave 'vote:test', which is started here, after the job "
            "'predict:test:wave'. Set launch.steps.vote to slurm, or run without --detach.",
        ),
    ],
)
def test_chain_that_cannot_be_detached_exits_1(
    run_cli, folder, monkeypatch, tmp_path, overrides, said
):
    fake_slurm.install(monkeypatch, tmp_path / "slurm", hold=True)
    fewer = ["members.asked.config=demo/wavlm.yaml", "members.asked.set={seed: 3}"]
    result = run_cli("run", "chain.yaml", *fewer, *overrides, "--detach")
    assert result.code == 1
    assert said in result.err
    assert not Path("out/.steps/jobs.json").exists()
