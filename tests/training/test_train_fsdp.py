"""Two processes that share one copy of the weights (FSDP2) train what one process does.

There is no GPU here: `fsdp_on_cpu.py` says what is stood in, and what is the real thing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from still_members import CHECKPOINTS, MEMBERS, cut, largest_difference, losses
from warm_python import warm_python

from abhinaya.config import dump_yaml
from abhinaya.data.manifest import Manifest
from abhinaya.member import PredictRequest
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.registry import load_member

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Runs:
    """What was trained of one member: with one process, and with two that share the weights.

    Args:
        config: of the run of one process.
        shared: the run of two.
        log: what the launch of all members said.
    """

    config: ClassifierConfig
    shared: Path
    log: str

    @property
    def alone(self) -> Path:
        return self.config.run_dir


def launch(configs: dict[Path, ClassifierConfig], python: str | None = None) -> str:
    """Train into these run directories with two processes; return what they said."""
    words: list[str] = []
    for run_dir, config in configs.items():
        file = run_dir.with_suffix(".yaml")
        file.write_text(dump_yaml(config.model_copy(update={"run_dir": run_dir})))
        words += ["train", str(file), "then"]
    launcher = ["-m", "accelerate.commands.launch", "--num_processes=2"]
    launcher += [f"--config_file={ROOT / 'configs' / 'accelerate' / 'fsdp2.yaml'}"]
    script = ROOT / "tests" / "helpers" / "fsdp_on_cpu.py"
    done = subprocess.run(
        [python or warm_python(), *launcher, str(script), *words[:-1]],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def runs(
    configs: dict[str, ClassifierConfig],
    manifest: Manifest,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Runs]:
    folder = tmp_path_factory.mktemp("fsdp")
    log = launch({folder / member: config for member, config in configs.items()})
    found = {}
    for member, config in configs.items():
        load_member(config.member).train(config, manifest)
        found[member] = Runs(config, folder / member, log)
    return found


@pytest.mark.parametrize("member", MEMBERS)
def test_two_processes_with_split_weights_train_what_one_does(
    runs: dict[str, Runs], member: str
) -> None:
    ours, theirs = runs[member].alone, runs[member].shared
    assert len(losses(ours)) == 6
    # One bit of bf16 is 0.4 % of one row's logit.
    noise = 10 if MEMBERS[member][-1] == "training.bf16=true" else 1
    assert losses(theirs) == pytest.approx(losses(ours), rel=noise * 1e-4)
    has_loss = member != "gen-ser-whisper-noisy"
    for column in ["eval_macro_f1", *["eval_loss"] * has_loss]:
        assert len(losses(ours, column)) == 3
        found = losses(theirs, column)
        assert found == pytest.approx(losses(ours, column), rel=noise * 1e-4)
    for name in CHECKPOINTS:
        names = {file.name for file in (ours / name).rglob("*")} - {"rng_state.pth"}
        files = {file.name for file in (theirs / name).rglob("*")}
        assert {file for file in files if not file.startswith("rng_state_")} == names
        assert largest_difference(theirs / name, ours / name) < noise * 1e-5
    assert ("adapter_model.safetensors" in files) == ("lora.dropout=0" in MEMBERS[member])


def test_layers_are_split_one_by_one_without_a_name_in_the_launch_file(
    runs: dict[str, Runs],
) -> None:
    split = [line.split()[1:] for line in runs["wavlm"].log.splitlines() if "split:" in line]
    heard = ["FSDPBlip2QFormerLayer", "FSDPEmotionClassifier", "FSDPLlamaDecoderLayer"]
    assert split[0] == [
        "FSDPEmotionClassifier",
        "FSDPWavLMEncoderLayerStableLayerNorm",
        "FSDPWavLMLayerNormConvLayer",
    ]
    assert set(heard) < set(split[2])
    assert "FSDPWhisperEncoderLayer" in split[2]
    assert split[4] == ["FSDPEmotionClassifier", "FSDPLlamaDecoderLayer"]
    assert split[6] == ["FSDPEmotionClassifier"]  # each process has its own number of groups


def test_each_kind_of_launch_goes_on_where_another_was_killed(
    runs: dict[str, Runs], manifest: Manifest, tmp_path: Path
) -> None:
    s1, s2, t2, *_ = (runs[member] for member in MEMBERS)
    from_shared = cut(s1.shared, tmp_path / "wavlm")
    from_alone = cut(t2.alone, tmp_path / "llama")
    before = (from_alone / "checkpoint-2" / "optimizer.pt").stat().st_mtime_ns
    # With the interpreter itself: other launches by accelerate save its imports.
    launch({from_shared: s1.config, from_alone: t2.config}, python=sys.executable)
    alone = cut(s2.shared, tmp_path / "salmonn")
    config = s2.config.model_copy(update={"run_dir": alone})
    load_member(config.member).train(config, manifest)
    for run, undisturbed in ((from_shared, s1), (from_alone, t2), (alone, s2)):
        for name in CHECKPOINTS:
            assert largest_difference(run / name, undisturbed.alone / name) < 1e-5
    assert (from_alone / "checkpoint-2" / "optimizer.pt").stat().st_mtime_ns == before


@pytest.mark.parametrize("member", MEMBERS)
def test_one_process_predicts_from_what_two_trained(
    runs: dict[str, Runs], manifest: Manifest, tmp_path: Path, member: str
) -> None:
    tables = [
        load_member(runs[member].config.member).predict(
            run, PredictRequest(manifest=manifest, selection=("development",), out=tmp_path / name)
        )
        for run, name in ((runs[member].alone, "a.parquet"), (runs[member].shared, "b.parquet"))
    ]
    ours, theirs = (table.probs for table in tables)
    assert np.isfinite(ours).all()
    assert np.abs(theirs - ours).max() < 1e-4
