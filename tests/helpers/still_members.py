"""Members whose training has nothing random, for launches that must train what one process does."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from member_recipes import RECIPES, make_config
from safetensors.torch import load_file

from abhinaya.config import apply_overrides
from abhinaya.member_config import check_member_config
from abhinaya.nn.classifier_config import ClassifierConfig

__all__ = ["CHECKPOINTS", "MEMBERS", "configs", "cut", "largest_difference", "losses"]

# Six steps, the sixth in the second epoch; an Adam that does not blow up the noise of gradients
# that are nearly zero. The norm of the gradients is cut, as by default. Two rows at once, each with
# the same neighbour whatever the launch, so that even bf16 rounds alike.
SETTINGS = (
    "audio.max_audio_s=0.5",
    "inference.batch_size=1",
    "training.per_device_train_batch_size=2",
    "training.max_steps=6",
    "training.save_steps=2",
    "training.logging_strategy=steps",
    "training.logging_steps=1",
    "training.adam_epsilon=0.001",
)
# By recipe. Clips of DistilHuBERT run in groups of equal length, more of them in one process than
# in the other; the temperature of Gen-SER is fitted after training.
MEMBERS = {
    "wavlm": (
        "head.dropout=0",
        "spec_augment=false",
        # The concordance of two rows, which are the same two whatever the launch.
        "attributes={arousal: 0.3, dominance: 0.3, gender: 0.3}",
    ),
    "salmonn-13b": ("head.dropout=0", "lora.dropout=0"),
    "llama-8b-lora": (
        "head.dropout=0",
        "lora.dropout=0",
        "training.activation_checkpointing=true",
    ),
    "distilhubert": ("head.dropout=0", "spec_augment=false"),
    "gen-ser-whisper-noisy": ("estimator.dropout=0",),
    "llama-8b-lora-bare": (
        "head.dropout=0",
        "lora.dropout=0",
        "weights=bf16",
        "training.bf16=true",
    ),
    "fusion-tuned": ("head.dropout=0", "legs.dropout=0"),
}
CHECKPOINTS = ("checkpoint-2", "checkpoint-4", "checkpoint-6", "best")


@pytest.fixture(scope="session")
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
    if member in ("wavlm", "distilhubert", "fusion-tuned"):
        for file in (folder / "base").rglob("config.json"):
            encoder = json.loads(file.read_text())
            encoder |= {key: 0.0 for key in encoder if "drop" in key}
            file.write_text(json.dumps(encoder))
    if member == "salmonn-13b":
        (folder / "bert").mkdir()
        still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        (folder / "bert" / "config.json").write_text(json.dumps(still))
        content["qformer"] = str(folder / "bert")
    if member.startswith(("llama", "fusion")):
        content["data"]["transcripts"] = {"train": "human", "predict": "human"}
    return apply_overrides(content, [*SETTINGS, *MEMBERS[member]])


def cut(run: Path, into: Path) -> Path:
    """Copy a run as a kill after its second step leaves it."""
    shutil.copytree(run, into)
    for name in CHECKPOINTS[1:]:
        shutil.rmtree(into / name)
    return into
