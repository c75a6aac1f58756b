"""Two processes that share one copy of the weights (FSDP2) train what one process does.

There is no GPU here: `fsdp_on_cpu.py` says what is stood in, and what is the real thing.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from member_recipes import RECIPES, make_config
from safetensors.torch import load_file

from abhinaya.config import apply_overrides, dump_yaml
from abhinaya.data.manifest import Manifest
from abhinaya.member import PredictRequest
from abhinaya.member_config import check_member_config
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.registry import load_member

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

# Six steps, the sixth in the second epoch; an Adam that does not blow up the noise of gradients
# that are nearly zero. The norm of the gradients is cut, as by default. Two rows at once, each with
# the same neighbour whatever the launch, so that even bf16 rounds alike.
SETTINGS = (
    "head.dropout=0",
    "audio.max_audio_s=0.5",
    "inference.batch_size=1",
    "training.per_device_train_batch_size=2",
    "training.max_steps=6",
    "training.save_steps=2",
    "training.logging_strategy=steps",
    "training.logging_steps=1",
    "training.adam_epsilon=0.001",
)
MEMBERS = {
    "wavlm": ("spec_augment=false",),
    "salmonn-13b": ("lora.dropout=0",),
    "llama-8b-lora": (
        "lora.dropout=0",
        "weights=bf16",
        "training.bf16=true",
        "training.activation_checkpointing=true",
    ),
}
CHECKPOINTS = ("checkpoint-2", "checkpoint-4", "checkpoint-6", "best")


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


def losses(run: Path, column: str = "loss") -> list[float]:
    with (run / "log.csv").open(newline="", encoding="utf-8") as file:
        return [float(row[column]) for row in csv.DictReader(file) if row[column]]


def largest_difference(ours: Path, theirs: Path) -> float:
    """Over all weights of one checkpoint, the adapter beside them included."""
    files = sorted(file.relative_to(theirs) for file in theirs.rglob("*.safetensors"))
    pairs = [(load_file(ours / file), load_file(theirs / file)) for file in files]
    assert all(mine.keys() == yours.keys() for mine, yours in pairs)
    return max(float((a[key] - b[key]).abs().max()) for a, b in pairs for key in a)


def write_config(member: str, folder: Path, manifest_file: Path) -> dict[str, Any]:
    """The content of a member's config; nothing of the member is random in training."""
    config = make_config(RECIPES[member], folder, manifest_file)
    content: dict[str, Any] = config.model_dump(mode="json", exclude_unset=True)
    if member == "wavlm":
        file = folder / "base" / "config.json"
        encoder = json.loads(file.read_text())
        encoder |= {key: 0.0 for key in encoder if "drop" in key}
        file.write_text(json.dumps(encoder))
    if member == "salmonn-13b":
        (folder / "bert").mkdir()
        still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        (folder / "bert" / "config.json").write_text(json.dumps(still))
        content["qformer"] = str(folder / "bert")
    if member == "llama-8b-lora":
        content["data"]["transcripts"] = {"train": "human", "predict": "human"}
    return apply_overrides(content, [*SETTINGS, *MEMBERS[member]])


def launch(configs: dict[Path, ClassifierConfig]) -> str:
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
        [sys.executable, *launcher, str(script), *words[:-1]],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def configs(
    manifest_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ClassifierConfig]:
    """The config of each member; `run_dir` is the run of one process."""
    found = {}
    for member in MEMBERS:
        content = write_config(member, tmp_path_factory.mktemp(member), manifest_file)
        config = check_member_config(content, member)
        assert isinstance(config, ClassifierConfig)
        found[member] = config
    return found


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
        load_member(member).train(config, manifest)
        found[member] = Runs(config, folder / member, log)
    return found


def cut(run: Path, into: Path) -> Path:
    """Copy a run as a kill after its second step leaves it."""
    shutil.copytree(run, into)
    for name in CHECKPOINTS[1:]:
        shutil.rmtree(into / name)
    return into


@pytest.mark.parametrize("member", MEMBERS)
def test_two_processes_with_split_weights_train_what_one_does(
    runs: dict[str, Runs], member: str
) -> None:
    ours, theirs = runs[member].alone, runs[member].shared
    assert len(losses(ours)) == 6
    # One bit of bf16 is 0.4 % of one row's logit.
    noise = 1e-3 if member == "llama-8b-lora" else 1e-4
    assert losses(theirs) == pytest.approx(losses(ours), rel=noise)
    validation = losses(ours, "eval_loss")
    assert len(validation) == 3
    assert losses(theirs, "eval_loss") == pytest.approx(validation, rel=noise)
    assert losses(theirs, "eval_macro_f1") == losses(ours, "eval_macro_f1")
    for name in CHECKPOINTS:
        names = {file.name for file in (ours / name).rglob("*")} - {"rng_state.pth"}
        found = {file.name for file in (theirs / name).rglob("*")}
        assert {file for file in found if not file.startswith("rng_state_")} == names
        assert largest_difference(theirs / name, ours / name) < 1e-5
    assert (theirs / "best" / "adapter").is_dir() == (member != "wavlm")


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


def test_each_kind_of_launch_goes_on_where_another_was_killed(
    runs: dict[str, Runs], manifest: Manifest, tmp_path: Path
) -> None:
    s1, s2, t2 = (runs[member] for member in MEMBERS)
    from_shared = cut(s1.shared, tmp_path / "wavlm")
    from_alone = cut(t2.alone, tmp_path / "llama")
    before = (from_alone / "checkpoint-2" / "optimizer.pt").stat().st_mtime_ns
    launch({from_shared: s1.config, from_alone: t2.config})
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
        load_member(member).predict(
            run, PredictRequest(manifest=manifest, selection=("development",), out=tmp_path / name)
        )
        for run, name in ((runs[member].alone, "a.parquet"), (runs[member].shared, "b.parquet"))
    ]
    ours, theirs = (table.probs for table in tables)
    assert np.isfinite(ours).all()
    assert np.abs(theirs - ours).max() < 1e-5
