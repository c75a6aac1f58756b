"""The checkpoints that one training left, averaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from abhinaya.data.manifest import Manifest
from abhinaya.errors import BadValueError
from abhinaya.evaluation.scoring import read_truth, score_table
from abhinaya.member import PredictRequest
from abhinaya.nn.checkpoint import read_info
from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.pipeline.stages.soup import run_soup
from abhinaya.registry import load_member
from abhinaya.training.soup import read_checkpoints

Train = Callable[..., Path]
# Adaptive focal loss leaves tensors of the loss in its checkpoints, which a model does not have.
ALL = ("training.save_total_limit=9", "training.num_train_epochs=3", "loss.name=adaptive-focal")


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_average(out: Path, parts: list[Path]) -> None:
    ours, states = weights_of(out / "best"), [weights_of(part) for part in parts]
    assert any(not torch.equal(states[0][name], states[-1][name]) for name in ours)
    for name, value in ours.items():
        mean = torch.stack([state[name].double() for state in states]).mean(dim=0)
        torch.testing.assert_close(value, mean.to(value.dtype))


@pytest.mark.parametrize(("number", "steps"), [("all", [5, 10, 15]), (2, [10, 15])])
def test_checkpoints_of_one_run_become_a_run_that_predicts(
    trained: Train, manifest: Manifest, tmp_path: Path, number: Any, steps: list[int]
) -> None:
    run, out = trained(*ALL), tmp_path / "mix"
    report = run_soup([run], out, checkpoints=number)
    assert report is not None
    assert report.title == f"soup of {len(steps)} of {len(steps)} checkpoints"
    folders = [run / f"checkpoint-{step}" for step in steps]
    assert [row[0] for row in report.rows] == [*map(str, folders), str(out)]
    assert_average(out, folders)
    assert weights_of(out / "best").keys() == weights_of(run / "best").keys()
    info, before = read_info(out / "best"), read_info(run / "best")
    assert [part["run"] for part in info.facts["soup"]] == [str(folder) for folder in folders]
    for key in ("absorbed_prior", "class_counts", "training_rows"):
        assert info.facts[key] == before.facts[key]
    request = PredictRequest(manifest, ("development",), tmp_path / "table.parquet")
    assert load_member("wavlm").predict(out, request).name == "mix"
    assert run_soup([run], out, checkpoints=number) is None  # it is there


@pytest.mark.slow
def test_best_checkpoints_are_chosen_greedily(
    trained: Train, manifest: Manifest, manifest_file: Path, tmp_path: Path
) -> None:
    run, truth = trained(*ALL), read_truth(manifest_file)
    scored = {"manifest": manifest_file, "select": ["development"]}
    report = run_soup([run], tmp_path / "mix", checkpoints="all", **scored)
    assert report is not None
    *rows, last = report.rows
    with (run / "log.csv").open() as file:
        header, *lines = (line.rstrip("\n").split(",") for line in file)
    found = [line[header.index("eval_macro_f1")] for line in lines]
    assert [row[2] for row in rows] == pytest.approx([float(each) for each in found if each])
    request = PredictRequest(manifest, ("development",), tmp_path / "table.parquet")
    table = load_member("wavlm").predict(tmp_path / "mix", request)
    assert score_table(table, truth, n_resamples=1).scores.macro_f1 == last[2]
    chosen = [Path(str(row[0])) for row in rows if row[1]]
    if len(chosen) > 1:
        assert_average(tmp_path / "mix", chosen)


@pytest.mark.slow
def test_adapter_of_averaged_checkpoints_is_the_average(
    train: Train, whisper: str, tmp_path: Path
) -> None:
    lora = (
        "member=whisper-encoder",
        f"base={whisper}",
        "lora.rank=2",
        "training.save_total_limit=9",
    )
    run = train(*lora)
    assert run_soup([run], tmp_path / "mix", checkpoints="all") is not None
    assert_average(tmp_path / "mix", [run / "checkpoint-5", run / "checkpoint-10"])
    adapter = load_file(tmp_path / "mix" / "best" / "adapter" / "adapter_model.safetensors")
    state = weights_of(tmp_path / "mix" / "best")
    own = {name: value for name, value in state.items() if "lora_" in name}
    assert len(own) == len(adapter) > 0
    numbers = [sorted(float(value.sum()) for value in each.values()) for each in (own, adapter)]
    assert numbers[0] == pytest.approx(numbers[1])
    assert (tmp_path / "mix" / "best" / "adapter" / "adapter_config.json").is_file()


def test_checkpoints_that_cannot_be_averaged_raise(
    trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(*ALL)
    with pytest.raises(BadValueError, match=r"holds 3 checkpoints, and 4 or more .*save_total_lim"):
        run_soup([run], tmp_path / "mix", checkpoints=4)
    monkeypatch.setattr(EmotionClassifier, "calibrates", True)
    with pytest.raises(BadValueError, match=r"'wavlm' sets a temperature after .* Average runs"):
        run_soup([run], tmp_path / "mix", checkpoints="all")
    assert not (tmp_path / "mix" / "best").exists()


@pytest.mark.slow
def test_checkpoints_of_two_stages_do_not_mix(train: Train, tmp_path: Path) -> None:
    second = ("balance.second_stage.from_epoch=1", "balance.second_stage.learning_rate=0.001")
    run = train(*second, "training.save_total_limit=9", "training.num_train_epochs=3")
    with pytest.raises(BadValueError, match=r"checkpoint-5' and .* are of different stages of the"):
        read_checkpoints(run)
    assert run_soup([run], tmp_path / "mix", checkpoints=2) is not None
    facts = json.loads((tmp_path / "mix" / "best" / "facts.json").read_text())
    shares = np.array(facts["class_counts"]) / 34
    # Whichever stage the best one was of, these two are of the second.
    assert facts["absorbed_prior"] == pytest.approx(shares.tolist())
