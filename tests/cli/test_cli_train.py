from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import make_manifest, write_manifest
from abhinaya.demo.checkpoints.encoders import write_wavlm

RunCli = Callable[..., Any]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen clips of noise to train on, eight for validation, and a tiny WavLM."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    rows = []
    for idx in range(24):
        name = f"clip{idx:02d}.wav"
        soundfile.write(folder / name, rng.normal(0, 0.1, 4000), 16000)
        split = "train" if idx < 16 else "development"
        label = MSP_PODCAST.codes[idx % 8]
        rows.append({"utterance": name, "audio": name, "split": split, "label": label})
    write_manifest(make_manifest(rows, MSP_PODCAST, folder), folder / "manifest.parquet")
    write_wavlm(folder / "wavlm", n_layers=1, n_features=16, n_conv_features=8)
    return folder


@pytest.fixture
def config(corpus: Path, tmp_path: Path) -> Path:
    content = {
        "member": "wavlm",
        "name": "tiny",
        "run_dir": str(tmp_path / "run"),
        "seed": 1,
        "data": {"manifest": str(corpus / "manifest.parquet")},
        "base": str(corpus / "wavlm"),
        "pooling": "mean",
        "head": {"hidden": 4},
        "training": {"global_batch_size": 8, "num_train_epochs": 2, "use_cpu": True},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_train_prints_where_the_best_is_and_how_good(run_cli: RunCli, config: Path) -> None:
    result = run_cli("train", config)
    assert result.code == 0, result.err
    best = config.parent / "run" / "best"
    title, header, row = result.out.splitlines()
    assert title == str(best)
    assert header.split() == ["run", "macro-F1", "best", "step", "steps"]
    metrics = json.loads((best / "metrics.json").read_text())
    # 16 clips in batches of 8, twice.
    assert row.split() == ["tiny", f"{metrics['macro_f1']:.4f}", str(metrics["step"]), "4"]


def test_train_json_and_overrides(run_cli: RunCli, config: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    changes = (f"run_dir={other}", "name=other", "data.validation=null", "training.max_steps=1")
    result = run_cli("train", config, *changes, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out) == [
        {"run": "other", "macro-F1": None, "best step": 1, "steps": 1}
    ]
    assert yaml.safe_load((other / "config.yaml").read_text())["training"]["max_steps"] == 1
    assert not (tmp_path / "run").exists()


def test_train_of_a_finished_run_prints_the_same_again(run_cli: RunCli, config: Path) -> None:
    first = run_cli("train", config, "training.max_steps=1")
    again = run_cli("train", config, "training.max_steps=1")
    assert again.code == 0
    assert again.out == first.out


def test_train_wrong_config_exits_1_with_all_problems(run_cli: RunCli, config: Path) -> None:
    result = run_cli("train", config, "head.dropuot=0.1", "training.learning_rat=1", "seed=-1")
    assert result.code == 1
    assert result.out == ""
    assert f"Error: 3 problems in {config}: " in result.err
    assert "head.dropuot is unknown, did you mean head.dropout?" in result.err
    assert "learning_rat is unknown to TrainingArguments. Did you mean 'learning_rate'?" in (
        result.err
    )
    assert "seed is -1, expected greater than or equal to 0" in result.err
    assert not (config.parent / "run").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.manifest=absent.parquet", "There is no manifest 'absent.parquet'. Make one with"),
        ("data.audio_root=absent", "The audio root 'absent' is not a folder"),
        ("data.train=trian", "Unknown split or subset 'trian'. Did you mean 'train'?"),
        ("base=absent", "base 'absent' cannot be loaded"),
        ("training.per_device_train_batch_size=3", "Choose one of 1, 2, 4, 8."),
        ("member=wavlmm", "Unknown member 'wavlmm'. Did you mean 'wavlm'?"),
        ("novalue", "the override 'novalue' is not of the form some.key=value"),
    ],
)
def test_train_wrong_input_exits_1_with_a_message(
    run_cli: RunCli, config: Path, override: str, message: str
) -> None:
    result = run_cli("train", config, override)
    assert result.code == 1
    assert result.err.count("Error: ") == 1
    assert message in result.err


def test_train_absent_config_exits_1_with_the_shipped_ones(run_cli: RunCli) -> None:
    result = run_cli("train", "members/wavlmm.yaml")
    assert result.code == 1
    assert "Did you mean 'members/wavlm.yaml'?" in result.err


def test_train_without_config_exits_2(run_cli: RunCli) -> None:
    assert run_cli("train").code == 2
