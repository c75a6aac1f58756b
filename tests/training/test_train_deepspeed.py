"""Two processes under DeepSpeed train what one does without; `make test-deepspeed` installs it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from still_members import CHECKPOINTS, cut, largest_difference, losses

from abhinaya.config import dump_yaml
from abhinaya.data.manifest import Manifest
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.registry import load_member

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None,
        reason="deepspeed is not installed; make test-deepspeed does that, in .venv-deepspeed",
    ),
]

# By recipe; the last one in bf16.
MEMBERS = ("wavlm", "salmonn-13b", "llama-8b-lora", "llama-8b-lora-bare")
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Runs:
    """What was trained of each member: with one process, and with two under DeepSpeed.

    Args:
        stage: of ZeRO.
        configs: of the runs of one process.
        folder: the runs of two, by the member's name.
    """

    stage: int
    configs: dict[str, ClassifierConfig]
    folder: Path


def launch(
    stage: int, configs: dict[Path, ClassifierConfig], n_processes: int = 2
) -> subprocess.CompletedProcess[str]:
    """Train into these run directories."""
    words: list[str] = []
    for run_dir, config in configs.items():
        file = run_dir.with_suffix(".yaml")
        file.write_text(dump_yaml(config.model_copy(update={"run_dir": run_dir})))
        words += ["train", str(file), "--json", "then"]
    launcher = ["-m", "accelerate.commands.launch", f"--num_processes={n_processes}"]
    launcher += [f"--config_file={ROOT / 'configs' / 'accelerate' / f'zero{stage}.yaml'}"]
    script = ROOT / "tests" / "helpers" / "deepspeed_on_cpu.py"
    return subprocess.run(
        [sys.executable, *launcher, str(script), *words[:-1]],
        env={**os.environ, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def alone(configs: dict[str, ClassifierConfig], manifest: Manifest) -> dict[str, Path]:
    """The run of one process of each member."""
    return {
        member: load_member(configs[member].member).train(configs[member], manifest)
        for member in MEMBERS
    }


@pytest.fixture(scope="module", params=[2, 3])
def runs(
    request: pytest.FixtureRequest,
    configs: dict[str, ClassifierConfig],
    tmp_path_factory: pytest.TempPathFactory,
) -> Runs:
    folder = tmp_path_factory.mktemp(f"zero{request.param}")
    done = launch(request.param, {folder / member: configs[member] for member in MEMBERS})
    assert done.returncode == 0, done.stderr
    # Nothing but our own result is on stdout, whatever DeepSpeed has to say.
    assert done.stdout.startswith("[")
    assert done.stdout.count('"run": "tiny"') == len(MEMBERS)
    return Runs(request.param, configs, folder)


@pytest.mark.parametrize("member", MEMBERS)
def test_two_processes_under_deepspeed_train_what_one_does(
    runs: Runs, alone: dict[str, Path], member: str
) -> None:
    ours, theirs = alone[member], runs.folder / member
    # In bf16 the last digit of a float32 decides now and then which way a weight is rounded, and
    # one bit of bf16 is 0.4 %. The first step is still the same.
    noise, largest = (4e-3, 5e-4) if member.endswith("-bare") else (1e-4, 1e-6)
    assert losses(theirs)[0] == pytest.approx(losses(ours)[0], rel=1e-6)
    assert len(losses(ours)) == 6
    assert losses(theirs) == pytest.approx(losses(ours), rel=noise)
    assert losses(theirs, "eval_loss") == pytest.approx(losses(ours, "eval_loss"), rel=noise)
    assert losses(theirs, "eval_macro_f1") == losses(ours, "eval_macro_f1")
    for name in CHECKPOINTS:
        assert largest_difference(theirs / name, ours / name) < largest
    assert {file.name for file in (theirs / "best").rglob("*")} == {
        file.name for file in (ours / "best").rglob("*")
    }


def test_deepspeed_saves_no_frozen_weights(runs: Runs) -> None:
    member = "llama-8b-lora"
    folder = runs.folder / member / "checkpoint-2" / "global_step2"
    for file in folder.glob("*_model_states.pt"):
        state = torch.load(file, weights_only=False)  # DeepSpeed's own, of this very test
        assert not state["frozen_param_shapes"]
        assert not any("embed_tokens" in name for name in state["module"])


def test_deepspeed_goes_on_where_it_was_killed(runs: Runs, tmp_path: Path) -> None:
    cuts = {cut(runs.folder / m, tmp_path / m): runs.configs[m] for m in ("wavlm", "salmonn-13b")}
    done = launch(runs.stage, cuts)
    assert done.returncode == 0, done.stderr
    for run in cuts:
        for name in CHECKPOINTS:
            assert largest_difference(run / name, runs.folder / run.name / name) == 0


def test_deepspeed_does_not_go_on_with_fewer_processes(runs: Runs, tmp_path: Path) -> None:
    member = "llama-8b-lora"
    run = cut(runs.folder / member, tmp_path / member)
    done = launch(runs.stage, {run: runs.configs[member]}, n_processes=1)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if "CheckpointError" in line]
    assert "cannot be resumed" in errors[-1]
    assert "Go on with as many processes and the same ZeRO stage as before" in errors[-1]
